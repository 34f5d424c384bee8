"""PMA, probability margin attack: Xie et al. 2025, https://arxiv.org/abs/2411.15210, in Linf and L2.

Ascends max_{k != y} p_k - p_y in runs whose first half climbs one of the two terms alone, so that the runs reach
different parts of the ball: -p_y in one, max p_k in the other. Steps fall from eps to 0 along a cosine.

Differs from the paper, whose released code does not run: an image leaves at its first success, its start is its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from attacks.contract import Budget, ThreatModel
from attacks.losses import Loss, likeliest_wrong, minus_true, probability_margin
from attacks.noise import Noise
from attacks.pgd import PGD, ascend, judge_last
from attacks.survivors import on_survivors
from attacks.target import Target

TERMS = (minus_true, likeliest_wrong)


@dataclass(frozen=True)
class PMA:
    """PMA, nothing to tune.

    steps: gradients of a run. restarts: pairs of runs, each on the images that still stand. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    steps: int = 100
    restarts: int = 1
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm not in ("Linf", "L2"):
            raise ValueError(f"PMA works in Linf and L2, not in {self.threat.norm}")
        if self.steps < 2 or self.restarts < 1:
            raise ValueError(
                f"PMA needs steps >= 2 and restarts >= 1; got steps = {self.steps}, restarts = {self.restarts}"
            )

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        runs = self.restarts * len(TERMS)
        return Budget(runs * (self.steps + 1), runs * self.steps)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        runs = [partial(self._run, restart, term) for restart in range(self.restarts) for term in TERMS]
        return on_survivors(runs, target, x, y, noise)

    def _run(
        self, restart: int, term: Loss, target: Target, x: Tensor, y: Tensor, noise: Noise, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One run: a trial of `on_survivors`."""
        pgd = PGD(self.threat, self.steps, self.threat.eps, step_schedule="cosine")
        stream = noise.fork("restart", restart, TERMS.index(term))
        found, fooled = ascend(pgd, target, x, y, (term, probability_margin), y, stream)
        judge_last(target, found, y, fooled)
        return found, fooled
