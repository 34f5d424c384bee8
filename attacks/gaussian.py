"""Gaussian noise in an L2 ball, drawn again and again until a draw fools.

Table 5 of MAT lists it ("AGNA" in foolbox 1.8, which scales its noise twice; its closest heir in foolbox 3,
https://github.com/bethgelab/foolbox, is `L2ClippingAwareRepeatedAdditiveGaussianNoiseAttack`).

Clipping into [0, 1] shortens noise, so the noise is scaled until what is left of it has length eps: exactly, by filling
the pixels that reach their bound first. Differs from that code: an image leaves with its first success, and the ones
that no draw fools return the draw of largest margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attacks.contract import Budget, ThreatModel
from attacks.losses import margin
from attacks.noise import Noise
from attacks.norms import l2_ascent
from attacks.target import Target


@dataclass(frozen=True)
class GaussianNoise:
    """x + s n clipped into [0, 1], n normal, with the s that puts it on the sphere of radius eps, or in the farthest
    corner of the box if that is nearer.

    threat: L2, eps in image units. repeats: draws at most. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    repeats: int = 100
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm != "L2":
            raise ValueError(f"Gaussian noise is scaled to a radius in L2, not in {self.threat.norm}")
        if self.repeats < 1:
            raise ValueError(f"Gaussian noise needs repeats >= 1; got repeats = {self.repeats}")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(1 + self.repeats, 0)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W], the first draw that fools or the one of largest margin."""
        x_adv = x.clone()
        best = margin(target.logits(x), y)
        standing = (best <= 0).nonzero().squeeze(1)
        for repeat in range(self.repeats):
            if len(standing) == 0:
                break
            clean = x[standing]
            direction = noise[standing].fork("draw", repeat).normal(*x.shape[1:]).to(x)
            drawn = (clean + l2_ascent(direction, clean, self.threat.eps)).clamp(0, 1)
            reached = margin(target[standing].logits(drawn), y[standing])
            better = (repeat == 0) | (reached > best[standing])
            x_adv[standing[better]], best[standing[better]] = drawn[better], reached[better]
            standing = standing[reached <= 0]
        return x_adv
