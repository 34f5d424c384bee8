"""Adversarial images beside their record: those that fool the network and their originals, compressed, with the hash of
the file in the record. Files of before originals were kept are read too.

A NumPy archive (.npz, deflate): it opens everywhere and, read without pickle, cannot run code; safetensors has no
compression. Written before the record, so a record that names a hash has its images.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from math import prod
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.ground.config import UserError, first_line
from bench.ground.files import write_atomic
from bench.ground.plain import read_plain
from bench.ledger.evals import EvalRecord
from bench.ledger.folder import Results

Images = NDArray[np.float32]
UNPACKED = 1 << 32  # bytes of the images of one record
HEADER = 1 << 12  # bytes before an array; NumPy writes 128


def fooled(table: pd.DataFrame) -> pd.Series:
    """Per image of a record's table, whether the attack turned a right answer into a wrong one, at any distance."""
    right = table["clean_prediction"] == table["label"]
    return right & (table["adversarial_prediction"] != table["label"])


class Pair(NamedTuple):
    """A kept image [C, H, W]. x: its original, None in files of before these were kept."""

    x_adv: Images
    x: Images | None


def keep(
    results: Results, run_id: str, eval_id: str, table: pd.DataFrame, x_adv: Images, x: Images | None = None
) -> str:
    """Writes those of x_adv [N, C, H, W] that fool, and their originals of x [N, C, H, W] where these are given, both
    in the order of the table; returns the file's SHA-256.
    """
    chosen = fooled(table).to_numpy()
    arrays = {"x_adv": x_adv} if x is None else {"x_adv": x_adv, "x": x}
    file = io.BytesIO()
    np.savez_compressed(
        file, image=table["image"].to_numpy()[chosen], **{name: images[chosen] for name, images in arrays.items()}
    )
    content = file.getvalue()
    write_atomic(results.adversarial(run_id, eval_id), lambda out: out.write(content))
    return hashlib.sha256(content).hexdigest()


def read(results: Results, record: EvalRecord, shape: tuple[int, ...] | None = None) -> dict[int, Images]:
    """Image id -> its kept adversarial image [C, H, W], which is `shape` where that is known; {} where none were kept.
    Raises UserError.
    """
    return {image: pair.x_adv for image, pair in read_pairs(results, record, shape).items()}


def read_pairs(results: Results, record: EvalRecord, shape: tuple[int, ...] | None = None) -> dict[int, Pair]:
    """As `read`, with the originals where they were kept. Raises UserError."""
    path = results.adversarial(record.run_id, record.eval_id)
    if record.adversarial_sha256 is None:
        return {}
    try:
        content = read_plain(path)
    except OSError as error:
        raise UserError(f"{path}: the record has adversarial images, but {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != record.adversarial_sha256:
        raise UserError(f"{path}: truncated or altered since the attack; delete it and its record and run again")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = sorted(archive.namelist())
            if names not in (["image.npy", "x_adv.npy"], ["image.npy", "x.npy", "x_adv.npy"]):
                raise ValueError(f"it holds {', '.join(archive.namelist()[:4]) or 'nothing'}, not image, x_adv and x")
            most = 4 * len(record.images) * prod(shape) if shape else UNPACKED
            image = _array(archive, "image", np.dtype("<i8"), 1, 8 * len(record.images))
            x_adv = _array(archive, "x_adv", np.dtype("<f4"), 4, most)
            x = _array(archive, "x", np.dtype("<f4"), 4, most) if "x.npy" in names else None
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: is no archive of adversarial images ({first_line(error)})") from error
    wanted = (len(image), *(shape or x_adv.shape[1:]))
    shapes = [x_adv.shape] if x is None else [x_adv.shape, x.shape]
    if any(found != wanted for found in shapes) or len(np.unique(image)) < len(image):
        raise UserError(
            f"{path}: its images are {' and '.join(str(list(found)) for found in shapes)} with {len(image)} numbers; "
            f"wanted {list(wanted)}, each number once; delete it and its record and run again"
        )
    originals = [None] * len(image) if x is None else list(x)
    return {one: Pair(*pair) for one, *pair in zip(image.tolist(), x_adv, originals, strict=True)}


def _array(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], axes: int, most: int) -> NDArray[Any]:
    """One array of the archive, at most `most` bytes of it. NumPy's own reader makes room for whatever a header says.

    Raises ValueError for what is of another type, or longer than it says, and what zipfile and zlib raise.
    """
    about = archive.getinfo(f"{name}.npy")
    if about.file_size > most + HEADER:
        raise ValueError(f"{name} unpacks to {about.file_size} bytes, more than the {most} of its record")
    file = io.BytesIO(archive.read(about))
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{name} is of another version of NumPy's format")
    shape, columns_first, found = np.lib.format.read_array_header_1_0(file)
    if found != dtype or len(shape) != axes or min(shape) < 0:
        raise ValueError(f"{name} is {found} {list(shape)}, not {dtype} of {axes} axes")
    body = file.read()
    if len(body) != prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} says that it is {list(shape)}, and holds {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if columns_first else "C").copy()
