"""AutoAttack, standard version, from our own parts: Croce & Hein 2020, https://arxiv.org/abs/2003.01690, section 6.

APGD on the cross-entropy, targeted APGD, targeted FAB, Square: each on the images that stand. The authors' code is in
`attacks.adapters.autoattack`; the parts say where they differ from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from attacks.apgd import APGD
from attacks.contract import Attack, Budget, ThreatModel, in_turn
from attacks.fab import FAB
from attacks.noise import Noise
from attacks.norms import per_image
from attacks.square import Square
from attacks.survivors import on_survivors
from attacks.target import Target


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack in Linf or L2, nothing to tune.

    steps: of APGD and FAB. targets: wrong classes for the targeted parts. queries: of Square. The defaults are the
    standard version; with others it is not AutoAttack, and a table must say so. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    steps: int = 100
    targets: int = 9
    queries: int = 5000
    version: int = 2

    def __post_init__(self) -> None:
        if self.threat.norm not in ("Linf", "L2"):
            raise ValueError(
                f"our AutoAttack works in Linf and L2, not in {self.threat.norm}; attack = 'pyautoattack' knows L1"
            )
        _ = self.parts  # which refuse what they cannot use

    @property
    def parts(self) -> tuple[Attack, ...]:
        """The four attacks in their order."""
        return (
            APGD(self.threat, self.steps),
            APGD(self.threat, self.steps, targets=self.targets),
            FAB(self.threat, self.steps, self.targets),
            Square(self.threat, self.queries),
        )

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return in_turn(self.parts, classes)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        return worst_case(self.parts, target, x, y, noise)


def worst_case(parts: Sequence[Attack], target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
    """Every part on the images that no earlier one fooled within its threat model -> x_adv [N, C, H, W]."""
    return on_survivors([partial(_trial, place, part) for place, part in enumerate(parts)], target, x, y, noise)


def _trial(
    place: int, part: Attack, target: Target, x: Tensor, y: Tensor, noise: Noise, rows: Tensor
) -> tuple[Tensor, Tensor]:
    found = part(target, x, y, noise.fork("part", place))
    fooled = target.logits(found).argmax(1) != y
    legal = part.threat.contains(x, found)
    target.credit(place, fooled & legal)
    return torch.where(per_image(legal, x), found, x), fooled & legal
