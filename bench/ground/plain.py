"""The one way in which a file is read: plain files only, and no more of them than is sensible.

A pipe would be waited for without end and a device may never end, so neither is opened to be read.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

TEXT = 1 << 28  # bytes of a JSON, TOML or CSV file: far more than any of ours
BINARY = 1 << 33  # bytes of weights, records and shards of data
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def read_plain(path: Path, most: int = BINARY) -> bytes:
    """All bytes of a plain file, also through links. Raises OSError, whose strerror says what is wrong: not there, no
    plain file, or longer than `most` bytes.
    """
    check_plain(path, most)
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # it may have become a pipe since
    with open(file, "rb") as opened:
        found = os.fstat(file)
        _check(found, path, most)
        try:
            return opened.read(found.st_size)
        except MemoryError as error:
            raise OSError(
                errno.ENOMEM, f"has {found.st_size} bytes, which the memory does not hold", str(path)
            ) from error


def check_plain(path: Path, most: int = BINARY) -> None:
    """Raises OSError as `read_plain` does, for readers that open the file themselves."""
    _check(os.stat(path), path, most)


def _check(found: os.stat_result, path: Path, most: int) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"is no plain file, but {_KINDS.get(kind, 'something else')}", str(path))
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"is larger than the {most} bytes that such a file may have", str(path))
