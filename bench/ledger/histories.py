"""One record (JSON) per training: what was measured after each epoch. Trainings of older releases have none."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.ground.files import read_json, write_json
from bench.ledger.folder import Results, own


@dataclass(frozen=True)
class Epoch:
    """loss: the mean over networks; lr: of the last step. clean, robust, single_step: validation accuracies in [0, 1]
    of each network; robust is under PGD, single_step under one step of length eps. seconds: with validation.
    """

    epoch: int
    loss: float
    lr: float
    clean: list[float]
    robust: list[float]
    single_step: list[float]
    seconds: float


@dataclass(frozen=True)
class HistoryRecord:
    """The epochs of one training, in order. Raises ValueError where they are not 1, 2, ..., or of other networks."""

    training_id: str
    epochs: list[Epoch] = field(default_factory=list)

    def __post_init__(self) -> None:
        if [one.epoch for one in self.epochs] != list(range(1, len(self.epochs) + 1)):
            raise ValueError("its epochs are not 1, 2, 3, ...")
        if len({len(figures) for one in self.epochs for figures in (one.clean, one.robust, one.single_step)}) > 1:
            raise ValueError("its epochs are not of the same networks")


def write_history(results: Results, record: HistoryRecord) -> Path:
    """Writes atomically; returns the path. Raises UserError."""
    return write_json(results.history(record.training_id), record)


def read_history(results: Results, training_id: str) -> HistoryRecord | None:
    """None where there is none. Raises UserError when it is broken or another training's."""
    path = results.history(training_id)
    return own(path, read_json(path, HistoryRecord), training_id=training_id) if path.exists() else None
