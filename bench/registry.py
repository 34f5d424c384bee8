"""Trained models on disk: save, find, load, verify.

One folder per training, `runs/<training_id>/`; in it, for each network and checkpoint, weights as safetensors (which
cannot run code) and a RunRecord that holds their SHA-256. The record is written last: where it exists, the model is
whole.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from safetensors.torch import save
from torch import nn

from bench import weights
from bench.config import UserError
from bench.records import Results, RunRecord, read_run, write_run


def save_weights(model: nn.Module, path: Path) -> str:
    """Write the model's weights and buffers as safetensors, atomically; returns their SHA-256. Raises UserError."""
    content = save({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()})
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"cannot write weights to {path}: {error.strerror or error}") from error
    return hashlib.sha256(content).hexdigest()


def register(results: Results, model: nn.Module, record: RunRecord) -> RunRecord:
    """Save the model under `record.run_id`; returns the record with the weights' SHA-256 filled in."""
    from dataclasses import replace

    digest = save_weights(model, weights_path(results, record))
    whole = replace(record, weights_sha256=digest)
    write_run(results, whole)
    return whole


def weights_path(results: Results, record: RunRecord) -> Path:
    """Where the weights of a run lie."""
    return results.training(record.training_id) / record.weights_file


def load(results: Results, run_id: str) -> tuple[nn.Module, RunRecord]:
    """The registered model in evaluation mode, and its record. Raises UserError when missing, truncated or altered."""
    record = read_run(results, run_id)
    c, h, w = record.image_shape
    model = weights.from_weights(
        weights_path(results, record),
        record.arch,
        (c, h, w),
        record.classes,
        sha256=record.weights_sha256,
    )
    return model, record
