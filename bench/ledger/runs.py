"""One record (JSON) per trained network and checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

from bench.ground.files import read_json, write_json
from bench.ground.provenance import Provenance, TrainingCost, check_cost
from bench.ledger.folder import Results, Source, own
from bench.ledger.ids import LABEL, check_seed, training_of

WIDEST = 1 << 16  # pixels of a side, channels, classes: far more than any data set has
LARGEST = 1 << 28  # values of an image
IMPORTED = "imported"  # the trainer of a network that `bench import` registered


@dataclass(frozen=True)
class RunRecord:
    """One trained network at one checkpoint. image_shape: [C, H, W]. images_sha256: training images.

    epoch: the checkpoint's. health: what is wrong with the network, over its whole training; [] is healthy. teacher:
    the frozen network it learned from. run_as: how the networks were run, where not as they are, and what else
    there is to know of their training. reading: see evals. outside: "trainer" or an architecture -> the package and
    the code that it is of, where that is not this repository's.
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
    run_as: str = field(default="", kw_only=True)
    reading: dict[str, str | int] | None = field(default=None, kw_only=True, metadata={"since": 2})
    outside: dict[str, str] | None = field(default=None, kw_only=True, metadata={"since": 3})

    def __post_init__(self) -> None:
        if training_of(self.run_id) != self.training_id:
            raise ValueError(f"run_id {self.run_id!r} is not of training {self.training_id!r}")
        if len(self.image_shape) != 3 or not all(1 <= side <= WIDEST for side in self.image_shape):
            raise ValueError(f"image_shape {self.image_shape} is no [C, H, W], each of 1 to {WIDEST}")
        if prod(self.image_shape) > LARGEST:
            raise ValueError(f"image_shape {self.image_shape} has more than {LARGEST} values")
        if not 2 <= self.classes <= WIDEST:
            raise ValueError(f"classes {self.classes} is not within 2 to {WIDEST}")
        if not 0 <= self.member < WIDEST or not 0 <= self.epoch < LARGEST:
            raise ValueError(f"member {self.member} or epoch {self.epoch} is no count")
        check_seed(self.seed)
        check_cost(self.cost)
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
