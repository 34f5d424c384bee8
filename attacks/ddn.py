"""DDN, decoupled direction and norm: the closest fooling image in L2, by steps on spheres that grow and shrink.

Rony et al. 2019, https://arxiv.org/abs/1811.09600, algorithm 1, with the cosine of steps from 1 to 0.01.

Differs: the gradient is that of log((1 - p_y) / p_y), which points where that of the cross-entropy does and does not
vanish in float32 on confident models; the sphere never passes the farthest corner of [0, 1]; the last iterate is
judged too; and the closest image is refined at the end (`attacks.closest`; `refine = 0` is the paper's answer).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.closest import Closest, falling, search_budget, search_correct
from attacks.contract import Budget, ThreatModel
from attacks.losses import log_odds
from attacks.noise import Noise
from attacks.norms import TINY, per_image
from attacks.target import Target

FIRST_STEP, LAST_STEP = 1.0, 0.01


@dataclass(frozen=True)
class DDN:
    """Minimal-norm attack in L2: a step up the loss, then onto a sphere around x whose radius is fitted.

    threat: L2; the attack does not use eps, the verdict is read there. steps: K, each one gradient. gamma: share by
    which the radius grows after an image that does not fool and shrinks after one that does, in (0, 1). radius: the
    first one, in image units. levels: 0 leaves images as they are; 256 rounds every iterate to 8-bit values, as the
    source does (then nothing is refined). refine: steps of the last refinement at most. Raises ValueError.
    """

    closest: ClassVar[bool] = True
    threat: ThreatModel
    steps: int = 100
    gamma: float = 0.05
    radius: float = 1.0
    levels: int = 0
    refine: int = 5
    version: int = 2

    def __post_init__(self) -> None:
        if self.threat.norm != "L2":
            raise ValueError(f"DDN works in L2, not in {self.threat.norm}")
        if self.steps < 1 or not 0 < self.gamma < 1 or not self.radius > 0 or self.refine < 0:
            raise ValueError(
                "DDN needs steps >= 1, 0 < gamma < 1, radius > 0, refine >= 0; got "
                f"steps = {self.steps}, gamma = {self.gamma:g}, radius = {self.radius:g}, refine = {self.refine}"
            )
        if self.levels < 0 or self.levels == 1:
            raise ValueError(f"levels must be 0 (no rounding) or at least 2, such as 256; got {self.levels}")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return search_budget(self.steps + 1, self.steps, 0 if self.levels else self.refine, classes)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        return search_correct(self._search, 0 if self.levels else self.refine, target, x, y, noise)

    def _search(self, target: Target, found: Closest, y: Tensor, noise: Noise) -> None:
        x, x_adv = found.x, found.x.clone()
        place = torch.arange(len(x), device=x.device)
        radius = torch.full_like(found.distance, self.radius)
        farthest = torch.maximum(x, 1 - x).flatten(1).norm(dim=1)
        for step in range(self.steps):
            length = falling(FIRST_STEP, LAST_STEP, step, self.steps)
            for rows, _, grad, logits in target.gradients(x_adv, y, log_odds):
                fooled = found.offer(target[rows], place[rows], x_adv[rows], y[rows], logits)
                fitted = torch.where(fooled, radius[rows] * (1 - self.gamma), radius[rows] * (1 + self.gamma))
                radius[rows] = fitted.minimum(farthest[rows])
                delta = x_adv[rows] - x[rows] + length * direction(grad, noise[rows].fork("direction", step))
                x_adv[rows] = self._round(x[rows] + resized(delta, radius[rows])).clamp_(0, 1)
        found.offer(target, place, x_adv, y, target.logits(x_adv))

    def _round(self, images: Tensor) -> Tensor:
        return (images * (self.levels - 1)).round_().div_(self.levels - 1) if self.levels else images


def resized(delta: Tensor, length: Tensor) -> Tensor:
    """delta [N, ...] at the L2 length [N]; 0 stays 0."""
    return delta * per_image(length / delta.flatten(1).norm(dim=1).clamp_min(TINY), delta)


def direction(grad: Tensor, noise: Noise) -> Tensor:
    """The gradient at L2 length 1, image by image; a random direction where it is 0."""
    flat = (grad.flatten(1) == 0).all(1)
    if flat.any():
        grad[flat] = noise[flat].normal(*grad.shape[1:]).to(grad)
    return resized(grad, torch.ones_like(grad[:, 0, 0, 0]))
