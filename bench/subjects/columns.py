"""Pictures and labels in columns: Parquet files, and what `datasets` of Hugging Face saves to disk (Arrow).

A column of pictures is read a row group at a time, and only the groups that hold pictures that are asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.ground.config import UserError
from bench.ground.plain import check_plain
from bench.subjects.arrays import LABEL as NAMES
from bench.subjects.arrays import PARTS
from bench.subjects.pictures import Cell

MOST_ROWS = 10_000_000  # of a file
IMAGE, LABEL = ("img", "image"), ("fine_label", "label")


class Block(NamedTuple):
    """Rows that are read at once. read: names of columns -> pyarrow's table of them."""

    path: Path
    begin: int  # the row of its file that it begins with
    size: int
    read: Callable[[list[str]], Any]


@dataclass
class Columns:
    """One part of a data set: blocks of rows, and the schema that all of them have."""

    blocks: list[Block]
    schema: Any
    _last: tuple[int, str, Any] | None = field(default=None, init=False)  # the block of pictures read last

    def __len__(self) -> int:
        return sum(block.size for block in self.blocks)

    def names(self, label: str) -> tuple[str, ...]:
        """Names of the classes, where the file says them as Hugging Face's `datasets` does."""
        try:
            told = json.loads((self.schema.metadata or {})[b"huggingface"])
            return tuple(map(str, told["info"]["features"][label]["names"]))
        except (KeyError, ValueError, TypeError):
            return ()

    def labels(self, column: str) -> np.ndarray:
        """All labels [N]. Raises UserError for missing ones, and where they are no numbers or texts."""
        import pyarrow as pa

        parts = []
        for block in self.blocks:
            values = _read(block, [column]).column(column)
            values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
            if pa.types.is_dictionary(values.type):
                values = values.cast(values.type.value_type)
            if values.null_count:
                raise UserError(f"{block.path}: {values.null_count} rows have no {column}")
            kind = values.type
            text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            if not (text or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
                raise UserError(f"{block.path}: {column} is a column of {kind}, not of whole numbers or texts")
            parts.append(np.array(values.to_pylist(), dtype=str) if text else values.to_numpy(zero_copy_only=False))
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def cells(self, column: str, rows: np.ndarray) -> Iterator[Cell]:
        """The pictures of these rows."""
        begin = 0
        for number, block in enumerate(self.blocks):
            within = np.flatnonzero((rows >= begin) & (rows < begin + block.size))
            if len(within):
                if self._last is None or self._last[:2] != (number, column):
                    self._last = number, column, _read(block, [column]).column(column)
                values = self._last[2]
                for at in within.tolist():
                    row = int(rows[at]) - begin
                    yield Cell(at, values[row].as_py, f"{block.path}, row {block.begin + row}")
            begin += block.size


def _read(block: Block, columns: list[str]) -> Any:
    import pyarrow as pa

    try:
        table = block.read(columns)
        table.validate(full=True)  # following an offset that points outside of a damaged file ends the process
        return table
    except (OSError, pa.ArrowException, UnicodeDecodeError, KeyError) as error:  # KeyError: a name with a 0 in it
        raise UserError(f"{block.path} is not a whole Parquet or Arrow file ({str(error).splitlines()[0]})") from error


def _named(schema: Any) -> Any:
    """The schema, whose names can be read. Raises UnicodeDecodeError."""
    _ = schema.names
    return schema


def parquet(paths: Sequence[Path]) -> Columns:
    """The rows of these files, one after another. Raises UserError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    blocks, schema = [], None
    for path in paths:
        try:
            check_plain(path)
            file = pq.ParquetFile(path)
            if (rows := file.metadata.num_rows) > MOST_ROWS:  # a few bytes may say billions
                raise UserError(f"{path} has {rows} rows, more than {MOST_ROWS}")
            counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            schema = schema or _named(file.schema_arrow)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not a whole Parquet file ({str(error).splitlines()[0]})") from error
        if not rows:
            raise UserError(f"{path} holds no image")
        for group, count in enumerate(counts):
            blocks.append(Block(path, sum(counts[:group]), count, _row_group(path, group)))
    return Columns(blocks, schema)


def _row_group(path: Path, group: int) -> Callable[[list[str]], Any]:
    import pyarrow.parquet as pq

    return lambda columns: pq.ParquetFile(path).read_row_group(group, columns=columns)


def arrow(paths: Sequence[Path]) -> Columns:
    """The rows of files that `datasets` wrote, mapped and not loaded. Raises UserError."""
    import pyarrow as pa

    blocks, schema = [], None
    for path in paths:
        try:
            check_plain(path, most=1 << 44)
            with pa.memory_map(str(path)) as file:
                table = pa.ipc.open_stream(file).read_all()
            schema = schema or _named(table.schema)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise UserError(f"{path} is no Arrow file as datasets writes it ({str(error).splitlines()[0]})") from error
        blocks.append(Block(path, 0, table.num_rows, table.select))
    return Columns(blocks, schema)


def shards(folder: Path, split: str) -> list[Path]:
    """All files train-00000-of-00002.parquet and so on, in their order. Raises UserError for a missing one."""
    found = sorted(folder.glob(f"{split}-*-of-*.parquet"))
    if not found:
        raise UserError(f"{folder} holds no {split}-*-of-*.parquet")
    match = re.fullmatch(rf"{re.escape(split)}-(\d+)-of-(\d+)\.parquet", found[0].name)
    total = int(match[2]) if match else 0
    wanted = [folder / f"{split}-{index:05d}-of-{total:05d}.parquet" for index in range(total)]
    missing = [path.name for path in wanted if not path.exists()]
    if missing:
        raise UserError(f"{folder}: shards of {split} are incomplete; missing {', '.join(missing)}")
    if found != wanted:
        extra = ", ".join(path.name for path in found if path not in wanted)
        raise UserError(f"{folder}: shards of {split} belong to two sets; {extra} is not of {total:05d}")
    return found


def parquet_files(folder: Path) -> dict[str, list[Path]]:
    """The Parquet files of a folder by part; one part "" where their names say none. Raises UserError."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.parquet")):
        found.setdefault(re.split(r"[-_.]", path.stem)[0], []).append(path)
    split = {name: shards(folder, name) if any("-of-" in path.name for path in paths) else paths
             for name, paths in found.items()}  # fmt: skip
    if len(split) == 1 and next(iter(split)) not in PARTS:
        return {"": next(iter(split.values()))}
    unknown = [name for name in split if name not in PARTS]
    if unknown:
        raise UserError(
            f"{folder} holds Parquet files of {', '.join(split)}; a file or folder with train and test (or one of "
            "them) is wanted: name one file"
        )
    return {PARTS[name]: paths for name, paths in split.items()}


def arrow_files(folder: Path) -> dict[str, list[Path]]:
    """The Arrow files of a folder that `datasets` saved: of a set in parts, or "" of one part. Raises UserError."""
    if (folder / "dataset_dict.json").is_file():
        parts = [one for one in sorted(folder.iterdir()) if one.is_dir() and (one / "state.json").is_file()]
        unknown = [one.name for one in parts if one.name not in PARTS]
        if unknown or not parts:
            raise UserError(f"{folder} holds the parts {', '.join(unknown) or 'none'}; name one of its folders")
        return {PARTS[one.name]: _arrow_of(one) for one in parts}
    return {"": _arrow_of(folder)}


def _arrow_of(folder: Path) -> list[Path]:
    found = sorted(folder.glob("data-*-of-*.arrow"))
    if not found or len(found) != int(found[0].stem.rpartition("-")[2]):
        raise UserError(f"{folder} holds {len(found)} files data-*-of-*.arrow, which are not all; save the set again")
    return found


def choose(schema: Any, where: str, image: str | None, label: str | None) -> tuple[str, str]:
    """The columns of pictures and of labels: those asked for, of the usual names, or the only ones of their kind.

    Raises UserError.
    """
    import pyarrow as pa

    names = schema.names
    asked = [name for name in (image, label) if name is not None]
    missing = [name for name in asked if names.count(name) != 1]
    binary = [f.name for f in schema if pa.types.is_struct(f.type) or pa.types.is_binary(f.type)]
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)
    others = [f.name for f in schema if pa.types.is_integer(f.type) or any(is_text(f.type) for is_text in texts)]
    image = image or _one(names, IMAGE) or _one(binary, binary)
    label = label or _one(names, LABEL) or _one(names, NAMES) or _one(others, others)
    if image is None or label is None or missing:
        raise UserError(
            f"{where} has columns {', '.join(names)}; wanted one img or image, and one fine_label or label, or say "
            "which: --columns image=NAME,label=NAME"
        )
    return image, label


def _one(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The only one of the wanted names that is there, and there once."""
    found = [name for name in names if name in wanted]
    return found[0] if len(found) == 1 else None
