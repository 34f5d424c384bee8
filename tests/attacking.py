"""An attack on a model, and the exact distances that it is held to."""

from __future__ import annotations

import torch
from oracles import exact_margin
from torch import Tensor, nn

from attacks.contract import Attack
from attacks.noise import Noise
from attacks.target import Target


def run(
    attack: Attack,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    batch_size: int | None = None,
    seed: int = 0,
    ids: Tensor | None = None,
) -> Tensor:
    """x_adv like x [N, C, H, W]. ids: [N], of the images; None numbers them from 0."""
    return attack(Target(model, batch_size), x, y, Noise(seed, torch.arange(len(x)) if ids is None else ids))


def exact(norm: str, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The least distance [N] at which a linear or piecewise-linear model changes its label; inf where it cannot."""
    return torch.tensor([exact_margin(norm, model, image, int(label)) for image, label in zip(x, y, strict=True)])
