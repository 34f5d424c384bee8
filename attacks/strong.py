"""An ensemble of our own that finds what AutoAttack finds in a fraction of its passes: each part on what still stands.

The parts were chosen by measurement, see docs/attacks.md. What it misses is for an audit to say, `bench.judge.audit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from attacks.a3 import A3
from attacks.adapters.autoattack import PyAutoAttack
from attacks.apgd import APGD
from attacks.autoattack import AutoAttack, worst_case
from attacks.contract import Attack, Budget, ThreatModel, in_turn
from attacks.noise import Noise
from attacks.pgd import PGD
from attacks.target import Target

TARGETS = 3


@dataclass(frozen=True)
class Strong:
    """The ensemble in Linf, L2 or L1, nothing to tune.

    audit: of how many images that stand the judge asks whether `auditor` breaks them, see `bench.judge.audit`; the
    attack itself does not ask, as no image may see another. auditor: in L1 always the authors' code. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    audit: int = 300
    auditor: Literal["autoattack", "pyautoattack"] = "autoattack"
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm not in ("Linf", "L2", "L1"):
            raise ValueError(f"this ensemble works in Linf, L2 and L1, not in {self.threat.norm}")
        if self.audit < 0:
            raise ValueError(f"audit is a number of images, 0 for none; got {self.audit}")

    @property
    def parts(self) -> tuple[Attack, ...]:
        """Its attacks in their order."""
        if self.threat.norm == "L1":
            return (APGD(self.threat), APGD(self.threat, targets=TARGETS, order="auto"))
        falling = PGD(self.threat, 100, self.threat.eps, step_schedule="cosine", targets=TARGETS, order="auto")
        return (falling, APGD(self.threat, targets=TARGETS, order="auto"), A3(self.threat))

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`; without the audit, which is the judge's."""
        return in_turn(self.parts, classes)

    @property
    def audited_by(self) -> Attack:
        """The auditor in the same threat model."""
        ours = self.auditor == "autoattack" and self.threat.norm != "L1"
        return AutoAttack(self.threat) if ours else PyAutoAttack(self.threat)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        return worst_case(self.parts, target, x, y, noise)
