"""The stream of what is said while a command runs: those who work tell it, and listeners hear (`bench.ground.events`).

Nobody who works is asked to stop for it: how far a training or an attack is, is looked up by a thread, in numbers that
the processor has anyway.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console

from bench.ground.events import Counted, Event, Note
from bench.ground.listeners import Json, Lines, Listener, Live
from bench.ground.pace import Pace
from bench.ground.scalars import TensorBoard
from bench.ground.tally import Tally
from bench.ground.terminal import warn


class Progress:
    """Tells every event to its listeners, one at a time. pace: of a table. wrote, networks: what `RunEnd` names.

    On a terminal there is a view that moves, elsewhere plain lines, both on standard error. quiet: neither. json: each
    event on standard output, and neither. tensorboard: a folder for the curves of trainings. Raises UserError where
    that package is not there.
    """

    EVERY = 1.0  # seconds between two looks at what runs

    def __init__(self, quiet: bool = False, json: bool = False, tensorboard: Path | None = None) -> None:
        self.pace, self.tally = Pace({}), Tally()
        self.wrote, self.networks, self.failed = list[str](), list[str](), False
        self.listeners = list[Listener]()
        if json:
            self.listeners.append(Json())
        elif not quiet:
            self.listeners.append(self._on_standard_error())
        if tensorboard is not None:
            self.listeners.append(TensorBoard(tensorboard))
        self._lock, self._open = threading.RLock(), ExitStack()
        self._before = Told.muted
        self._mute = quiet or json  # standard error is then for what goes wrong

    def _on_standard_error(self) -> Listener:
        """A view where the cursor can be moved; not so on a terminal that is dumb, or one that is only pretended."""
        console = Console(stderr=True, highlight=False)
        moves = console.is_terminal and console.file.isatty() and not console.is_dumb_terminal
        return Live(console, self.tally, lambda: self.pace.left()) if moves else Lines(console)

    def __enter__(self) -> Progress:
        Told.muted = self._mute
        for one in self.listeners:
            self._open.enter_context(one)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Told.muted = self._before
        with self._open:
            if self.tally.begun is not None:
                stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
                failed = kind is not None or self.failed or bool(self.tally.failed)
                outcome = "stopped" if stopped else "failed" if failed else "done"
                self.tell(self.tally.end(outcome, self.wrote, self.networks))

    def tell(self, event: Event) -> None:
        """Something happened. From any thread."""
        with self._lock:
            if self.tally.known(event):
                return
            self.tally.hear(event)
            for one in self.listeners:
                one.hear(event)

    def say(self, line: str) -> None:
        """A line that stays."""
        self.tell(Note(line))

    def done(self, one: Hashable, seconds: float) -> None:
        """A training or an attack of the table is done."""
        with self._lock:
            self.pace.done(one, seconds)

    def step(self) -> None:
        """A batch of a training is done."""

    def count(self, what: str, total: int) -> Callable[[], None]:
        """A function that says that another of `total` steps of something is done."""
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            self.tell(Counted(what, done, total))

        self.tell(Counted(what, 0, total))
        return advance

    @contextmanager
    def watching(self, look: Callable[[], Event | None]) -> Iterator[None]:
        """Inside, tell every EVERY seconds what `look` finds, and once at the end; not where nobody listens."""
        if not self.listeners:
            yield
            return
        over = threading.Event()

        def watch() -> None:
            while not over.wait(self.EVERY):
                if (found := look()) is not None and not over.is_set():
                    self.tell(found)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        if (found := look()) is not None:
            self.tell(found)


class Told:
    """How far something is that usually takes no time: silent for some seconds, then a line now and then on standard
    error. what: such as "reading images of my_folder". total: of what `at` counts. muted: while a command is quiet.
    """

    FIRST, EVERY = 3.0, 15.0  # seconds
    muted = False

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self._due = time.monotonic() + self.FIRST

    @staticmethod
    def once(what: str) -> None:
        """A line about something that takes seconds and has no steps."""
        if not Told.muted:
            warn(what)

    def at(self, done: int) -> None:
        """So many are done."""
        if time.monotonic() >= self._due and not Told.muted:
            warn(f"{self.what}: {done:,} of {self.total:,}")
            self._due = time.monotonic() + self.EVERY
