"""One record (JSON) where a cell failed: why it has no number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.ground.config import UserError
from bench.ground.files import read_json, write_json
from bench.ground.provenance import Provenance
from bench.ledger.folder import Results, own
from bench.ledger.ids import training_of


@dataclass(frozen=True)
class ErrorRecord:
    """A cell that failed. eval_id: None where the training failed. reason: one sentence; detail: the
    traceback.
    """

    run_id: str
    eval_id: str | None
    reason: str
    detail: str
    provenance: Provenance


def write_error(results: Results, record: ErrorRecord) -> Path:
    """Writes atomically; returns the path. Raises UserError."""
    return write_json(results.error(record.run_id, record.eval_id), record)


def read_error(results: Results, run_id: str, eval_id: str | None) -> ErrorRecord | None:
    """The error of a cell, or None where there is none. Raises UserError when it is broken.

    A training's error is one for all its networks, so its run_id may be a sibling's.
    """
    path = results.error(run_id, eval_id)
    if not path.exists():
        return None
    record = read_json(path, ErrorRecord)
    if eval_id is None and training_of(record.run_id) == training_of(run_id):
        return own(path, record, eval_id=None)
    return own(path, record, run_id=run_id, eval_id=eval_id)


def clear_error(results: Results, run_id: str, eval_id: str | None) -> None:
    """Forgets the error of a cell that has worked since. Raises UserError."""
    path = results.error(run_id, eval_id)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {path}: {error.strerror or error}") from error
