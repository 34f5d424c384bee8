"""What the events of a command come to: cells done, running and to come, trainings, passes."""

from __future__ import annotations

import time

from bench.ground import events
from bench.ground.events import Event

Key = tuple[str, str]


class Tally:
    """Counts. running: what is at work, by training or cell, with the last that was said of it."""

    def __init__(self) -> None:
        self.begun: events.RunBegin | None = None
        self.started = time.monotonic()
        self.attacked: set[Key] = set()
        self.failed: set[Key] = set()
        self.others: set[Key] = set()  # cells that another process made
        self.trained = 0
        self.running: dict[str | Key, Event] = {}
        self.epochs: dict[str, events.TrainEpoch] = {}  # the last of each training
        self._passes: dict[str | Key, list[int]] = {}  # of an attack the last said, of a training all epochs

    def hear(self, event: Event) -> None:
        """Count it."""
        match event:
            case events.RunBegin():
                self.begun = event
            case events.TrainBegin() | events.TrainProgress():
                self.running[event.training] = event
            case events.TrainEpoch():
                self._hear_epoch(event)
            case events.TrainEnd() | events.TrainFailed():
                self.running.pop(event.training, None)
                self.trained += isinstance(event, events.TrainEnd)
            case events.Cell():
                self._hear_cell(event, (event.run_id, event.eval_id))

    def known(self, event: Event) -> bool:
        """Whether it says of a cell what was said: such as a cell kept that a helper made."""
        if not isinstance(event, events.CellKept | events.CellFailed):
            return False
        return (event.run_id, event.eval_id) in self.attacked | self.others | self.failed

    @property
    def kept(self) -> int:
        """Cells that this command found with their record, at its begin or later."""
        return (self.begun.kept if self.begun else 0) + len(self.others)

    @property
    def done(self) -> int:
        """Cells that have their record."""
        return self.kept + len(self.attacked)

    @property
    def attacks(self) -> int:
        """Cells that are at work."""
        return sum(isinstance(one, tuple) for one in list(self.running))  # a copy: the view reads from another thread

    @property
    def to_come(self) -> int:
        """Cells that nobody has begun."""
        cells = self.begun.cells if self.begun else 0
        return max(0, cells - self.done - len(self.failed) - self.attacks)

    @property
    def passes(self) -> tuple[int, int]:
        """Forward and backward so far."""
        forward, backward = (
            (sum(column) for column in zip(*self._passes.values(), strict=True)) if self._passes else (0, 0)
        )
        return forward, backward

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.started

    def end(self, outcome: str, wrote: list[str], networks: list[str]) -> events.RunEnd:
        """What a command that ends comes to. outcome: as in `events.RunEnd`."""
        assert outcome in ("done", "failed", "stopped")
        counts = (self.trained, len(self.attacked), self.kept, len(self.failed))
        return events.RunEnd(outcome, *counts, self.seconds, *self.passes, wrote, networks)  # type: ignore[arg-type]

    def _hear_epoch(self, event: events.TrainEpoch) -> None:
        self.running[event.training] = self.epochs[event.training] = event
        if not event.again:
            passes = self._passes.setdefault(event.training, [0, 0])
            passes[0] += event.forward_passes
            passes[1] += event.backward_passes

    def _hear_cell(self, event: events.Cell, key: Key) -> None:
        self.running.pop(key, None)
        if isinstance(event, events.AttackProgress | events.AttackEnd):
            self._passes[key] = [event.forward_passes, event.backward_passes]
        if isinstance(event, events.AttackBegin | events.AttackProgress):
            self.running[key] = event
        elif isinstance(event, events.AttackEnd):
            self.attacked.add(key)
        elif isinstance(event, events.CellKept):
            self.others.add(key)
        elif isinstance(event, events.CellFailed):
            self.failed.add(key)
