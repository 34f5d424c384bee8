"""Curves of trainings for TensorBoard: a folder for each training, a point for each epoch. An extra; without torch."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from bench.ground import events
from bench.ground.config import UserError, first_line
from bench.ground.events import Event
from bench.ground.listeners import Listener
from bench.ground.provenance import seconds_since_1970


class TensorBoard(Listener):
    """Writes FOLDER/TRAINING. Raises UserError where the package is not there, and where nothing can be written."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.backend.event_processing import event_accumulator  # noqa: F401
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer import event_file_writer
        except ImportError as error:
            raise UserError(
                "--tensorboard needs the package tensorboard, which is not here "
                f"({first_line(error)}); pip install 'robustness-bench[tensorboard]', or leave it out"
            ) from None
        self.folder, self.events, self.summaries, self.files = folder, event_pb2, summary_pb2, event_file_writer
        self.writers: dict[str, Any] = {}
        self.there: dict[str, set[int]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--tensorboard {folder}: {error.strerror or error}; give a folder to write to") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for training in list(self.writers):
            self.writers.pop(training).close()

    def hear(self, event: Event) -> None:
        """Begin, continue or end a curve."""
        if isinstance(event, events.TrainBegin):
            self._begin(event)
        elif isinstance(event, events.TrainEpoch) and event.training in self.writers:
            if event.epoch not in self.there[event.training]:
                self._write(event)
        elif isinstance(event, events.TrainEnd) and event.training in self.writers:
            self.writers.pop(event.training).close()

    def _begin(self, event: events.TrainBegin) -> None:
        """Go on after the epochs of the checkpoint: points beyond them, of a training that was begun anew, are void."""
        place = self.folder / event.training
        written = _steps(place) if place.exists() else set()
        self.there[event.training] = {step for step in written if step <= event.epoch}
        writer = self.writers[event.training] = self.files.EventFileWriter(str(place), filename_suffix=".bench")
        if written:
            log = self.events.SessionLog(status=self.events.SessionLog.START)
            writer.add_event(self.events.Event(wall_time=seconds_since_1970(), step=event.epoch + 1, session_log=log))
            writer.flush()

    def _write(self, event: events.TrainEpoch) -> None:
        points = {"loss": event.loss, "lr": event.lr, "seconds": event.seconds}
        for name, values in (("clean", event.clean), ("robust", event.robust)):
            for n, value in enumerate(values, 1):
                points[f"validation/{name}" + (f"-h{n}" if len(values) > 1 else "")] = value
        values = [self.summaries.Summary.Value(tag=tag, simple_value=value) for tag, value in points.items()]
        summary, writer = self.summaries.Summary(value=values), self.writers[event.training]
        writer.add_event(self.events.Event(wall_time=seconds_since_1970(), step=event.epoch, summary=summary))
        writer.flush()  # a process that is killed leaves every epoch that it told of


def _steps(folder: Path) -> set[int]:
    """The epochs that have their point, as TensorBoard itself reads the files."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    read.Reload()
    return {one.step for one in read.Scalars("loss")} if "loss" in read.Tags()[SCALARS] else set()
