"""Honest networks, and defences that look robust and are not, on 8x8 digits: what `bench diagnose` must tell apart.

Each defence is planted on a naturally trained network (no robustness at all) or on an adversarially trained one, by a
mechanism that has been published and broken: see Athalye, Carlini, Wagner 2018, https://arxiv.org/abs/1802.00420, and
for distillation Papernot et al. 2016, https://arxiv.org/abs/1511.04508.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.running.train import _split
from bench.subjects import data, models
from bench.subjects.catalog import Catalog
from bench.subjects.data import Dataset
from trainers.loop import fit

EPS = 0.15
EPOCHS = {"natural": 6, "at": 12, "trades": 12}
DISTILLATION_TEMPERATURE = 100  # of the paper's strongest defence


@cache
def digits() -> Dataset:
    """The data, read once."""
    return data.load("digits")


@cache
def trained(method: str, arch: str = "cnn-a") -> nn.Module:
    """A network trained by the suite's own loop, with its recipe for digits but fewer epochs."""
    recipe = Catalog().recipe(f"{method}-digits")
    epochs, lr = (EPOCHS[method], 0.05) if arch == "cnn-a" else (2, recipe.schedule.lr)
    schedule = replace(recipe.schedule, epochs=epochs, lr=lr, validation_steps=1)
    network = models.create(arch, digits().image_shape, digits().classes, seed=1)
    parts = [_split(part, torch.device("cpu")) for part in (digits().train, digits().validation)]
    fit(recipe.trainer, [network], *parts, schedule, seed=0)
    return network


def base(method: str, arch: str = "cnn-a") -> nn.Module:
    """A copy, so that a defence may change it."""
    return deepcopy(trained(method, arch))


class Temperature(nn.Module):
    """Logits so large that the softmax saturates and cross-entropy has no gradient left in float32."""

    def __init__(self, network: nn.Module, scale: float = 1e3) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.network(x)


class Quantised(nn.Module):
    """Pixels rounded to a few levels: no slope anywhere."""

    def __init__(self, network: nn.Module, levels: int = 16) -> None:
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * self.levels).round() / self.levels)


class Staircase(nn.Module):
    """Pixels through a staircase of ReLUs, dead or cancelled on nine tenths of the way and at every clean pixel."""

    def __init__(self, network: nn.Module, levels: int = 16, ramp: float = 0.006) -> None:
        super().__init__()
        self.network, self.ramp = network, ramp
        self.register_buffer("edges", (torch.arange(levels) + 0.5) / levels)

    def forward(self, x: Tensor) -> Tensor:
        along = (x[..., None] - self.edges) / self.ramp
        return self.network((F.relu(along) - F.relu(along - 1)).sum(-1) / len(self.edges))


class Noisy(nn.Module):
    """Random noise on the pixels at inference."""

    def __init__(self, network: nn.Module, deviation: float = 0.1) -> None:
        super().__init__()
        self.network, self.deviation = network, deviation

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + self.deviation * torch.randn_like(x))


class Counting(nn.Module):
    """An answer that depends on how often it was asked."""

    calls: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.network(x) + 0.1 * torch.sin(self.calls) * x.mean((1, 2, 3))[:, None] * torch.arange(10)


class AlwaysTraining(nn.Module):
    """Batch norm that never leaves training mode, whatever .eval() asks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.train()

    def train(self, mode: bool = True) -> nn.Module:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class WrongGradient(torch.autograd.Function):
    """The identity, with a backward pass that has nothing to do with it."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        return slope.roll((3, 2), dims=(2, 3))


class Misleading(nn.Module):
    """A gradient that belongs to other pixels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(WrongGradient.apply(x))


class Detached(nn.Module):
    """A forward pass that autograd cannot follow."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.network(x)


def batch_statistics(network: nn.Module) -> nn.Module:
    """Batch norm in evaluation mode that still normalises with the batch at hand."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = module.running_var = None
            module.track_running_stats = False
    return network


def distilled() -> nn.Module:
    """Defensive distillation: teacher and student are trained at a high temperature and used at 1."""
    train, temperature = digits().train, DISTILLATION_TEMPERATURE
    soft = F.one_hot(train.y, 10).float()
    generator = torch.Generator().manual_seed(0)
    for seed in (2, 3):  # the teacher learns the labels, the student what the teacher says
        network = models.create("cnn-a", digits().image_shape, digits().classes, seed=seed)
        with torch.no_grad():
            network[-1].weight *= temperature  # so that the first logits are of the size that the temperature asks for
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(8):
            for rows in torch.randperm(len(train), generator=generator).split(32):
                optimizer.zero_grad()
                F.cross_entropy(network(train.x[rows]) / temperature, soft[rows]).backward()
                optimizer.step()
        with torch.no_grad():
            soft = (network(train.x) / temperature).softmax(1)
    return network


BROKEN: dict[str, Callable[[], nn.Module]] = {
    "temperature": lambda: Temperature(base("natural")),
    "temperature on AT": lambda: Temperature(base("at")),
    "distillation": distilled,
    "quantisation": lambda: Quantised(base("natural")),
    "quantisation on AT": lambda: Quantised(base("at")),
    "dead ReLUs": lambda: Staircase(base("natural")),
    "noise": lambda: Noisy(base("natural")),
    "state": lambda: Counting(base("natural")),
    "training mode": lambda: AlwaysTraining(base("natural", "cnn-small")),
    "batch statistics": lambda: batch_statistics(base("natural", "cnn-small")),
    "wrong gradient": lambda: Misleading(base("natural")),
    "no gradient": lambda: Detached(base("natural")),
    "softmax": lambda: nn.Sequential(base("natural"), nn.Softmax(1)),
}
HONEST: dict[str, Callable[[], nn.Module]] = {
    "natural": lambda: base("natural"),
    "at": lambda: base("at"),
    "trades": lambda: base("trades"),
}


def planted(name: str) -> nn.Module:
    """A network of BROKEN or HONEST, in evaluation mode where it can be."""
    return (BROKEN | HONEST)[name]().eval()
