"""The same sixty pictures in every form that a data set of one's own may have."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from safetensors.numpy import save_file

RANDOM = np.random.default_rng(0)
X = RANDOM.integers(0, 256, (60, 12, 10, 3), dtype=np.uint8)  # [N, H, W, C], higher than wide
Y = np.arange(60) // 20  # in the order of a folder's classes
NAMES = ("ape", "bee", "cat")


def coded(pixels: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, form, **options)
    return file.getvalue()


def pictures(folder: Path, x: np.ndarray = X, y: np.ndarray = Y, form: str = "PNG", names=NAMES, **options) -> Path:
    """One sub-folder a class."""
    for at, (pixels, label) in enumerate(zip(x, y, strict=True)):
        place = folder / names[label]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{at:03}.{form.lower()}").write_bytes(coded(pixels, form, **options))
    return folder


def saved(folder: Path, **arrays: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def npz(path: Path, pack: Callable = np.savez, **arrays: np.ndarray) -> Path:
    pack(path, **arrays)
    return path


def parquet(path: Path, image: str = "image", label: str = "label", y=Y, cells=None, **more) -> Path:
    cells = [{"bytes": coded(one), "path": None} for one in X] if cells is None else cells
    pd.DataFrame({image: cells, label: list(y), **more}).to_parquet(path, row_group_size=16)
    return path


def arrow(folder: Path, x: np.ndarray = X, y: np.ndarray = Y) -> Path:
    """As `datasets` saves to disk: streams of record batches, a state, names of the classes in the schema."""
    folder.mkdir(parents=True)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(NAMES)}}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    for number, rows in enumerate(np.array_split(np.arange(len(x)), 2)):
        cells = pa.array([{"bytes": coded(x[row]), "path": None} for row in rows])
        table = pa.table({"image": cells, "label": y[rows]}).replace_schema_metadata(told)
        name = folder / f"data-{number:05d}-of-00002.arrow"
        with pa.OSFile(str(name), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=7)
    (folder / "state.json").write_text("{}")
    return folder


def safetensors(path: Path, **arrays: np.ndarray) -> Path:
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


CHW = X.transpose(0, 3, 1, 2)
TEXTS = np.array(NAMES)[Y]
FORMS: dict[str, Callable[[Path], Path]] = {
    "PNG folder": lambda at: pictures(at / "it"),
    "WebP folder": lambda at: pictures(at / "it", form="WebP", lossless=True),
    "npz": lambda at: npz(at / "it.npz", x=X, y=Y),
    "compressed npz": lambda at: npz(at / "it.npz", np.savez_compressed, images=X, labels=Y),
    "npz, channels first": lambda at: npz(at / "it.npz", X_test=CHW, y_test=Y),
    "npz, no names": lambda at: npz(at / "it.npz", arr_0=X, arr_1=Y),
    "npz, labels first": lambda at: npz(at / "it.npz", arr_0=Y, arr_1=X),
    "npz, wide integers": lambda at: npz(at / "it.npz", x=X.astype(np.int64), y=Y),
    "npz, Fortran's order": lambda at: npz(at / "it.npz", x=np.asfortranarray(X), y=Y),
    "npz, labels as floats": lambda at: npz(at / "it.npz", x=X, y=Y.astype(np.float32)),
    "npz, labels in a column": lambda at: npz(at / "it.npz", x=X, y=Y[:, None].astype(np.uint8)),
    "npz, one-hot": lambda at: npz(at / "it.npz", x=X, y=np.eye(3)[Y]),
    "npz, texts": lambda at: npz(at / "it.npz", x=X, y=TEXTS),
    "npz, texts as bytes": lambda at: npz(at / "it.npz", x=X, y=TEXTS.astype("S")),
    "npy folder": lambda at: saved(at / "it", images=X, labels=Y),
    "npy file": lambda at: saved(at, it=X, labels=Y) / "it.npy",
    "npy file of a part": lambda at: saved(at, it_test=X, y_test=Y, y_train=Y[:9]) / "it_test.npy",
    "floats": lambda at: saved(at / "it", x=X / np.float32(255), y=Y),
    "doubles": lambda at: saved(at / "it", x=X / 255, y=Y),
    "big-endian floats": lambda at: saved(at / "it", x=(X / np.float32(255)).astype(">f4"), y=Y),
    "safetensors": lambda at: safetensors(at / "it.safetensors", images=CHW, labels=Y),
    "Parquet": lambda at: parquet(at / "it.parquet"),
    "Parquet, texts": lambda at: parquet(at / "it.parquet", y=TEXTS),
    "Parquet, bytes": lambda at: parquet(at / "it.parquet", "photo", "what", cells=[coded(one) for one in X]),
    "Parquet folder": lambda at: parquet(saved(at / "it") / "data.parquet").parent,
    "datasets": lambda at: arrow(at / "it"),
}
