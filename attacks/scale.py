"""The unit in which an attack sees logits: one power of two an image, 1 for networks of ordinary scale.

Multiplying all logits by a positive number changes no label, but float32 cannot take it: cross-entropy is flat where
they are a thousand times larger and knows no favourite class where they are a thousand times smaller, squares of
gradients overflow at 1e20 and vanish at 1e-24. An attack that only stalls makes a network look robust. A power of two
rounds nothing, and one an image, kept for all its passes, leaves every comparison of losses in order.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Largest minus smallest logit of an image. Untrained networks have 0.08 to 0.4, trained ones 1 to 50.
LOW, ORDINARY, HIGH = 2.0**-4, 16.0, 64.0
EXPONENT = 126  # of the smallest normal float32


class Scales:
    """The factors of `images` images, each found in its first pass."""

    def __init__(self, images: int) -> None:
        self.factors = torch.zeros(images, dtype=torch.float64)  # 0: not found yet

    def show(self, logits: Tensor, images: Tensor) -> Tensor:
        """logits [b, K] of these images ([b] int64) -> what an attack sees; the same tensor where all factors are 1.

        An image whose factor is above 1 may only have lain between its classes where it was found, its logits nearly
        equal. So where it later shows more than HIGH the factor falls, or the loss would vanish there.
        """
        factors = self.factors[images]
        if (factors == 1).all():
            return logits
        spread = spreads(logits.detach()).cpu()
        factors = torch.where(factors == 0, ordinary_factors(spread), factors)
        factors = torch.where((factors > 1) & (factors * spread > HIGH), _power(spread).clamp_min(1), factors)
        self.factors[images] = factors
        return logits if (factors == 1).all() else logits * factors.to(logits)[:, None]


def spreads(logits: Tensor) -> Tensor:
    """logits [N, K] -> [N] float64: the largest minus the smallest."""
    return logits.double().amax(1) - logits.double().amin(1)


def ordinary_factors(spread: Tensor) -> Tensor:
    """spread [N] float64 -> the factor of each image; 1 between LOW and HIGH, and for 0, infinity and NaN."""
    strange = torch.isfinite(spread) & (spread > 0) & ((spread < LOW) | (spread > HIGH))
    return torch.where(strange, _power(spread), 1.0)


def _power(spread: Tensor) -> Tensor:
    """The power of two that takes it next to ORDINARY."""
    return torch.exp2((ORDINARY / spread).log2().round().clamp(-EXPONENT, EXPONENT))
