"""Who listens to the events of a command: a view on a terminal, plain lines, JSON lines. TensorBoard: `scalars`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live as Screen
from rich.text import Text

from bench.ground import events
from bench.ground.events import Event
from bench.ground.provenance import seconds_since_1970
from bench.ground.tally import Tally
from bench.ground.terminal import visible

SHOWN = 8  # trainings and attacks that run, at most a line each
BAR = 12  # characters
REFRESHES = 2  # a second


class Listener:
    """Hears every event, one at a time; open while the command runs."""

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def hear(self, event: Event) -> None:
        """Do something about it."""
        raise NotImplementedError


class Lines(Listener):
    """The lines that stay, on standard error."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def hear(self, event: Event) -> None:
        """Print what a person reads of it."""
        for line in event.lines():
            self.console.print(visible(line), markup=False, soft_wrap=True)


class Live(Lines):
    """The lines that stay and, below them, how far everything is. left: the time left, in words.

    Redrawn by a thread of its own, from what it has heard: whoever works only sets values.
    """

    def __init__(self, console: Console, tally: Tally, left: Callable[[], str]) -> None:
        super().__init__(console)
        self.tally, self.left, self.counted, self.words = tally, left, "", ""
        self.screen = Screen(
            console=console,
            get_renderable=self.view,
            refresh_per_second=REFRESHES,
            transient=True,
            redirect_stdout=False,  # a result that is written to a file stays there
        )

    def __enter__(self) -> Live:
        self.screen.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.screen.stop()

    def hear(self, event: Event) -> None:
        """Print lines above the view; the tally has heard it already."""
        super().hear(event)
        self.words = self.left()  # here, where no other thread changes what it is reckoned from
        if isinstance(event, events.Counted):
            self.counted = f"{event.what} {_bar(event.done, event.total)} {event.done}/{event.total}"

    def view(self) -> Group:
        """The whole, then what runs, a line each, cut at the edge of the terminal."""
        running = list(self.tally.running.values())
        lines = [*self._whole(), *map(self._running, running[:SHOWN])]
        lines += [f"and {len(running) - SHOWN} more"] if len(running) > SHOWN else []
        return Group(*(Text(visible(line), no_wrap=True, overflow="ellipsis") for line in lines))

    def _running(self, event: Event) -> str:
        """What it is, and of a training how its last epoch ended."""
        last = self.tally.epochs.get(event.training) if isinstance(event, events.TrainProgress) else None
        return said(event) + (f"; {last.figures}" if last else "")

    def _whole(self) -> list[str]:
        tally, begun = self.tally, self.tally.begun
        if begun is None:
            return [self.counted] if self.counted else []
        counts = f"{tally.done}/{begun.cells} cells, {tally.attacks} running, {tally.to_come} to come"
        counts += f", {len(tally.failed)} failed" if tally.failed else ""
        forward, backward = tally.passes
        cost = f"{_clock(tally.seconds)}, passes: {_short(forward)} forward, {_short(backward)} backward"
        return [f"{begun.name}: {counts}" if begun.cells else begun.name, *filter(None, [self.words]), cost]


class Json(Listener):
    """Each event as one JSON object on a line of standard output; see docs/progress.md.

    While it is open, whatever else prints to standard output, such as a model's own code, goes to standard error.
    """

    def __init__(self) -> None:
        self.out: TextIO = sys.stdout

    def __enter__(self) -> Json:
        sys.stdout = sys.stderr
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stdout = self.out

    def hear(self, event: Event) -> None:
        """Print it, whole, at once."""
        content = {"event": event.kind, "time": seconds_since_1970()} | vars(event)
        self.out.write(json.dumps(_finite(content), allow_nan=False) + "\n")
        self.out.flush()


def said(event: Event) -> str:
    """One line about something that runs."""
    match event:
        case events.TrainBegin():
            return f"{_bar(event.epoch, event.epochs)} training {event.training}"
        case events.TrainEpoch():
            return f"{_bar(event.epoch, event.epochs)} {event.figures}: training {event.training}"
        case events.TrainProgress():
            done, whole = (event.epoch - 1) * event.steps + event.step, event.epochs * event.steps
            rate = f"{event.images_per_second:,.0f} images/s"
            return f"{_bar(done, whole)} epoch {event.epoch}/{event.epochs}, {rate}: training {event.training}"
        case events.AttackBegin():
            return f"{event.row} / {event.column}: {event.images} images"
        case events.AttackProgress():
            standing = "" if event.standing is None else f"{event.standing} stand, "
            return f"{event.row} / {event.column}: {standing}{event.images_per_second:,.0f} images/s"
    return ""


def _bar(done: int, total: int) -> str:
    full = BAR * min(done, total) // max(1, total)
    return f"[{'=' * full}{' ' * (BAR - full)}]"


def _short(number: int) -> str:
    """1234567 -> "1.2M"."""
    for size, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return str(number)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _finite(value: Any) -> Any:
    """The value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
