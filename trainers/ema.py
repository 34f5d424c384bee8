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

from trainers.contract import Trainer, average_of
from trainers.schedule import Schedule


def decay_of(trainer: Trainer, schedule: Schedule) -> float:
    """Of the average that a training keeps: the schedule's, where there is one, else what the method learns from; 0 is
    none. So a method that is to learn from an average learns from the one that is validated and kept, if any is.
    """
    return schedule.ema or average_of(trainer)


def decay_at(decay: float, batches: int) -> float:
    """The decay after so many batches, counted from 0."""
    return min(decay, (1 + batches) / (10 + batches))


@torch.no_grad()
def update(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average <- decay average + (1 - decay) network, in place, weights and buffers; on a GPU in a few launches."""
    own = [*average.parameters(), *average.buffers()]
    new = [*network.parameters(), *network.buffers()]
    pairs = list(zip(own, new, strict=True))
    if averaged := [pair for pair in pairs if pair[0].is_floating_point()]:
        torch._foreach_lerp_([value for value, _ in averaged], [other for _, other in averaged], 1 - decay)
    if copied := [pair for pair in pairs if not pair[0].is_floating_point()]:
        torch._foreach_copy_([value for value, _ in copied], [other for _, other in copied])
