"""Honest networks of many kinds on 8x8 digits, which `bench diagnose` must not doubt."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from broken_defences import EPS, base, digits
from torch import Tensor, nn

from bench.subjects.data import Images


def fitted(network: nn.Module, images: Images, epochs: int, steps: int = 0, lr: float = 3e-3) -> nn.Module:
    """Trained by Adam; with steps > 0 against PGD of so many steps at EPS."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(64):
            x, y = images.x[rows], images.y[rows]
            x_adv = (x + EPS * (2 * torch.rand(x.shape, generator=generator) - 1)) if steps else x
            for _ in range(steps):
                x_adv = x_adv.detach().requires_grad_(True)
                (slope,) = torch.autograd.grad(F.cross_entropy(network(x_adv), y), x_adv)
                moved = x_adv + 2 * EPS / steps * slope.sign()
                x_adv = torch.min(torch.max(moved, x - EPS), x + EPS).clamp(0, 1)
            optimizer.zero_grad()
            F.cross_entropy(network(x_adv.detach()), y).backward()
            optimizer.step()
    return network.eval()


def convolutional(activation: Callable[[], nn.Module]) -> nn.Module:
    """Two convolutions and two linear layers."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2, 1)
    head = (nn.Flatten(), nn.Linear(512, 64), activation(), nn.Linear(64, 10))
    return nn.Sequential(first, activation(), second, activation(), *head)


class VisionTransformer(nn.Module):
    """Patches of 2 x 2 pixels, a class token, one block."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.token, self.place = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.block = nn.TransformerEncoderLayer(width, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.place
        return self.head(self.norm(self.block(tokens))[:, 0])


class Scaled(nn.Module):
    """Logits in another unit."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.network(x)


class Cast(nn.Module):
    """Weights and activations in bfloat16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.to(torch.bfloat16)).float()


def eight_bits(network: nn.Module) -> nn.Module:
    """Weights rounded to 256 levels a tensor, as int8 stores them."""
    with torch.no_grad():
        for weight in network.parameters():
            step = weight.abs().max() / 127
            weight.copy_((weight / step).round() * step)
    return network


def linear(scale: float = 1.0) -> nn.Module:
    """Least squares on the digits: an honest model, whose every figure is easy to believe."""
    x, y = digits().train.x.flatten(1), F.one_hot(digits().train.y, 10).float()
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), y, driver="gelsd").solution
    with torch.no_grad():
        network[1].weight.copy_(scale * solution[:64].T)
        network[1].bias.copy_(scale * solution[64])
    return network.eval()


def regression(steps: int, epochs: int = 20, lr: float = 1e-2) -> nn.Module:
    """Linear, by cross-entropy."""
    torch.manual_seed(0)
    return fitted(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits().train, epochs, steps, lr)


@cache
def overfitted() -> nn.Module:
    """Adversarially trained on 150 images until it knows them."""
    return fitted(convolutional(nn.ReLU), digits().train.head(150), 60, steps=3)


HONEST: dict[str, Callable[[], nn.Module]] = {
    "linear, least squares": linear,
    "linear": lambda: regression(0),
    "linear, 26 of 60 right": lambda: regression(0, epochs=1, lr=2e-3),
    "linear AT": lambda: regression(5),
    "tanh": lambda: fitted(convolutional(nn.Tanh), digits().train, 6),
    "GELU AT": lambda: fitted(convolutional(nn.GELU), digits().train, 8, steps=4),
    "SiLU AT": lambda: fitted(convolutional(nn.SiLU), digits().train, 8, steps=4),
    "transformer": lambda: fitted(VisionTransformer(), digits().train, 10),
    "overfitted AT": overfitted,
    "AT, logits / 1e6": lambda: Scaled(base("at"), 1e-6),
    "AT, logits / 1e24": lambda: Scaled(base("at"), 1e-24),
    "AT, logits x 10": lambda: Scaled(base("at"), 10.0),
    "AT, bfloat16": lambda: Cast(base("at")),
    "AT, int8 weights": lambda: eight_bits(base("at")),
}
