"""The unit in which an attack sees logits: one power of two an image, 1 for networks of ordinary scale.

Multiplying all logits by a positive number changes no label, but float32 cannot take it: cross-entropy is flat where
they are a thousand times larger and knows no favourite class where they are a thousand times smaller, squares of
gradients overflow at 1e20 and vanish at 1e-24. An attack that only stalls makes a network look robust. A power of two
rounds nothing, and one an image, kept for all its passes, leaves every comparison of losses in order.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Logits of an image are ordinary where the largest is at least LOW in size and they span at most HIGH. Those of
# untrained networks span 0.08 to 0.4, of trained ones 1 to 50; on a boundary of two classes they span nothing.
LOW, ORDINARY, HIGH = 2.0**-4, 16.0, 64.0
EXPONENT = 126  # of the smallest normal float32


class Scales:
    """The factors of `images` images, each found in its first pass."""

    def __init__(self, images: int) -> None:
        self.factors = torch.zeros(images, dtype=torch.float64)  # 0: not found yet

    def show(self, logits: Tensor, images: Tensor) -> Tensor:
        """logits [b, K] of these images ([b] int64) -> what an attack sees; the same tensor where all factors are 1.

        An image whose factor is above 1 may have had small logits only where it was found. So where it later spans more
        than HIGH the factor falls, or the loss would vanish there.
        """
        factors = self.factors[images]
        if (factors == 1).all():
            return logits
        fresh, span = (found.cpu() for found in (ordinary_factors(logits.detach()), spans(logits.detach())))
        factors = torch.where(factors == 0, fresh, factors)
        factors = torch.where((factors > 1) & (factors * span > HIGH), _power(span).clamp_min(1), factors)
        self.factors[images] = factors
        return logits if (factors == 1).all() else logits * factors.to(logits)[:, None]


def spans(logits: Tensor) -> Tensor:
    """logits [N, K] -> [N] float64: the largest minus the smallest."""
    return logits.double().amax(1) - logits.double().amin(1)


def ordinary_factors(logits: Tensor) -> Tensor:
    """logits [N, K] -> [N] float64: the power of two that takes them next to ORDINARY; 1 where they are ordinary, all 0
    or not finite.
    """
    span, size = spans(logits), logits.double().abs().amax(1)
    large, small = (span > HIGH) & torch.isfinite(span), (size > 0) & (size < LOW)
    return torch.where(large, _power(span), torch.where(small, _power(size), 1.0))


def _power(size: Tensor) -> Tensor:
    return torch.exp2((ORDINARY / size).log2().round().clamp(-EXPONENT, EXPONENT))
