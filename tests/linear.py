"""A linear network on 8x8 images with two classes, whose robustness in Linf is arithmetic, and images for it."""

from __future__ import annotations

import torch
from oracles import Linear
from torch import Tensor

CALM = {"apgd-ce.steps": 5, "apgd-t.steps": 5, "fab-t.steps": 5, "square.queries": 20}  # settings of a short standard


def network(scale: float = 1.0) -> Linear:
    """Two logits, the mean of the left half and that of the right half, times a scale."""
    left = torch.zeros(1, 8, 8)
    left[..., :4] = 1 / 32
    weight = scale * torch.stack([left.flatten(), (1 / 32 - left).flatten()])
    return Linear(weight, torch.zeros(2)).eval()


def images(count: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x [N, 1, 8, 8] in [0.2, 0.8], and the labels that the network gives, but for every tenth image."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 + 0.3 * torch.rand(count, 1, 8, 8, generator=generator)
    x[:, :, :, :4] += 0.2 * torch.rand(count, 1, 1, 1, generator=generator) - 0.1
    y = network()(x).argmax(1)
    y[::10] = 1 - y[::10]
    return x, y


def margins(x: Tensor) -> Tensor:
    """The Linf distance of each image to the boundary: half the difference of the logits, as each pixel moves one."""
    logits = network()(x).double()
    return (logits[:, 0] - logits[:, 1]).abs() / 2
