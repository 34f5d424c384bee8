"""Adversarial images beside their record: those that fool the network, compressed, with their hash in the record.

A NumPy archive (.npz, deflate): it opens everywhere and, read without pickle, cannot run code; safetensors has no
compression. Written before the record, so a record that names a hash has its images.
"""

from __future__ import annotations

import hashlib
import io
import zipfile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.ground.config import UserError
from bench.ground.files import write_atomic
from bench.ledger.evals import EvalHead
from bench.ledger.folder import Results

Images = NDArray[np.float32]


def fooled(table: pd.DataFrame) -> pd.Series:
    """Per image of a record's table, whether the attack turned a right answer into a wrong one, at any distance."""
    right = table["clean_prediction"] == table["label"]
    return right & (table["adversarial_prediction"] != table["label"])


def keep(results: Results, run_id: str, eval_id: str, table: pd.DataFrame, x_adv: Images) -> str:
    """Writes those of x_adv [N, C, H, W] that fool, in the order of the table; returns the file's SHA-256."""
    chosen = fooled(table).to_numpy()
    file = io.BytesIO()
    np.savez_compressed(file, image=table["image"].to_numpy()[chosen], x_adv=x_adv[chosen])
    content = file.getvalue()
    write_atomic(results.adversarial(run_id, eval_id), lambda out: out.write(content))
    return hashlib.sha256(content).hexdigest()


def read(results: Results, record: EvalHead) -> dict[int, Images]:
    """Image id -> its kept adversarial image [C, H, W]; {} where none were kept. Raises UserError."""
    path = results.adversarial(record.run_id, record.eval_id)
    if record.adversarial_sha256 is None:
        return {}
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the record has adversarial images, but {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != record.adversarial_sha256:
        raise UserError(f"{path}: truncated or altered since the attack; delete it and its record and run again")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(zip(arrays["image"].tolist(), arrays["x_adv"], strict=True))
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: is no archive of adversarial images ({error})") from error
