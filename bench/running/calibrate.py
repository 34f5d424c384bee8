"""`bench calibrate`: the radius at which an attack brings a network down to a stated accuracy, by bisection.

For attacks that bound themselves in their own parameters no radius is a convention, and those of two attacks cannot be
compared; the accuracy that each leaves on one network can.

The search holds two radii: `low`, at which more stands, and `high`, at which no more than that. It doubles or halves
from the setting's own radius until it has both, then takes their geometric mean so often. Accuracy need not fall with
the radius (a larger box can be harder to climb, and eps = 0 is no identity of every attack), so what it finds is one
place where accuracy crosses, not the only one. Bisection alone would never see that: twice the radius is tried too, and
where more stands there, that is said, and every radius that was tried. Images and random numbers are the same at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from attacks.contract import Attack
from attacks.model import ModelError
from bench.ground.config import UserError, settings_of
from bench.ground.provenance import Cost
from bench.judge.evaluate import Verdicts, evaluate
from bench.ledger.budgets import radius
from bench.running.attack import How
from bench.subjects.catalog import Catalog
from bench.subjects.chosen import Choice
from bench.subjects.device import choose_device

IMAGES = 100
FARTHEST = 64  # times its own radius, for an attack that bounds itself and does not say where that ends
NEAREST = 1024  # its own radius is halved down to this part


@dataclass(frozen=True)
class Tried:
    """accuracy: share of all images that are right without and with the attack of that radius."""

    eps: float
    accuracy: float


@dataclass(frozen=True)
class Found:
    """eps: the least radius found at which no more than asked for stands, with the accuracy there; None where there is
    none, then why says so. low: the next smaller one tried. sign: what speaks against it.
    """

    tried: list[Tried]
    eps: float | None = None
    accuracy: float | None = None
    low: Tried | None = None
    why: str = ""
    sign: str = ""


@dataclass(frozen=True)
class Calibrated:
    """One attack: what was found, with which settings, and what it took. Passes are counted in images."""

    attack: str
    norm: str
    found: Found
    settings: dict[str, Any]
    seconds: float
    forward_passes: int
    backward_passes: int


@dataclass(frozen=True)
class Calibration:
    """Of one network, on so many images of a data set. to, clean_accuracy: shares in [0, 1]."""

    model: str
    dataset: str
    images: int
    seed: int
    to: float
    clean_accuracy: float
    attacks: list[Calibrated] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """A table in words."""
        head = f"{self.model}: {_percent(self.clean_accuracy)} of {self.images} images right without an attack"
        return [f"{head}; radii at which no more than {_percent(self.to)} are", *(_line(one) for one in self.attacks)]


def calibrate_model(
    choice: Choice, attacks: tuple[str, ...], how: How, to: float, *, rounds: int = 5, most: float | None = None,
    say: Callable[[str], None] = print,
) -> Calibration:  # fmt: skip
    """The radius of each attack. Writes no record. say: is called with a line for each radius that was tried.

    to: share of the images that may stand. rounds: of bisection; the radius is then within 2^(1 / 2^rounds). most: the
    largest to try; None is the widest that an image knows, see `widest`. Raises UserError, AttackError.
    """
    if not 0 <= to < 1:
        raise UserError(f"--to {to:g} is not an accuracy that a network can fall to; write a share such as 0.5")
    if most is not None and not most > 0:
        raise UserError(f"--most {most:g} is not a radius to search up to; write one above 0, or leave it out")
    device, loaded = choose_device(choice.device), choice.load()
    catalog = Catalog(how.recipes, how.assignments)
    starts = {name: _start(catalog, name) for name in catalog.parts(attacks)}
    catalog.check_assignments()
    (subject,) = choice.subjects(loaded, device)
    images = choice.pick(loaded, min(IMAGES, len(loaded.test)))
    network = subject.network.to(device)
    given: dict[str, Any] = {"seed": how.seed, "run": how.arrangement, "blank": subject.blank, "look": False}

    def judged(name: str, attack: Attack | None) -> Verdicts:
        return evaluate(network, attack, images, loaded.classes, name=name, **given)

    search = _Search(judged, catalog, to, rounds, most or math.inf, math.prod(loaded.image_shape), say)
    try:
        clean = judged("clean", None).clean_accuracy
        if clean <= to:
            raise UserError(
                f"{choice.words} is right on {_percent(clean)} of {len(images)} images without any attack, which is "
                f"not above --to {to:g}; there is nothing to calibrate"
            )
        done = [search.calibrated(name, start, clean) for name, start in starts.items()]
    except ModelError as error:
        raise UserError(f"{choice.words}: {error}") from error
    return Calibration(choice.words, loaded.name, len(images), how.seed, to, clean, done)


@dataclass(frozen=True)
class _Search:
    """What the attacks of one command share. most: the largest radius to try; values: of an image."""

    judged: Callable[[str, Attack | None], Verdicts]
    catalog: Catalog
    to: float
    rounds: int
    most: float
    values: int
    say: Callable[[str], None]

    def calibrated(self, name: str, start: Attack, clean: float) -> Calibrated:
        """Of one attack that begins with its own radius; at 0 one in a norm leaves what is clean."""
        costs = list[Cost]()

        def accuracy(eps: float) -> float:
            found = self.judged(name, self.catalog.at_radius(name, eps))
            costs.append(found.cost)
            self.say(f"{name}: {_percent(found.robust_accuracy)} stand at eps = {radius(eps)}")
            return found.robust_accuracy

        own, end = start.threat.norm == "own", min(self.most, widest(start, self.values))
        found = bisect(accuracy, start.threat.eps, end, self.to, self.rounds, None if own else clean)
        at = start if found.eps is None else self.catalog.at_radius(name, found.eps)
        spent = (
            sum(each.seconds for each in costs),
            sum(each.forward_passes for each in costs),
            sum(each.backward_passes for each in costs),
        )
        return Calibrated(name, start.threat.norm, found, settings_of(at), *spent)


def widest(attack: Attack, values: int) -> float:
    """The largest radius that makes a difference on an image of so many values; of an attack that bounds itself what it
    says (`widest`), else FARTHEST times its own.
    """
    by_norm = {"Linf": 1.0, "L2": math.sqrt(values), "L1": float(values), "L0": float(values)}
    own: float = getattr(attack, "widest", FARTHEST * attack.threat.eps)
    return by_norm.get(attack.threat.norm, own)


def bisect(
    accuracy: Callable[[float], float], start: float, end: float, to: float, rounds: int, at_zero: float | None = None
) -> Found:
    """accuracy: of a radius. start > 0: the first to try, end: the last. at_zero: the accuracy at eps = 0, where it is
    known; else it is asked for if even `start` is too much.
    """
    tried: dict[float, float] = {}

    def falls(eps: float) -> bool:
        tried[eps] = accuracy(eps)
        return tried[eps] <= to

    low, high = 0.0, min(start, end)
    if falls(high):
        if at_zero is None and falls(0.0):
            return _found(tried, to, why=f"it leaves {_percent(tried[0.0])} even at eps = 0, which is not above that")
        while high > start / NEAREST and falls(high / 2):
            high /= 2
        low = high / 2 if high / 2 in tried and tried[high / 2] > to else 0.0
    else:
        while high < end:
            low, high = high, min(2 * high, end)
            if falls(high):
                break
        else:
            why = f"it leaves {_percent(tried[high])} even at eps = {radius(high)}, the largest that was tried"
            return _found(tried, to, why=why)
    for _ in range(rounds):
        middle = math.sqrt(low * high) if low else high / 2
        low, high = (low, middle) if falls(middle) else (middle, high)
    if (beyond := min(2 * high, end)) not in tried:
        falls(beyond)
    return _found(tried, to, eps=high, low=low)


def _found(tried: dict[float, float], to: float, why: str = "", eps: float | None = None, low: float = 0.0) -> Found:
    """What a search found, with its tries in the order of their radii."""
    every = [Tried(*pair) for pair in sorted(tried.items())]
    if eps is None:
        return Found(every, why=why)
    against = [one for one in every if (one.eps > eps) == (one.accuracy > to) and one.eps != eps]
    told = ", ".join(f"at {radius(one.eps)} it leaves {_percent(one.accuracy)}" for one in against)
    sign = f"accuracy does not fall steadily: {told}" if told else ""
    return Found(every, eps, tried[eps], Tried(low, tried[low]) if low in tried else None, sign=sign)


def _start(catalog: Catalog, name: str) -> Attack:
    """The attack with the radius to begin with. Raises UserError."""
    attack, _ = catalog.attack(name, *catalog.lacking(name, None, None))
    if attack is None or attack.threat.eps == 0:
        raise UserError(f"{name!r} has no radius to calibrate; name attacks that have one, see `bench list attacks`")
    return attack


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _line(one: Calibrated) -> str:
    found = one.found
    tries = f"{len(found.tried)} radii, {one.forward_passes} forward and {one.backward_passes} backward passes"
    if found.eps is None or found.accuracy is None:
        return f"{one.attack:26} no radius: {found.why}; {tries}"
    below = f" ({_percent(found.low.accuracy)} at {radius(found.low.eps)})" if found.low else ""
    where = f"{one.norm} {radius(found.eps)}"
    sign = f"; {found.sign}" if found.sign else ""
    return f"{one.attack:26} {where:14} leaves {_percent(found.accuracy)}{below}; {tries}, {one.seconds:.1f} s{sign}"
