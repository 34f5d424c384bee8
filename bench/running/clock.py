"""How long a training or an attack will take, before it runs: passes of the thing itself times rates measured here.

Trainings make exactly the passes of `trainers.rehearsal`; attacks at most those of their `Budget`, and fewer the more
images fall. Told, never used to choose: no result depends on it. docs/clock.md has how far it was off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attacks.contract import Attack, Budget, budget_of
from attacks.noise import Noise
from attacks.pgd import PGD
from attacks.target import Target, default_batch_size
from bench.ground.config import first_line
from bench.running.rates import Rates, judging_of, own_of, rates_of, step_of
from bench.running.train import Training
from bench.subjects import data, models
from bench.subjects.data import Dataset, Images
from bench.subjects.quick import AS_IT_IS, Arrangement
from bench.subjects.speed import seconds_of
from trainers import ema
from trainers.contract import perturbations
from trainers.loop import peak_memory
from trainers.rehearsal import Rehearsal, Share

EARLY = 12  # forward passes, and gradients, that an image spends which is fooled and leaves: measured, docs/clock.md
PROBED, PROBE_STEPS = 64, 10  # images, and steps of PGD, that say how many stand on a network that is there
COPIES = 8  # of the images of an attack, in memory
BUSY = 0.7  # of a core, below which others took it
RECORD = 0.1  # seconds to write one


class Span(NamedTuple):
    """Seconds, at least, about and at most."""

    low: float
    about: float
    high: float

    def plus(self, other: Span) -> Span:
        """Both, one after the other."""
        return Span(self.low + other.low, self.about + other.about, self.high + other.high)

    def times(self, images: float) -> Span:
        """Of so many."""
        return Span(self.low * images, self.about * images, self.high * images)


NONE = Span(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Standing:
    """How well networks do: the share of images that are right, the share of these that stand; whose is known, in
    words.
    """

    right: float = 0.75
    stand: float = 0.6
    source: str = "assumed"

    @property
    def words(self) -> str:
        """For a person."""
        return f"{self.right:.0%} of images right, {self.stand:.0%} of these standing ({self.source})"


class Clock:
    """Estimates for one data set, device and way of running attacks. lacks: what there is none for, and why."""

    def __init__(self, dataset: Dataset, device: torch.device, run: Arrangement = AS_IT_IS) -> None:
        self.dataset, self.device, self.run = dataset, device, run
        self.like = torch.zeros(1, *dataset.image_shape, device=device)
        self.lacks: dict[str, str] = {}
        self.bytes = 0.0  # beyond what the process holds: of the largest thing that was estimated
        self._rates: dict[tuple[str | nn.Module, int, bool], Rates] = {}
        self._spans: dict[object, Span | None] = {}

    def training(self, training: Training) -> Span | None:
        """Of one training with its validation; the teacher, another training, not included. low and high differ where
        it may stop early.
        """
        recipe = training.recipe
        taught = training.teacher[0].archs if training.teacher else ()
        return self._once((recipe.name, training.archs), recipe.name, lambda: self._train(training, taught))

    def _train(self, training: Training, taught: tuple[str, ...]) -> Span:
        recipe, schedule = training.recipe, training.recipe.schedule
        batch = min(schedule.batch_size, len(self.dataset.train))
        mixed = schedule.precision == "bfloat16"
        rates = [self.rates(arch, batch, mixed) for arch in training.archs]
        teachers = [self.rates(arch, batch, mixed) for arch in taught[:1]]
        x = torch.rand(batch, *self.dataset.image_shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        step = step_of(recipe.trainer, self.like, batch, self.dataset.classes, schedule.label_smoothing)
        seconds = step.seconds + (self._augmenting(x) if schedule.augment else 0.0)
        averaged = ema.decay_of(recipe.trainer, schedule) > 0
        moved = sum(one.step * (2 if averaged else 1) for one in rates)
        passes = sum(map(_seconds, step.networks + step.teachers, rates + teachers))
        more = sum(map(_seconds, step.again, rates + teachers))
        images, steps = len(self.dataset.train), -(-len(self.dataset.train) // batch)
        epoch = images * passes + steps * (seconds + moved) + self._validating(training, rates)
        perturbed = max(0, schedule.epochs - schedule.awp_after) if schedule.awp else 0
        self._remember_training(step, rates, batch, averaged)
        whole = schedule.epochs * epoch + perturbed * (images * more + steps * moved)
        least = min(schedule.epochs, schedule.patience + 1) / schedule.epochs if schedule.patience else 1.0
        return Span(least * whole, whole, whole)

    def _validating(self, training: Training, rates: list[Rates]) -> float:
        """Seconds an epoch: PGD and one step against everything that each network is trained against."""
        total, right, trainer = 0.0, Standing().right, training.recipe.trainer
        for n, one in enumerate(rates):
            types = len(perturbations(trainer, n) or (trainer.inner,))
            most = training.recipe.schedule.validation_steps
            steps = Standing.stand * most + (1 - Standing.stand) * min(EARLY, most)
            total += one.forward * (1 + 2 * right * types) + one.ascent * right * types * (steps + 1)
        return total * len(self.dataset.validation)

    def _augmenting(self, x: Tensor) -> float:
        offsets = torch.zeros(len(x), 2, dtype=torch.int64, device=x.device)
        flips = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        return seconds_of(lambda: data.augment(x, offsets, flips), x.device)

    def _remember_training(self, step: Rehearsal, rates: list[Rates], batch: int, averaged: bool) -> None:
        kept = sum(batch * one.activations * share.training for one, share in zip(rates, step.networks, strict=True))
        weights = sum(one.size * (4 if averaged else 3) for one in rates)
        pixels = self.like.numel() * (len(self.dataset.train) + 4 * len(self.dataset.validation))
        self.bytes = max(self.bytes, kept + weights + pixels)

    def attack(
        self, name: str, attack: Attack | None, network: nn.Module | str, images: int, standing: Standing
    ) -> Span | None:
        """Of one attack on so many images, and its judging. network: or the name of its architecture. None is the
        accuracy without an attack. low: nothing stands; high: everything does, and spends all that it may.
        """
        key = (repr(attack), network, images, standing)
        return self._once(key, name, lambda: self._attack(name, attack, self._rates_for(network), images, standing))

    def _attack(self, name: str, attack: Attack | None, rates: Rates, images: int, standing: Standing) -> Span | None:
        judging = judging_of(self.like, images, self.dataset.classes)
        judged = judging.forward * rates.forward + judging.gradient * rates.gradient + judging.seconds + RECORD
        total = Span(judged, judged, judged).times(self.run.times)
        batch = min(images, self.run.batch_size or default_batch_size(self.like))
        self.bytes = max(self.bytes, 4 * COPIES * images * self.like.numel() + batch * rates.activations)
        parts: tuple[Attack, ...] = () if attack is None else getattr(attack, "parts", (attack,))
        for number, part in enumerate(parts):
            left = standing if number == 0 else Standing(standing.right * standing.stand, 1.0)
            budget = budget_of(part, self.dataset.classes)
            if budget is None:
                self.lacks[name] = f"{type(part).__name__} does not say how many passes it makes"
                return None
            stand = max(1.0, images * left.right * left.stand)
            about, most = (self._passes(part, rates, count) for count in (stand, images))
            span = _of_budget(budget, left, about, most, first=number == 0)
            total = total.plus(span.times(images * self.run.times))
        return total

    def _passes(self, attack: Attack, rates: Rates, count: float) -> tuple[float, float]:
        """Seconds of an image in passes on so many: forward with what the attack does beside it, and back."""
        forward, gradient = rates.of_pass(count)
        own = own_of(attack, self.like, round(count), self.dataset.classes).seconds
        return forward + own, gradient - forward

    def rates(self, arch: str, batch: int = 1, mixed: bool = False) -> Rates:
        """Of an architecture, measured once."""
        key = (arch, batch, mixed)
        if key not in self._rates:
            network = models.create(arch, self.dataset.image_shape, self.dataset.classes, 0).to(self.device)
            self._rates[key] = rates_of(network, self.like, batch, (self._mixed, mixed))
        return self._rates[key]

    def _rates_for(self, network: nn.Module | str) -> Rates:
        if isinstance(network, nn.Module):
            if (network, 0, False) not in self._rates:
                self._rates[network, 0, False] = rates_of(network, self.like, 0, (self._mixed, False))
            return self._rates[network, 0, False]
        known = next((rates for (arch, *_), rates in self._rates.items() if arch == network), None)
        return known or self.rates(network)

    @property
    def _mixed(self) -> bool:
        return self.run.gradient_precision == "bfloat16"

    def busy(self) -> str:
        """What to say where other processes left this one less than most of a core while it measured; "" elsewhere."""
        given = min((rates.given for rates in self._rates.values()), default=1.0)
        if self.device.type != "cpu" or given >= BUSY:
            return ""
        return f"measured on a busy machine, which gave this process {given:.0%} of a core; quicker when it is quiet"

    def memory(self) -> str:
        """The peak of the process, about, in words."""
        return f"{(peak_memory(self.device) + self.bytes) / 2**30:.1f} GB"

    def _once(self, key: object, name: str, make: Callable[[], Span | None]) -> Span | None:
        """What `make` returns, once for each key; None, and the reason in `lacks`, where it raises."""
        if key not in self._spans:
            try:
                self._spans[key] = make()
            except Exception as error:  # a network or a method of one's own may raise anything: then nothing is known
                self.lacks[name], self._spans[key] = first_line(error), None
        return self._spans[key]


def probed(network: nn.Module, images: Images, attacks: Mapping[str, Attack | None]) -> Standing:
    """How a network that is there does, on a few images: under a short PGD at the first radius that PGD knows."""
    some = images.take(torch.linspace(0, len(images) - 1, min(PROBED, len(images))).round().long())
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    x, y, target = some.x.to(device), some.y.to(device), Target(network)
    right = target.logits(x).argmax(1) == y
    threats = [attack.threat for attack in attacks.values() if attack and attack.threat.norm in ("Linf", "L2", "L1")]
    if not threats or not right.any():
        return Standing(float(right.float().mean()), Standing.stand, f"of {len(x)} images")
    pgd = PGD(threats[0], PROBE_STEPS, threats[0].eps / 4, start="none")
    x_adv = pgd(target, x[right], y[right], Noise(0, some.ids.to(device)[right]))
    stand = float((target.logits(x_adv).argmax(1) == y[right]).float().mean())
    return Standing(float(right.float().mean()), stand, f"of {len(x)} images under PGD-{PROBE_STEPS}")


def _of_budget(
    budget: Budget, standing: Standing, some: tuple[float, float], most: tuple[float, float], first: bool
) -> Span:
    """Seconds of an image. some, most: of a pass forward and of one back, while some images stand and while all do.
    first: whether it is the first part, which images that fall see too.
    """
    full = budget.forward * most[0] + budget.backward * most[1]
    usual = budget.usual * (budget.forward * some[0] + budget.backward * some[1])
    early = min(EARLY, budget.forward) * most[0] + min(EARLY, budget.backward) * most[1]
    fallen = min(early, usual) if budget.leaves else usual
    about = standing.right * (standing.stand * usual + (1 - standing.stand) * fallen)
    return Span(first * standing.right * fallen, about, max(full, about))


def _seconds(share: Share, rates: Rates) -> float:
    """Of an image of a batch, in one network."""
    return share.attack * rates.ascent + share.training * rates.weights + share.forward * rates.forward
