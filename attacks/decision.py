"""What attacks that see only labels share: the verdict on an image, and verdicts on any number of candidates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.closest import rounding
from attacks.losses import margin
from attacks.target import Target, default_batch_size

Make = Callable[[Tensor, Tensor], Tensor]


def fooled(target: Target, x_adv: Tensor, y: Tensor) -> Tensor:
    """x_adv [N, C, H, W], y [N] -> [N] bool: the label is wrong, and by more than rounding could undo.

    These attacks end right behind the boundary. Without the guard, 3e-5 of the largest logit in float32, some of their
    images would fool in one batch and not in another, or the quick copy of a model and not the model.
    """
    logits = target.logits(x_adv)
    return margin(logits, y) > rounding(logits)


def batch_size(target: Target, x: Tensor) -> int:
    """How many images like those of x the target runs in one pass."""
    return target.batch_size or default_batch_size(x)


def candidates_fooled(target: Target, x: Tensor, y: Tensor, owner: Tensor, which: Tensor, make: Make) -> Tensor:
    """Verdicts on any number of candidates for each image: owner, which [M] int64 -> [M] bool.

    Candidate i belongs to image owner[i] of x [N, C, H, W]; make(owner[rows], which[rows]) gives such candidates
    [m, C, H, W]. It is called for one batch at a time, so that they never lie in memory all together.
    """
    size = batch_size(target, x)
    batches = zip(owner.split(size), which.split(size), strict=True)
    return torch.cat([fooled(target[rows], make(rows, part), y[rows]) for rows, part in batches])
