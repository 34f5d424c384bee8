"""A linear network on 8x8 images with two classes, whose robustness in Linf is arithmetic, and images for it."""

from __future__ import annotations

import torch
from oracles import Linear
from torch import Tensor

CALM = {"apgd-ce.steps": 5, "apgd-t.steps": 5, "fab-t.steps": 5, "square.queries": 20}  # settings of a short standard


def network(scale: float = 1.0) -> Linear:
    """Two logits: by how much the left half is brighter, 20 times that and a scale; and the opposite."""
    brighter = torch.full((1, 8, 8), -20 * scale / 32)
    brighter[..., :4] *= -1
    return Linear(torch.stack([brighter.flatten(), -brighter.flatten()]), torch.zeros(2)).eval()


def images(count: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x [N, 1, 8, 8] in [0.2, 0.8], and the labels that the network gives, but for every tenth image."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 + 0.3 * torch.rand(count, 1, 8, 8, generator=generator)
    x[:, :, :, :4] += 0.2 * torch.rand(count, 1, 1, 1, generator=generator) - 0.1
    y = network()(x).argmax(1)
    y[::10] = 1 - y[::10]
    return x, y


def margins(x: Tensor) -> Tensor:
    """The Linf distance of each image to the boundary: half of how much one half is brighter, as both move."""
    return (x[..., :4].double().mean((1, 2, 3)) - x[..., 4:].double().mean((1, 2, 3))).abs() / 2
