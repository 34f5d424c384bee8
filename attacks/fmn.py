"""FMN, fast minimum-norm attack: Pintor et al. 2021, https://arxiv.org/abs/2102.12827, algorithm 1, in Linf.

Steps up the margin inside a ball around the image whose radius is fitted: until an image fools for the first time it
is the distance at which the linearised margin would be gone; then it shrinks after a success, and grows after a
failure. Steps and shares fall as cosines.

Differs: an image counts as fooled where no rounding could undo it, and the closest one is confirmed by the model
itself; a flat gradient is replaced by a random direction; the last iterate is judged too. The paper has it in L2, L1
and L0 too, where `attacks.fab` and `attacks.sigma_zero` come closer (docs/attacks.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.closest import Closest, falling, search_budget, search_correct
from attacks.contract import Budget, ThreatModel
from attacks.ddn import direction
from attacks.losses import margin
from attacks.noise import Noise
from attacks.norms import TINY, per_image
from attacks.target import Target

STEPS, SHARES = (1.0, 0.01), (0.05, 0.001)  # alpha and gamma, first and last, as in the paper


@dataclass(frozen=True)
class FMN:
    """Minimal-norm attack in Linf.

    threat: Linf; the attack does not use eps, the verdict is read there. steps: K, each one gradient. Raises
    ValueError.
    """

    closest: ClassVar[bool] = True
    threat: ThreatModel
    steps: int = 500
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm != "Linf":
            raise ValueError(f"FMN works in Linf, not in {self.threat.norm}")
        if self.steps < 1:
            raise ValueError(f"FMN needs steps >= 1; got steps = {self.steps}")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return search_budget(self.steps + 1, self.steps, 0, classes)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        return search_correct(self._search, 0, target, x, y, noise, "Linf")

    def _search(self, target: Target, found: Closest, y: Tensor, noise: Noise) -> None:
        x, x_adv, place = found.x, found.x.clone(), torch.arange(len(y), device=y.device)
        radius = torch.zeros_like(found.distance)
        for step in range(self.steps):
            length, share = (falling(*ends, step, self.steps) for ends in (STEPS, SHARES))
            for rows, value, grad, logits in target.gradients(x_adv, y, margin):
                fooled = found.offer(target[rows], place[rows], x_adv[rows], y[rows], logits)
                delta, least = x_adv[rows] - x[rows], found.distance[rows]
                away = found.length(delta.flatten(1)) - value / grad.flatten(1).abs().sum(1).clamp_min(TINY)
                missed = torch.where(torch.isinf(least), away, radius[rows] * (1 + share))
                radius[rows] = torch.where(fooled, (radius[rows] * (1 - share)).minimum(least), missed)
                bound = per_image(radius[rows], delta)
                delta = delta + length * direction(grad, noise[rows].fork("direction", step))
                x_adv[rows] = (x[rows] + delta.clamp(-bound, bound)).clamp_(0, 1)
        found.offer(target, place, x_adv, y, target.logits(x_adv))
