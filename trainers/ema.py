"""EMA, averaged weights: Polyak & Juditsky 1992; in adversarial training Rebuffi et al. 2021, arXiv:2103.01946.

The average starts at the initial weights and is updated after every batch. Its decay warms up, min(decay, (1 + t) /
(10 + t)) after t batches, so that the initial weights are soon forgotten in short trainings too.

Batch norm: running statistics are averaged with the same decay. They belong to the weights they were taken with, so
the average of both fits together; estimating them anew would need one more pass over the training images an epoch.
Integer buffers (counts of batches) are those of the network.
"""

from __future__ import annotations

import torch
from torch import nn


def decay_at(decay: float, batches: int) -> float:
    """The decay after so many batches, counted from 0."""
    return min(decay, (1 + batches) / (10 + batches))


@torch.no_grad()
def update(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average <- decay average + (1 - decay) network, in place, weights and buffers."""
    own = [*average.parameters(), *average.buffers()]
    new = [*network.parameters(), *network.buffers()]
    for value, other in zip(own, new, strict=True):
        if value.is_floating_point():
            value.lerp_(other, 1 - decay)
        else:
            value.copy_(other)
