"""The folder that records live in, and what every kind of record shares.

A file is written under a temporary name in its own folder and then renamed, so a file that exists is whole. Reading
trusts nothing: unknown or missing fields, an id that is not its path's, a verdict that contradicts its predictions, or
content that is not what was written (SHA-256) is a UserError with the file's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.ground.config import UserError
from bench.ledger.ids import check_id, training_of

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Another network that a record depends on, by its weights."""

    run_id: str
    weights_sha256: str


@dataclass(frozen=True)
class Results:
    """The folder that records live in. No id leads out of it: a bad one raises UserError."""

    root: Path

    def plan(self, name: str) -> Path:
        """The plan of a table."""
        return self.root / "plans" / f"{check_id(name)}.json"

    def training(self, training_id: str) -> Path:
        """The folder of all that one training made."""
        return self.root / "runs" / check_id(training_id)

    def run(self, run_id: str) -> Path:
        """The record of one network: runs/<training_id>/<label>.json."""
        return self.training(training_of(run_id)) / f"{run_id.rpartition('.')[2]}.json"

    def evals(self, run_id: str) -> Path:
        """The folder of all records of one network under attacks."""
        return self.root / "evals" / check_id(run_id)

    def history(self, training_id: str) -> Path:
        """The epochs of one training."""
        return self.training(training_id) / "history.json"

    def eval(self, run_id: str, eval_id: str) -> Path:
        """The record of one network under one attack."""
        return self.evals(run_id) / f"{check_id(eval_id)}.parquet"

    def adversarial(self, run_id: str, eval_id: str) -> Path:
        """The adversarial images of a record, where they were kept."""
        return self.eval(run_id, eval_id).with_suffix(".npz")

    def error(self, run_id: str, eval_id: str | None) -> Path:
        """Why a cell, or with eval_id None its training, has no number."""
        if eval_id is None:
            return self.training(training_of(run_id)) / "error.json"
        return self.eval(run_id, eval_id).with_suffix(".error.json")

    def diagnosis(self, run_id: str, norm: str, eps: float) -> Path:
        """The diagnosis of one network in one threat model."""
        return self.root / "diagnoses" / check_id(run_id) / f"{check_id(f'{norm.lower()}-{eps:g}')}.json"

    def certificate(self, run_id: str, certificate_id: str) -> Path:
        """What was proven of one network."""
        return self.root / "certificates" / check_id(run_id) / f"{check_id(certificate_id)}.json"

    def table(self, name: str) -> Path:
        """The table as CSV."""
        return self.root / "tables" / f"{check_id(name)}.csv"


def own(path: Path, record: T, **ids: str | None) -> T:
    """The record, if its ids are those that its path says. Raises UserError."""
    for name, value in ids.items():
        if getattr(record, name) != value:
            raise broken(path, f"its {name} is {getattr(record, name)!r}, not {value!r}")
    return record


def broken(path: Path, why: str) -> UserError:
    return UserError(f"{path}: {why}; delete it and run again")
