"""Trainings of a second: two classes of striped images, and small networks without batch norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from methods import method
from oracles import small_cnn
from torch import Tensor, nn

from bench.subjects.data import augment
from trainers.contract import teachers_of
from trainers.loop import Fit, fit
from trainers.schedule import Schedule
from trainers.validation import Split

SCHEDULE = Schedule(epochs=4, batch_size=16, lr=0.02, validation_steps=2)


def stripes(count: int = 48, seed: int = 0) -> Split:
    """Two classes: light columns on the left or on the right."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.4 * torch.rand(count, 1, 8, 8, generator=generator)
    y = torch.arange(count) % 2
    x[y == 0, :, :, :4] += 0.5
    x[y == 1, :, :, 4:] += 0.5
    return Split(x, y, torch.arange(count))


def networks(count: int) -> list[nn.Module]:
    """Networks that differ."""
    return [small_cnn(1, 2, seed) for seed in range(count)]


def weights(model: nn.Module) -> Tensor:
    """Weights and buffers in one row."""
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


def train(
    name: str = "at",
    schedule: Schedule = SCHEDULE,
    seed: int = 0,
    group: Sequence[nn.Module] | None = None,
    **options: object,
) -> tuple[Sequence[nn.Module], Fit]:
    """The method of that name on `stripes`: its networks, which are `group` where that is given, and what fit says."""
    trainer = method(name)
    group = networks(trainer.members) if group is None else group
    if teachers_of(trainer):
        options["teachers"] = train("natural", schedule)[0]
    result = fit(trainer, group, stripes(), stripes(20, 1), schedule, seed, augment=augment, flip=True, **options)
    return group, result
