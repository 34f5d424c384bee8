"""What a step of a method costs, found by taking one: its passes, counted, and the time that is not the networks'.

Nobody tells the passes: a method is run on networks of one small layer that count how they are called. So it takes
milliseconds, a method of one's own needs nothing for it, and it cannot be forgotten when a method changes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.noise import Noise
from trainers.contract import Cohort, Trainer, rounds_of, teachers_of


@dataclass(frozen=True)
class Share:
    """Passes of an image of a batch through one network: differentiated in the image, in the weights, or not at all."""

    attack: float = 0.0
    training: float = 0.0
    forward: float = 0.0

    def __add__(self, other: Share) -> Share:
        return Share(self.attack + other.attack, self.training + other.training, self.forward + other.forward)


@dataclass(frozen=True)
class Rehearsal:
    """A batch of a method. networks, teachers: passes of each. again: what these and those make once more under
    AWP (`trainers.awp`). seconds: of a batch, what is left of it with networks that cost next to nothing.
    """

    networks: tuple[Share, ...]
    teachers: tuple[Share, ...]
    again: tuple[Share, ...]
    seconds: float


def rehearse(trainer: Trainer, x: Tensor, classes: int, smoothing: float = 0.0) -> Rehearsal:
    """A batch like x [B, C, H, W], counted and timed. smoothing: see `Cohort`. Raises whatever the method raises."""
    few = x[: max(2, min(len(x), classes))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = [_Counting(x, classes).train() for _ in range(trainer.members + teachers_of(trainer))]
    counted = _take(trainer, networks, few, classes, smoothing)
    started = time.perf_counter()
    _take(trainer, networks, x, classes, smoothing, again=False)
    seconds = time.perf_counter() - started
    n = trainer.members
    return Rehearsal(tuple(counted[0][:n]), tuple(counted[0][n:]), tuple(counted[1]), seconds)


def _take(
    trainer: Trainer, every: Sequence[_Counting], x: Tensor, classes: int, smoothing: float, again: bool = True
) -> tuple[list[Share], list[Share]]:
    """A step -> passes of each network: of the step, and of asking for its loss again."""
    own, teachers = every[: trainer.members], every[trainer.members :]
    cohort = Cohort(own, label_smoothing=smoothing, teachers=[teacher.eval() for teacher in teachers])
    cohort.noise = Noise(0, torch.arange(len(x), device=x.device))
    y = torch.arange(len(x), device=x.device) % classes
    first, second = [Share()] * len(every), [Share()] * len(every)
    for round in range(rounds_of(trainer)):
        cohort.begin(round)
        _differentiate(trainer, cohort, x, y)
        first = [share + network.read(len(x)) for share, network in zip(first, every, strict=True)]
        if again:
            cohort.again()
            _differentiate(trainer, cohort, x, y)
            second = [share + network.read(len(x)) for share, network in zip(second, every, strict=True)]
    return first, second


def _differentiate(trainer: Trainer, cohort: Cohort, x: Tensor, y: Tensor) -> None:
    loss = torch.stack(trainer.batch_loss(cohort, x, y)).sum()
    if loss.requires_grad:
        loss.backward()


class _Counting(nn.Module):
    """Images [B, C, H, W] -> logits [B, classes], at next to no cost, counted by what is differentiated."""

    def __init__(self, x: Tensor, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(x[0].numel(), classes).to(x.device)
        self.counts: Counter[str] = Counter()

    def forward(self, x: Tensor) -> Tensor:
        kind = "forward" if not torch.is_grad_enabled() else "attack" if x.requires_grad else "training"
        self.counts[kind] += len(x)
        logits: Tensor = self.layer(x.flatten(1))
        return logits

    def read(self, images: int) -> Share:
        """The passes since the last reading, of one of so many images."""
        counts, self.counts = self.counts, Counter()
        return Share(**{kind: count / images for kind, count in counts.items()})
