"""Data on a machine without a network: the shards that arrived, and how a data set is cut into loads that travel."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.ground.config import UserError
from bench.subjects import data
from bench.subjects.data import Dataset, Images

SHARD = re.compile(r"(train|test)-(\d{5})-of-(\d{5})\.parquet")


def load(name: str, folder: Path | None) -> tuple[Dataset, str]:
    """The data set from Parquet shards in FOLDER, FOLDER/NAME or FOLDER/NAME/data, and what is missing of it, in words
    ("" where nothing is). digits needs no folder. Shards that are there are used in their order. Raises UserError.
    """
    if name == "digits":
        return data.load(name), ""
    if folder is None:
        raise UserError(f"say where {name} lies with --data, a folder of Parquet shards; nothing is downloaded here")
    if not folder.is_dir():
        raise UserError(f"data folder {folder} does not exist; copy the shards of {name} there")
    place = next((one for one in _places(folder, name) if _shards(one, "train")), None)
    if place is None:
        raise UserError(f"{folder} holds no train-*-of-*.parquet of {name}; copy the shards there")
    found = {split: _shards(place, split) for split in ("train", "test")}
    missing = [_missing(split, shards) for split, shards in found.items()]
    if not any(missing):
        return data.load(name, folder), ""
    if not found["test"]:
        raise UserError(f"{place} holds no test-*-of-*.parquet of {name}; copy one there")
    return _of_parts(name, found, "; ".join(filter(None, missing)))


def _of_parts(name: str, found: dict[str, list[Path]], missing: str) -> tuple[Dataset, str]:
    """What these shards hold, read as if they were all."""
    with tempfile.TemporaryDirectory() as linked:
        for split, shards in found.items():
            for number, shard in enumerate(shards):
                (Path(linked) / f"{split}-{number:05d}-of-{len(shards):05d}.parquet").symlink_to(shard.resolve())
        dataset = data.load(name, linked)
        parts = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
        read = {name: Images(part.x, part.y, part.ids) for name, part in parts.items()}  # while the links are there
        dataset = replace(dataset, **read)
    given = len(dataset.train) + len(dataset.validation)
    missing += f"; so {given} training and {len(dataset.test)} test images"
    return replace(dataset, source=f"Parquet files in {found['train'][0].parent}, {missing}"), missing


def _missing(split: str, shards: list[Path]) -> str:
    """In words; "" where all are there."""
    total = int(SHARD.fullmatch(shards[0].name)[3]) if shards else 1  # type: ignore[index]
    return "" if len(shards) == total else f"{len(shards)} of {total} {split} shards"


def _shards(place: Path, split: str) -> list[Path]:
    """Those of one split, in their order. Raises UserError where they are of two sets."""
    found = {path: SHARD.fullmatch(path.name) for path in sorted(place.glob(f"{split}-*-of-*.parquet"))}
    shards = {path: match for path, match in found.items() if match}
    if len({match[3] for match in shards.values()}) > 1:
        raise UserError(f"{place}: shards of {split} belong to two sets: {', '.join(path.name for path in shards)}")
    return list(shards)


def _places(folder: Path, name: str) -> list[Path]:
    return [folder / name, folder / name / "data", folder]


def pack(name: str, folder: Path, out: Path) -> list[Path]:
    """Loads of about equal size, one for each training shard: that shard, and its share of the test images. Returns
    their folders. Raises UserError.
    """
    place = next((one for one in _places(folder, name) if _shards(one, "train") and _shards(one, "test")), None)
    if place is None:
        raise UserError(f"{folder} holds no train-*-of-*.parquet and test-*-of-*.parquet of {name}")
    train = _shards(place, "train")
    loads = [out / f"load-{number}" for number in range(1, len(train) + 1)]
    for load, shard in zip(loads, train, strict=True):
        load.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shard, load / shard.name)
    _share(_shards(place, "test"), loads)
    return loads


def _share(test: list[Path], loads: list[Path]) -> None:
    """Cuts the test images into a shard for each load."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables([pq.read_table(path) for path in test])
    size = -(-table.num_rows // len(loads))
    for number, load in enumerate(loads):
        path = load / f"test-{number:05d}-of-{len(loads):05d}.parquet"
        pq.write_table(table.slice(number * size, size), path)
