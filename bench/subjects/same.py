"""When a copy of a network counts as the network: what rounding may do, and no more."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 3e-4  # of the spread of the logits: the square root of float32's unit in the last place
TURN = 0.05  # of a gradient's length: where rounding carries a ReLU across 0 it jumps (0.5 % seen, WRN-28-10)
ODD = 0.25  # share of gradients that may turn by more


def weighed(logits: Tensor) -> Tensor:
    """A loss [B] of logits [B, K] that every logit has a part in, each another."""
    return logits @ torch.arange(1, logits.shape[1] + 1).to(logits).sin()


def spread(logits: Tensor) -> Tensor:
    """The largest distance, of any image, between two of its logits [B, K]: the unit of their errors."""
    return (logits.amax(1) - logits.amin(1)).max()
