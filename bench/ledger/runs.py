"""One record (JSON) per trained network and checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.ground.files import read_json, write_json
from bench.ground.provenance import Provenance, TrainingCost
from bench.ledger.folder import Results, Source, own
from bench.ledger.ids import LABEL, training_of


@dataclass(frozen=True)
class RunRecord:
    """One trained network at one checkpoint. image_shape: [C, H, W]. images_sha256: training images.

    epoch: the checkpoint's. health: what is wrong with the network, over its whole training; [] is healthy. teacher:
    the frozen network it learned from.
    """

    run_id: str
    training_id: str
    trainer: str
    recipe: str
    settings: dict[str, Any]
    dataset: str
    images_sha256: str
    arch: str
    image_shape: list[int]
    classes: int
    seed: int
    member: int
    checkpoint: Literal["best", "last"]
    epoch: int
    validation: dict[str, float]
    weights_sha256: str
    weights_file: str
    health: list[str]
    cost: TrainingCost
    provenance: Provenance
    teacher: Source | None = field(default=None, kw_only=True)
    validation_sha256: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if training_of(self.run_id) != self.training_id:
            raise ValueError(f"run_id {self.run_id!r} is not of training {self.training_id!r}")
        if self.weights_file != f"{self.run_id.rpartition('.')[2]}.safetensors":
            raise ValueError(f"weights_file {self.weights_file!r} is not the run's own safetensors file")


def write_run(results: Results, record: RunRecord) -> Path:
    """Writes atomically; returns the path. Raises UserError."""
    return write_json(results.run(record.run_id), record)


def read_run(results: Results, run_id: str) -> RunRecord:
    """Raises UserError when the record is missing, broken or another run's."""
    path = results.run(run_id)
    return own(path, read_json(path, RunRecord), run_id=run_id)


def list_runs(results: Results) -> list[str]:
    """All run ids that have a record, sorted."""
    paths = (results.root / "runs").glob("[!.]*/*.json")
    return sorted(f"{path.parent.name}.{path.stem}" for path in paths if LABEL.fullmatch(path.stem))
