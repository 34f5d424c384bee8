"""What a command is about to take, in words: a table row by row and column by column, a training, an attack."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from attacks.contract import Attack
from bench.ground.pace import Pace, duration
from bench.ledger.plan import Cell
from bench.running.clock import NONE, Clock, Span, Standing, probed
from bench.running.train import Training
from bench.subjects.blank import Blank
from bench.subjects.data import Images

LONG, HOUR = 60.0, 3600.0  # seconds from which a line is worth saying, and from which it says what would cut it
LARGEST = 3  # items that are named
MANY = 1000  # images, of which more are worth cutting
SUBSTITUTE_BATCH = 32  # of the substitute's training in a diagnosis
SHARE = 0.3  # of the whole, below which a cut is not worth naming
SMALLER = "a smaller --arch"
UNCOMPILED = "compiled passes are estimated as uncompiled ones"


@dataclass(frozen=True)
class Forecast:
    """What there is to do in a table: seconds of each training (by training id) and attack (by run and eval id); which
    row a training is for; what each is called.
    """

    spans: Mapping[Hashable, Span]
    trainings: Mapping[Hashable, tuple[str, str]] = field(default_factory=dict)  # id -> row, recipe
    attacks: Mapping[Hashable, Cell] = field(default_factory=dict)
    standing: Standing = field(default_factory=Standing)
    lacks: Mapping[str, str] = field(default_factory=dict)
    memory: str = ""
    notes: tuple[str, ...] = ()

    @property
    def expected(self) -> dict[Hashable, float]:
        """For `Pace`."""
        return {one: span.about for one, span in self.spans.items()}

    def lines(self, pace: Pace) -> list[str]:
        """Row by row and column by column, and what it goes by. pace: which knows what was timed."""
        if not pace.to_do:
            return []
        rows: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        columns: dict[str, float] = defaultdict(float)
        for one, (row, _) in self.trainings.items():
            rows[row][0] += pace.of(one) or 0.0
        for key, cell in self.attacks.items():
            rows[cell.row][1] += pace.of(key) or 0.0
            columns[cell.column] += pace.of(key) or 0.0
        total = f"{self._range(pace)}; memory about {self.memory}"
        heads = [f"  {'row':20} {'trainings':>10} {'attacks':>10}"]
        by_row = [f"  {row:20} {duration(took[0]):>10} {duration(took[1]):>10}" for row, took in rows.items()]
        by_column = [f"  {column:20} {'':>10} {duration(took):>10}" for column, took in columns.items()]
        jobs = f", shared by {pace.jobs} processes" if pace.jobs > 1 else ""
        return [
            f"time, of one process{jobs}:",
            *heads,
            *by_row,
            f"  {'column':20}",
            *by_column,
            total,
            *self._sources(pace),
        ]

    def _range(self, pace: Pace) -> str:
        low, high = self._total(pace)
        about = sum(pace.of(one) or 0.0 for one in pace.to_do) / pace.jobs
        return f"together about {duration(about)}, between {duration(low)} and {duration(high)}"

    def _total(self, pace: Pace) -> tuple[float, float]:
        """At least and at most, of all processes together."""
        total = NONE
        for one in pace.to_do:
            known = pace.of(one) or 0.0
            total = total.plus(Span(known, known, known) if pace.timed(one) else self.spans.get(one, NONE))
        return total.low / pace.jobs, total.high / pace.jobs

    def _sources(self, pace: Pace) -> Iterator[str]:
        timed = sum(pace.timed(one) for one in pace.to_do)
        guessed = sum(one in self.spans and not pace.timed(one) for one in pace.to_do)
        if timed:
            yield f"{timed} of {len(pace.to_do)} by what the same took here"
        if guessed:
            yield (
                f"{guessed} of {len(pace.to_do)} by passes counted and rates measured within the hour; "
                f"{self.standing.words}"
            )
        yield from self.notes
        yield from (f"no estimate for {name}: {why}" for name, why in self.lacks.items())

    def warning(self, pace: Pace, cuts: Callable[[float, float], list[str]]) -> list[str]:
        """One line for what takes more than an hour: how long, its largest items, what would cut them; else none.

        cuts: (share of trainings, share of attacks) -> what a user may change, in words.
        """
        known = {one: pace.of(one) or 0.0 for one in pace.to_do}
        total = sum(known.values())
        if total / pace.jobs < HOUR:
            return []
        items: dict[str, float] = defaultdict(float)
        for one, seconds in known.items():
            items[self._name(one)] += seconds
        largest = sorted(items, key=lambda name: -items[name])[:LARGEST]
        named = ", ".join(f"{name} {duration(items[name] / pace.jobs)}" for name in largest)
        trained = sum(known.get(one, 0.0) for one in self.trainings) / total
        advice = cuts(trained, 1 - trained)
        words = f"; shorter with {', '.join(advice)}" if advice else ""
        return [f"this takes about {duration(total / pace.jobs)} on this machine: {named}{words}"]

    def _name(self, one: Hashable) -> str:
        if one in self.trainings:
            return f"training {self.trainings[one][1]}"
        return f"{self.attacks[one].column}" if one in self.attacks else str(one)


def of_table(
    clock: Clock,
    trainings: Mapping[Hashable, tuple[str, Training]],
    attacks: Mapping[Hashable, tuple[Cell, Attack | None, str]],
    images: int,
    standing: Standing,
    threads: int,
) -> Forecast:
    """trainings: id -> (row, training). attacks: key -> (cell, attack, architecture). threads: of each process."""
    spans: dict[Hashable, Span] = {}
    with _threads(threads):
        for one, (_, training) in trainings.items():
            if (span := clock.training(training)) is not None:
                spans[one] = span
        for key, (cell, attack, arch) in attacks.items():
            if (span := clock.attack(cell.attack, attack, arch, images, standing)) is not None:
                spans[key] = span
    compiled = any(one.recipe.schedule.compile != "off" for _, one in trainings.values()) or clock.run.compile != "off"
    return Forecast(
        spans,
        {one: (row, training.recipe.name) for one, (row, training) in trainings.items()},
        {key: cell for key, (cell, _, _) in attacks.items()},
        standing,
        clock.lacks,
        clock.memory(),
        tuple(filter(None, (UNCOMPILED if compiled else "", clock.busy()))),
    )


def of_trainings(trainings: Iterable[Training]) -> list[str]:
    """A line before trainings, one after the other, that take long; none before short ones."""
    given = list(trainings)
    if not given:
        return []
    clock = Clock(given[0].dataset, given[0].device)
    spans = {one.recipe.name: clock.training(one) for one in given}
    total = sum((span or NONE).about for span in (spans[one.recipe.name] for one in given))
    most = "at most " if any(span and span.low < span.high for span in spans.values()) else ""
    compiled = f"; {UNCOMPILED}" if any(one.recipe.schedule.compile != "off" for one in given) else ""
    cut = f"; shorter with {SMALLER}, fewer epochs or seeds" if total >= HOUR else ""
    if total < LONG:
        return _remarks(clock, busy=False)
    about = f"{most}about {duration(total)}, memory about {clock.memory()}"
    return ["; ".join([f"training takes {about}{compiled}{cut}", *_remarks(clock)])]


def of_attacks(clock: Clock, attacks: Mapping[str, Attack | None], blank: Blank, images: Images) -> list[str]:
    """A line before attacks on one network, each on what the ones before it left, that take long; else none.

    The network is looked at through copies that nobody else sees.
    """
    network = blank.fresh() if blank.copied else None
    if network is None:
        return []
    most = _in_turn(clock, attacks, network, len(images), Standing(1.0, 1.0, ""))
    if most.high < LONG and not clock.lacks:
        return []
    try:
        standing = probed(network, images, attacks)
    except Exception:  # no gradient, NaN, whatever a model of one's own raises: the attack will say it in a sentence
        standing = Standing()
    span = _in_turn(clock, attacks, network, len(images), standing)
    if span.about < LONG:
        return _remarks(clock, busy=False)
    cut = "; shorter with fewer --images" if span.about >= HOUR else ""
    words = f"between {duration(span.low)} and {duration(span.high)}; {standing.words}"
    about = f"attacking takes about {duration(span.about)} ({words}), memory about {clock.memory()}{cut}"
    return ["; ".join([about, *_remarks(clock)])]


def of_diagnosis(clock: Clock, attacks: Mapping[str, Attack], blank: Blank, images: int, learned: int) -> list[str]:
    """A line before a diagnosis that takes long: attacks that each see every image, and a substitute, a CNN-A, that is
    trained on so many images, counted once for each epoch.
    """
    if not blank.copied:
        return []
    network, everything = blank.fresh(), Standing(1.0, 1.0, "")
    spans = [clock.attack(name, attack, network, images, everything) or NONE for name, attack in attacks.items()]
    seconds = sum(span.about for span in spans)
    seconds += learned * clock.rates("cnn-a", SUBSTITUTE_BATCH).weights if learned else 0.0
    if seconds < LONG:
        return []
    about = f"diagnosing takes at most about {duration(seconds)}, memory about {clock.memory()}"
    return ["; ".join([about, *_remarks(clock)])]


def _remarks(clock: Clock, busy: bool = True) -> list[str]:
    """What an estimate lacks, and what it was measured under."""
    lacking = [f"no estimate for {name}: {why}" for name, why in clock.lacks.items()]
    return [clock.busy(), *lacking] if busy and clock.busy() else lacking


def _in_turn(
    clock: Clock, attacks: Mapping[str, Attack | None], network: torch.nn.Module, images: int, standing: Standing
) -> Span:
    total, left = NONE, standing
    for name, attack in attacks.items():
        total = total.plus(clock.attack(name, attack, network, images, left) or NONE)
        left = Standing(standing.right * standing.stand, 1.0, standing.source)
    return total


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
