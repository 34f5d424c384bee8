"""Where the pixels of a data set lie, and how some of them are read: never all at once, unless all are asked for.

What is read is a block of images [n, C, H, W], bytes that stand for multiples of 1/255 or floats in [0, 1]. A file is
mapped anew for each block, so what was read before does not stay in memory.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.ground.config import UserError
from bench.ground.plain import check_plain
from bench.ground.progress import Told

BLOCK = 1 << 26  # bytes that are read at once where much is read
Shape = tuple[int, int, int, int]


class Pixels(Protocol):
    """N images somewhere. shape: (N, C, H, W). dtype: uint8 or float32."""

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The images at these positions [n] int64 -> [n, C, H, W]. Raises UserError."""
        ...


@dataclass(frozen=True)
class Stored:
    """An array that lies in an open file as it lies in memory, also if the file's name is gone. shape: any. The file is
    this one's, and closed with it.
    """

    file: BufferedReader
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Any = "C"

    def __post_init__(self) -> None:
        weakref.finalize(self, self.file.close)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """A copy of these rows. Raises UserError where the file has become shorter."""
        if not len(rows):
            return np.empty((0, *self.shape[1:]), self.dtype)
        try:
            # numpy's own memmap, whose mapping ends with this function
            whole = np.memmap(self.file, self.dtype, "r", self.offset, self.shape, self.order)
        except (ValueError, OSError) as error:
            raise UserError(f"{self.file.name} is shorter than its header says ({error})") from error
        first, last = int(rows[0]), int(rows[-1])
        if last - first + 1 == len(rows) and (np.diff(rows) == 1).all():
            return np.array(whole[first : last + 1])
        return np.array(whole[rows])


class Held:
    """An array in memory, also one that is not C-contiguous."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows."""
        return self.values[rows]


@dataclass(frozen=True)
class Changed:
    """Other rows, each block of them changed when it is read. change: [n, ...] -> [n, C, H, W] of `dtype`."""

    rows: Any  # has read(rows)
    shape: Shape
    dtype: np.dtype[Any]
    change: Callable[[np.ndarray], np.ndarray]

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.change(self.rows.read(rows))


def blocks(count: int, row_bytes: int) -> Iterator[np.ndarray]:
    """Positions 0..count - 1 in turns of about BLOCK bytes."""
    step = max(1, BLOCK // max(1, row_bytes))
    for start in range(0, count, step):
        yield np.arange(start, min(start + step, count))


def row_bytes(pixels: Any) -> int:
    """Bytes of one image."""
    return int(np.prod(pixels.shape[1:])) * pixels.dtype.itemsize


def open_plain(path: Path) -> BufferedReader:
    """A plain file, open to be mapped. Raises UserError."""
    try:
        check_plain(path, most=1 << 44)
        return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


@dataclass(frozen=True)
class Files:
    """The files that a data set, or a part of it, is read from. root: they lie at it or below."""

    paths: Sequence[Path]
    root: Path

    @cached_property
    def sha256(self) -> str:
        """Over their names below the root and their bytes. Raises UserError."""
        return self._digest()

    def check_unchanged(self) -> None:
        """Raises UserError where they hold other bytes than when `sha256` was asked for."""
        if self._digest() != self.sha256:
            raise UserError(f"files of {self.root} changed while they were read; give the command again")

    def _digest(self) -> str:
        told, whole = Told(f"reading the files of {self.root}", len(self.paths)), hashlib.sha256()
        for at, path in enumerate(self.paths):
            try:
                with open_plain(path) as file:
                    one = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise UserError(f"{path}: {error.strerror or error}") from error
            inside = path.relative_to(self.root).as_posix() if self.root in path.parents else path.name
            whole.update(f"{inside}\0{one}\n".encode("utf-8", "surrogateescape"))
            told.at(at + 1)
        return whole.hexdigest()
