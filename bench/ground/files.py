"""Files that are whole or absent: written under a temporary name beside, flushed, then renamed. JSON is sealed: its
last key is the SHA-256 of the others, so that a flipped bit or an edit by hand is no other number.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import IO, Any, TypeVar

from bench.ground.config import CannotWrite, UserError, build, check_depth, settings_of
from bench.ground.plain import TEXT, read_plain

T = TypeVar("T")
SEAL = "sha256"


def write_atomic(path: Path, fill: Callable[[IO[bytes]], object]) -> Path:
    """Calls fill(file) on a temporary file and renames it to `path`; a failure leaves nothing behind.

    Raises UserError when the disk is full or may not be written; whatever `fill` raises otherwise passes
    through.
    """
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
            part = Path(file.name)
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)  # temporary files are private; results are for everybody
        os.replace(part, path)
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return path


def make_folder(path: Path) -> Path:
    """The folder, with those above it, ready to be written in. Raises UserError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {path}: {error.strerror or error}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"cannot write in {path}: permission denied")
    return path


def cache_folder() -> Path:
    """Where is kept what can be made again: BENCH_CACHE, or `bench` in XDG_CACHE_HOME, or ~/.cache/bench."""
    if own := os.environ.get("BENCH_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "bench"


def write_text(path: Path, text: str) -> Path:
    """UTF-8, atomically. Raises UserError."""
    return write_atomic(path, lambda file: file.write(text.encode()))


def write_json(path: Path, record: Any) -> Path:
    """A dataclass as JSON, atomically. Raises UserError."""
    return write_text(path, dump(path, record) + "\n")


def dump(path: Path, record: Any) -> str:
    """A dataclass as JSON text. It is read back at once: what could not be read later is refused now
    (UserError).
    """
    content = settings_of(record)
    text = json.dumps(content | {SEAL: _digest(content)}, indent=1)
    parse(path, text, type(record), "was not written")
    return text


def read_json(path: Path, cls: type[T]) -> T:
    """A dataclass from a JSON file. Raises UserError: missing, truncated, unknown or missing fields, wrong
    types.
    """
    try:
        return parse(path, read_plain(path, TEXT), cls)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such record") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def parse(path: Path, text: str | bytes, cls: type[T], advice: str = "delete it and run again") -> T:
    """A dataclass from JSON text that belongs to `path`. Raises UserError."""
    try:
        content = json.loads(text)
        check_depth(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no whole JSON ({error}); {advice}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no record; {advice}")
    seal = content.pop(SEAL, None)
    needed = [f.name for f in fields(cls) if f.default is f.default_factory is MISSING]  # type: ignore[arg-type]
    missing = [name for name in needed if name not in content]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}; {advice}")
    try:
        record = build(cls, content, str(path))
    except UserError as error:
        raise UserError(f"{error}; {advice}, unless a newer release wrote it") from error
    if seal != _digest(content):
        raise UserError(f"{path}: its content is not what was written (SHA-256); it was damaged or edited; {advice}")
    return record


def _digest(content: dict[str, Any]) -> str:
    """SHA-256 of the content as canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
