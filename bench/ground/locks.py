"""Locks between processes that share a results folder; they die with their process.

What is locked is a file that the kernel lets go of (flock) however its process ends. Whoever held it last removes it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.ground.config import CannotWrite


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Whether this process, and no other, holds the lock that `path` stands for; with `wait` it always does.

    Raises UserError when the file cannot be made or locked.
    """
    try:
        file = _lock(path, wait)
    except OSError as error:
        raise CannotWrite(f"cannot write and lock {path}: {error.strerror or error}") from error
    try:
        yield file is not None
    finally:
        if file is not None:
            path.unlink(missing_ok=True)  # while it is held: who waits for it sees in `_stands` that it is gone
            os.close(file)


def _lock(path: Path, wait: bool) -> int | None:
    """The locked file, or None where another process has it. Raises OSError."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise
        if _stands(file, path):
            return file
        os.close(file)


def _stands(file: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
