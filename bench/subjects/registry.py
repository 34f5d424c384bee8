"""Trained models on disk: save, find, load, verify.

One folder per training, `runs/<training_id>/`; in it, for each network and checkpoint, weights as safetensors (which
cannot run code) and a RunRecord that holds their SHA-256. The record is written last: where it exists, the model is
whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from bench.ground.config import UserError
from bench.ground.files import write_atomic
from bench.ground.plain import read_plain
from bench.ledger.folder import Results
from bench.ledger.runs import RunRecord, read_run, write_run
from bench.subjects import models, weights


def register(results: Results, state: dict[str, Tensor], record: RunRecord) -> RunRecord:
    """Save weights and buffers under `record.run_id`; returns the record with their SHA-256. Raises UserError.

    Where the same weights are registered already, nothing is written and their record is returned.
    """
    content = save({name: value.detach().cpu().contiguous() for name, value in state.items()})
    whole = replace(record, weights_sha256=hashlib.sha256(content).hexdigest())
    path = weights_path(results, record)
    if results.run(record.run_id).exists() and path.is_file() and read_plain(path) == content:
        known = read_run(results, record.run_id)
        if known.weights_sha256 == whole.weights_sha256:
            return known
    write_atomic(path, lambda file: file.write(content))
    write_run(results, whole)
    return whole


def weights_path(results: Results, record: RunRecord) -> Path:
    """Where the weights of a run lie."""
    return results.training(record.training_id) / record.weights_file


def load(results: Results, run_id: str, own: Collection[str] = ()) -> tuple[nn.Module, RunRecord]:
    """The registered model in evaluation mode, and its record. Raises UserError when missing, truncated or altered.

    own: the architectures of the form module:factory that the user named, also several joined by "+". A record that
    names another is refused: records are data, and never decide what code runs.
    """
    record = read_run(results, run_id)
    trusted = {part for arch in own for part in arch.split("+")}
    if any(models.is_own(arch) and arch not in trusted for arch in record.arch.split("+")):
        raise UserError(
            f"{results.run(run_id)}: loading its architecture {record.arch!r} runs that code; if you trust it, say so "
            f"with --arch {record.arch}"
        )
    c, h, w = record.image_shape
    model = weights.from_weights(
        weights_path(results, record),
        record.arch,
        (c, h, w),
        record.classes,
        sha256=record.weights_sha256,
    )
    return model, record
