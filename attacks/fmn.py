"""FMN, fast minimum-norm attack: Pintor et al. 2021, https://arxiv.org/abs/2102.12827, algorithm 1, in Linf.

Steps up the margin inside a ball around the image whose radius is fitted: until an image fools for the first time it
is the distance at which the linearised margin would be gone; then it shrinks after a success, and grows after a
failure. Steps and shares fall as cosines.

Differs: an image counts as fooled where no rounding could undo it, and the closest one is confirmed by the model
itself; a flat gradient is replaced by a random direction; the last iterate is judged too. The paper has it in L2, L1
and L0 too, where `attacks.fab` and `attacks.sigma_zero` come closer (docs/attacks.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.closest import rounding
from attacks.contract import Budget, ThreatModel
from attacks.ddn import resized
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
        return Budget(2 + self.steps, self.steps, leaves=False)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W], the closest fooling image found, or x."""
        target, x_adv = target.following(len(x)), x.clone()
        standing = (target.logits(x).argmax(1) == y).nonzero().squeeze(1)
        if len(standing):
            x_adv[standing] = self._search(target[standing], x[standing], y[standing], noise[standing])
        return x_adv

    def _search(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        best, least, x_adv = x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device), x.clone()
        radius = torch.zeros_like(least)

        def keep(rows: slice, y: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """The closest so far -> which images fool, their change and its length."""
            delta = x_adv[rows] - x[rows]
            fooled, size = margin(logits, y) > rounding(logits), delta.flatten(1).abs().amax(1)
            closer = target[rows].confirm(fooled & (size < least[rows]), x_adv[rows], y)
            best[rows] = torch.where(per_image(closer, delta), x_adv[rows], best[rows])
            least[rows] = torch.where(closer, size, least[rows])
            return fooled, delta, size

        for step in range(self.steps):
            length, share = (_falling(*ends, step / self.steps) for ends in (STEPS, SHARES))
            for rows, value, grad, logits in target.gradients(x_adv, y, margin):
                fooled, delta, size = keep(rows, y[rows], logits)
                away = size - value / grad.flatten(1).abs().sum(1).clamp_min(TINY)
                missed = torch.where(torch.isinf(least[rows]), away, radius[rows] * (1 + share))
                radius[rows] = torch.where(fooled, (radius[rows] * (1 - share)).minimum(least[rows]), missed)
                bound = per_image(radius[rows], delta)
                delta = delta + length * _unit(grad, noise[rows].fork("direction", step))
                x_adv[rows] = (x[rows] + delta.clamp(-bound, bound)).clamp_(0, 1)
        keep(slice(0, len(x)), y, target.logits(x_adv))
        return best


def _falling(first: float, last: float, share: float) -> float:
    """A cosine from first to last."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _unit(grad: Tensor, noise: Noise) -> Tensor:
    """The gradient at L2 length 1; a random direction where it is 0."""
    flat = (grad.flatten(1) == 0).all(1)
    if flat.any():
        grad[flat] = noise[flat].normal(*grad.shape[1:]).to(grad)
    return resized(grad, torch.ones_like(grad[:, 0, 0, 0]))
