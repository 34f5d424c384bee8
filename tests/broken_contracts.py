"""Attacks, methods, models and data sets that break one promise each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from attacks.contract import Budget, ThreatModel
from attacks.losses import cross_entropy
from attacks.noise import Noise
from attacks.target import Target
from bench.subjects import data
from trainers.contract import Cohort, Inner

LINF = ThreatModel("Linf", 0.05)


@dataclass(frozen=True)
class Sound:
    """One step of the sign of the gradient; keeps every promise."""

    closest: ClassVar[bool] = False
    threat: ThreatModel = LINF
    version: int = 1

    def direction(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        return target.loss_grad(x, y, cross_entropy)[1].sign()

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        if len(x) == 0:
            return x.clone()
        return (x + self.threat.eps * self.direction(target, x, y, noise)).clamp(0, 1)


class Beyond(Sound):
    def direction(self, target, x, y, noise):
        return 1.01 * super().direction(target, x, y, noise)


class Unclipped(Sound):
    def __call__(self, target, x, y, noise):
        return x + self.threat.eps * self.direction(target, x, y, noise)


class InFloat32(Sound):
    def __call__(self, target, x, y, noise):
        return super().__call__(target, x, y, noise).float()


class ZeroByZero(Sound):
    def direction(self, target, x, y, noise):
        grad = target.loss_grad(x, y, cross_entropy)[1]
        return grad / grad.abs().amax((1, 2, 3), keepdim=True)


class OfTheBatch(Sound):
    def direction(self, target, x, y, noise):
        return (x - x.mean(0)).sign()


class OfTheOrder(Sound):
    """A generator of its own, seeded with the same number each time: images get their place's noise."""

    def direction(self, target, x, y, noise):
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x).sign()


class GlobalNoise(Sound):
    def direction(self, target, x, y, noise):
        return torch.randn_like(x).sign()


class NumpyNoise(Sound):
    def direction(self, target, x, y, noise):
        return torch.from_numpy(np.random.standard_normal(x.shape)).to(x).sign()


class MovesTheModel(Sound):
    def direction(self, target, x, y, noise):
        with torch.no_grad():
            next(target.model.parameters()).add_(1e-3)
        return super().direction(target, x, y, noise)


class LeavesGradients(Sound):
    def direction(self, target, x, y, noise):
        cross_entropy(target.model(x), y).sum().backward()
        return super().direction(target, x, y, noise)


class WritesIntoItsInput(Sound):
    def __call__(self, target, x, y, noise):
        return x.add_(self.threat.eps * self.direction(target, x, y, noise)).clamp_(0, 1) if len(x) else x.clone()


class HidesErrors(Sound):
    def __call__(self, target, x, y, noise):
        try:
            return super().__call__(target, x, y, noise)
        except Exception:
            return x.clone()


class FoolsNobody(Sound):
    def direction(self, target, x, y, noise):
        return -super().direction(target, x, y, noise)


class SaysLess(Sound):
    def passes(self, classes):
        return Budget(1, 0)


@dataclass(frozen=True)
class Forgets(Sound):
    """Each one that is made has another setting than it was made with."""

    steps: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", self.steps + 1)


# --- methods


@dataclass(frozen=True)
class SoundMethod:
    """Natural training."""

    inner: Inner
    version: int = 1

    @property
    def members(self) -> int:
        return 1

    def loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(cohort.logits(0, x), y).mean()

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        return [self.loss(cohort, x, y)]


class ReadsTestImages(SoundMethod):
    def loss(self, cohort, x, y):
        test = data.load("digits").test.head(len(x))
        return super().loss(cohort, test.x, test.y % 2)


class WithoutGradient(SoundMethod):
    def loss(self, cohort, x, y):
        return super().loss(cohort, x, y).detach()


class OneForEachImage(SoundMethod):
    def loss(self, cohort, x, y):
        return cross_entropy(cohort.logits(0, x), y)


class TwoLosses(SoundMethod):
    def batch_loss(self, cohort, x, y):
        return 2 * super().batch_loss(cohort, x, y)


class NoNumber(SoundMethod):
    def loss(self, cohort, x, y):
        return super().loss(cohort, x, y) / 0


class GlobalMix(SoundMethod):
    def loss(self, cohort, x, y):
        return super().loss(cohort, x, y) * (1 + torch.rand(()))


class WritesIntoItsBatch(SoundMethod):
    def loss(self, cohort, x, y):
        return super().loss(cohort, x.mul_(0.9), y)


class StepsItself(SoundMethod):
    def loss(self, cohort, x, y):
        with torch.no_grad():
            for weights in cohort.networks[0].parameters():
                weights.mul_(0.99)
        return super().loss(cohort, x, y)


class CountsInItsModule(SoundMethod):
    """Its loss grows from training to training."""

    count = 0

    def loss(self, cohort, x, y):
        type(self).count += 1
        return super().loss(cohort, x, y) * (1 + 0.01 * type(self).count)


class CountsInTheCohort(SoundMethod):
    """Its loss grows in an epoch, by a count that no checkpoint holds."""

    def loss(self, cohort, x, y):
        cohort.count = getattr(cohort, "count", 0) + 1
        return super().loss(cohort, x, y) * (1 + 0.1 * cohort.count)


class Unlearns(SoundMethod):
    def loss(self, cohort, x, y):
        return -super().loss(cohort, x, y)


# --- models


def linear(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))


class Wrapped(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.net = linear(shape, classes)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        return self.net(x)


class BatchStatistics(Wrapped):
    def forward(self, x):
        return self.net(x - x.mean(0))


class Remembers(Wrapped):
    def forward(self, x):
        self.seen += len(x)
        return self.net(x)


class Rounds(Wrapped):
    def forward(self, x):
        return self.net((x * 255).round() / 255)


class Detaches(Wrapped):
    def forward(self, x):
        return self.net(x).detach() if self.training else self.net(x)


class KeepsWeightsElsewhere(Wrapped):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.shift = torch.randn(classes)

    def forward(self, x):
        return self.net(x) + self.shift


def seeded(shape, classes):
    torch.manual_seed(0)
    return linear(shape, classes)


def probabilities(shape, classes):
    return nn.Sequential(linear(shape, classes), nn.Softmax(1))


def drawn_by_numpy(shape, classes):
    made = linear(shape, classes)
    with torch.no_grad():
        made[1].bias.add_(float(np.random.default_rng().standard_normal()))
    return made


# --- data sets

LABELS = np.arange(40) % 4


def _images(random, count=40):
    return random.integers(0, 256, (count, 8, 8)).astype(np.uint8)


def sound(data_dir: Path | None):
    return {part: (_images(np.random.default_rng(seed)), LABELS) for seed, part in enumerate(("train", "test"))}


def unseeded(data_dir):
    return sound(data_dir) | {"test": (_images(np.random.default_rng()), LABELS)}


def in_the_order_of_a_set(data_dir):
    names = [str(name) for name in {f"image {one}" for one in range(40)}]
    order = np.array([int(name.split()[1]) for name in names])
    images, labels = sound(data_dir)["test"]
    return sound(data_dir) | {"test": (images[order], labels[order])}


def global_numpy(data_dir):
    np.random.seed(0)
    return sound(data_dir)


def trained_on_its_tests(data_dir):
    return {"train": sound(data_dir)["test"], "test": sound(data_dir)["test"]}
