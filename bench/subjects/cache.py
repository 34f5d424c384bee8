"""Decoded images and what was found out about them, kept in a folder for the next command; safe to delete any time.

The folder is BENCH_CACHE, or `bench` in XDG_CACHE_HOME, or ~/.cache/bench. An entry is named by a hash of everything
that made it: the bytes of the source's files, how they were read, and VERSION. It is whole or absent, carries a CRC-32
of its bytes that is held to whenever it is opened, and is made again where that is wrong. Where the folder cannot be
written, that is said once, and commands work without.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from bench.ground import terminal
from bench.ground.config import CannotWrite, UserError
from bench.ground.files import cache_folder, write_atomic
from bench.ground.locks import locked
from bench.ground.plain import TEXT, read_plain
from bench.ground.progress import Told
from bench.subjects.pixels import BLOCK, Files, Pixels, Shape, Stored, blocks, open_plain, row_bytes

VERSION = 1  # raise it when pictures are decoded otherwise
FEW, SHARE = 256, 8  # so few images, and not more than this part, are not worth decoding all for
CHECKSUM = 8  # bytes at the end of an entry


def key(*parts: Any) -> str:
    """The name of an entry: 32 hexadecimal digits."""
    text = json.dumps([VERSION, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Kept:
    """Pixels that take time to make, kept in the cache once more than a few of them are read."""

    def __init__(self, source: Pixels, files: Files, how: tuple[Any, ...], what: str) -> None:
        """files, how: what the entry is named by, see `key`; their bytes, and how they are read. what: in words."""
        self.source, self.files, self.how, self.what = source, files, how, what
        self._whole: Stored | np.ndarray | None = None

    @property
    def shape(self) -> Shape:
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    @cached_property
    def path(self) -> Path:
        """Of the entry, which may not be there."""
        return _path(key(self.files.sha256, *self.how))

    def read(self, rows: np.ndarray) -> np.ndarray:
        """As `Pixels.read`."""
        if self._whole is None:
            self._whole = _recall(self.path, self._layout, self.dtype)
        if self._whole is None and len(rows) <= min(FEW, self.shape[0] // SHARE):
            return self.source.read(rows)
        if self._whole is None:
            self._whole = self._make()
        found = self._whole.read(rows) if isinstance(self._whole, Stored) else self._whole[rows]
        return found.transpose(0, 3, 1, 2)

    @property
    def _layout(self) -> Shape:
        n, c, h, w = self.shape
        return n, h, w, c

    def _make(self) -> Stored | np.ndarray:
        """In the cache or, where that cannot be written, in memory."""
        path = self.path
        try:
            with locked(path.with_suffix(".lock")):
                made = _recall(path, self._layout, self.dtype)  # another process may have been at it
                return made or _keep(path, self._layout, self.dtype, self._unchanged())
        except CannotWrite as error:
            _without(str(error))
            return np.concatenate(list(self._blocks()))

    def _unchanged(self) -> Iterator[np.ndarray]:
        """`_blocks`. Raises UserError where the files became others meanwhile, which the name would not say."""
        yield from self._blocks()
        self.files.check_unchanged()

    def _blocks(self) -> Iterator[np.ndarray]:
        """All images in turns, [n, H, W, C]."""
        told, size = Told(f"decoding {self.what}", self.shape[0]), row_bytes(self.source)
        for rows in blocks(self.shape[0], max(size, BLOCK // 1024)):
            yield np.ascontiguousarray(self.source.read(rows).transpose(0, 2, 3, 1))
            told.at(int(rows[-1]) + 1)


def remembered(name: str, find: Callable[[], Any]) -> Any:
    """What `find` returns, plain JSON, or what it returned when it was asked for under this name before."""
    path = _path(name).with_suffix(".json")
    try:
        content, _, checksum = read_plain(path, TEXT).rpartition(b"\n")
        if checksum.decode() == _hex(zlib.crc32(content)):
            return json.loads(content)
    except (OSError, ValueError):
        pass  # not there, or damaged: it is found again
    found = find()
    content = json.dumps(found).encode()
    try:
        write_atomic(path, lambda file: file.write(content + b"\n" + _hex(zlib.crc32(content)).encode()))
    except CannotWrite as error:
        _without(str(error))
    return found


def _path(name: str) -> Path:
    return cache_folder() / "images" / f"{name}.npy"


def _hex(checksum: int) -> str:
    return f"{checksum:0{CHECKSUM}x}"


def _keep(path: Path, shape: Shape, dtype: np.dtype[Any], content: Iterable[np.ndarray]) -> Stored:
    """Write an entry: a .npy file, and behind it the checksum of all of it. Raises UserError."""

    def fill(file: IO[bytes]) -> None:
        header = io.BytesIO()
        layout = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, layout)
        file.write(header.getvalue())
        checksum = zlib.crc32(header.getvalue())
        for block in content:
            file.write(block.data)
            checksum = zlib.crc32(block.data, checksum)
        file.write(_hex(checksum).encode())

    write_atomic(path, fill)
    made = _recall(path, shape, dtype)
    if made is None:
        raise CannotWrite(f"{path} cannot be read back")
    return made


def _recall(path: Path, shape: Shape, dtype: np.dtype[Any]) -> Stored | None:
    """The entry, if it is there and whole; a damaged one is removed."""
    if not path.exists():
        return None
    file = None
    try:
        file = open_plain(path)
        if _checksum(file) == file.read(CHECKSUM).decode():
            file.seek(0)
            np.lib.format.read_magic(file)
            found, _, kind = np.lib.format.read_array_header_1_0(file)
            if (found, kind) == (shape, dtype):
                return Stored(file, file.tell(), shape, dtype)
    except (UserError, OSError, ValueError):
        pass  # no entry of ours: as a damaged one
    if file is not None:
        file.close()
    terminal.warn(f"{path} is damaged; it is made again")
    path.unlink(missing_ok=True)
    return None


def _checksum(file: IO[bytes]) -> str:
    """Of all but the end, where the file then stands."""
    checksum, left = 0, os.fstat(file.fileno()).st_size - CHECKSUM
    while left > 0 and (content := file.read(min(left, 1 << 22))):
        checksum, left = zlib.crc32(content, checksum), left - len(content)
    return _hex(checksum)


def _without(reason: str) -> None:
    sentence = f"no cache of decoded images ({reason}); name a folder for it with BENCH_CACHE"
    terminal.warn_once(sentence, about=("no cache", cache_folder()))
