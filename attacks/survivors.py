"""Only what still stands is attacked: trials one after the other, and state that closes up when images fall."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

from attacks.losses import LOSSES, Loss
from attacks.noise import Noise
from attacks.target import Target

Trial = Callable[[Target, Tensor, Tensor, Noise, Tensor], tuple[Tensor, Tensor]]
Goal = tuple[Loss, Tensor]
Order = Literal["logits", "nearest", "auto"]
CANDIDATES = 100  # of MALT
MANY = 100  # classes from which the order of targets is worth its gradients


def on_survivors(trials: Iterable[Trial], target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
    """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]: each trial sees the images that no earlier one fooled.

    A trial is called with (target, x, y, noise, rows) of these images, where rows [n] are their places in x, and
    returns (x_adv [n, ...], fooled [n] bool). An image that nothing fools keeps what the last trial made of it.
    """
    target = target.following(len(x))
    x_adv, standing = x.clone(), torch.arange(len(x), device=x.device)
    for trial in trials:
        if len(standing) == 0:
            break
        found, fooled = trial(target[standing], x[standing], y[standing], noise[standing], standing)
        x_adv[standing] = found
        standing = standing[~fooled]
    return x_adv


def packer(stays: Tensor) -> Callable[[Tensor], Tensor]:
    """stays [n] bool -> a function that packs a tensor [n, ...] to the rows that stay, in place.

    Only the gaps are filled, with rows from the end, so packing costs what fell and not what stands. The order changes
    in the same way for every tensor.
    """
    count = int(stays.sum())
    gaps = (~stays[:count]).nonzero().squeeze(1)
    last = stays[count:].nonzero().squeeze(1) + count

    def pack(values: Tensor) -> Tensor:
        values[gaps] = values[last]
        return values[:count]

    return pack


def goals(
    target: Target, x: Tensor, y: Tensor, loss: str, targeted: Loss, targets: int, order: Order = "logits"
) -> list[Goal]:
    """What to ascend, one after the other: a loss, and what it compares the logits with.

    targets: 0 is the loss of that name against the label; n is `targeted` towards each of n classes, compared with
    pairs [N, 2] = (label, class). order: "logits" takes the classes that the model finds likeliest after the true one,
    "nearest" those whose boundary a linear model of the network puts nearest, see `nearest_classes`; "auto" is that
    from MANY classes on.
    """
    if not targets or len(x) == 0:
        return [(LOSSES[loss], y)]
    logits = target.logits(x)
    if order == "logits" or (order == "auto" and logits.shape[1] < MANY):
        return towards(logits, y, targeted, targets)
    return _pairs(y, nearest_classes(target, x, y, logits), targeted, targets)


def goal_count(targets: int, classes: int) -> int:
    """How many goals `goals` has on a network of so many classes."""
    return min(targets, classes - 1) if targets else 1


def goal_passes(targets: int, classes: int, order: Order = "logits") -> tuple[int, int]:
    """Forward and backward passes that `goals` makes of an image."""
    nearest = order == "nearest" or (order == "auto" and classes >= MANY)
    if not targets:
        return 0, 0
    return (2, min(CANDIDATES, classes - 1)) if nearest else (1, 0)


def towards(logits: Tensor, y: Tensor, targeted: Loss, targets: int) -> list[Goal]:
    """`goals` for targets >= 1, of the images' logits [N, K]."""
    return _pairs(y, likeliest(logits, y), targeted, targets)


def likeliest(logits: Tensor, y: Tensor) -> Tensor:
    """logits [N, K] -> the wrong classes, the likeliest first: [N, K - 1]."""
    return logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)[:, :-1]


def nearest_classes(target: Target, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
    """The wrong classes by (z_y - z_j) / ||grad(z_j - z_y)||_1, the least first: [N, m]. logits [N, K]: of x. Of more
    than CANDIDATES wrong classes only so many likeliest are looked at. A class without a gradient comes last. Melamed
    et al. 2024 (MALT), https://arxiv.org/abs/2407.02240, algorithm 1. One forward and m backward passes.
    """
    candidates = likeliest(logits, y)[:, :CANDIDATES]
    near = torch.full(candidates.shape, torch.inf, device=x.device)
    for rows, margins, gradients in target.margin_gradients(x, y, candidates):
        length = gradients.flatten(2).abs().sum(2)
        near[rows] = torch.where(length > 0, -margins / length, torch.inf).to(near)
    return candidates.gather(1, near.argsort(dim=1, stable=True))


def _pairs(y: Tensor, classes: Tensor, targeted: Loss, targets: int) -> list[Goal]:
    """The loss towards the first so many of the classes [N, m], one goal for each."""
    return [(targeted, torch.stack([y, classes[:, rank]], 1)) for rank in range(min(targets, classes.shape[1]))]
