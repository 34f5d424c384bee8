"""Trainings of a second: two classes of striped images, and small networks without batch norm."""

from __future__ import annotations

from collections.abc import Sequence

from methods import method
from oracles import small_cnn
from torch import nn

from bench.contracts.problems import stripes as stripes
from bench.contracts.problems import weights as weights
from bench.contracts.trainers import SCHEDULE
from bench.subjects.data import augment
from trainers.contract import teachers_of
from trainers.loop import Fit, fit
from trainers.schedule import Schedule


def networks(count: int) -> list[nn.Module]:
    """Networks that differ."""
    return [small_cnn(1, 2, seed) for seed in range(count)]


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
