"""What a person sees while it runs: one bar for the training or attack at hand, on standard error."""

from __future__ import annotations

import time
from collections.abc import Hashable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from bench.ground.pace import Pace
from bench.ground.terminal import visible, warn


class Progress:
    """Lines that stay and a bar that moves; without a terminal only the lines are printed. pace: of a table."""

    def __init__(self, quiet: bool = False) -> None:
        self.pace = Pace({})
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self.bar.add_task("", total=None, figures="", visible=False)

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(visible(line), markup=False, soft_wrap=True)

    def done(self, one: Hashable, seconds: float) -> None:
        """A training or an attack of the table is done."""
        self.pace.done(one, seconds)

    def begin(self, what: str, total: int) -> None:
        """A new thing to watch, in `total` steps."""
        self.bar.reset(self._task, total=total, description=what, figures="", visible=True)

    def advance(self) -> None:
        """One step done."""
        self.bar.update(self._task, advance=1)

    def at(self, step: int, figures: str) -> None:
        """So many steps done; figures replaces what stands beside the bar."""
        self.bar.update(self._task, completed=step, figures=figures)

    def end(self) -> None:
        """Nothing to watch any more."""
        self.bar.update(self._task, visible=False)


class Told:
    """How far something is that usually takes no time: silent for some seconds, then a line now and then on standard
    error. what: such as "reading images of my_folder". total: of what `at` counts.
    """

    FIRST, EVERY = 3.0, 15.0  # seconds

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self._due = time.monotonic() + self.FIRST

    def at(self, done: int) -> None:
        """So many are done."""
        if time.monotonic() >= self._due:
            warn(f"{self.what}: {done:,} of {self.total:,}")
            self._due = time.monotonic() + self.EVERY
