"""Bytes cut into files that travel, at most PIECE each, and put together again.

A manifest (JSON) names the pieces with their SHA-256. It is written last, so what it names is whole; pieces that it no
longer names are then deleted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.ground.config import UserError
from bench.ground.files import write_atomic
from bench.ground.plain import TEXT, read_plain

PIECE = 16 << 20  # bytes; no file that comes back from a loan is larger
PER_PART = 3  # pieces of a load, beside which the checkout has room
SPARE = 1 << 20  # bytes for manifests and logs beside the pieces
TOTAL = 64 << 20  # bytes that travel at a time


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def cut(folder: Path, name: str, blob: bytes, said: Mapping[str, Any], part: int | None = None) -> Path:
    """Writes `blob` as pieces of that name and then the manifest NAME.json, with what else is `said`; returns that.

    part: from 1; only so many pieces as travel beside a checkout, of `parts_of`. Raises UserError.
    """
    whole, pieces = sha256(blob), [blob[first : first + PIECE] for first in range(0, len(blob), PIECE)]
    listed = [
        {"file": f"{name}-{whole[:8]}-{number}.bin", "bytes": len(piece), "sha256": sha256(piece)}
        for number, piece in enumerate(pieces)
    ]
    here = range(len(pieces)) if part is None else range((part - 1) * PER_PART, part * PER_PART)
    for number in set(here) & set(range(len(pieces))):
        put(folder / str(listed[number]["file"]), pieces[number])
    manifest = folder / f"{name}.json"
    put(manifest, json.dumps(dict(said) | {"sha256": whole, "pieces": listed}, indent=1).encode())
    for old in folder.glob(f"{name}-*.bin"):
        if old.name not in {entry["file"] for entry in listed}:
            old.unlink()
    return manifest


def parts_of(blob: bytes) -> int:
    """How many loads it takes."""
    return -(-len(blob) // (PER_PART * PIECE))


def put(path: Path, content: bytes) -> None:
    """Writes a whole file."""
    write_atomic(path, lambda file: file.write(content))


def manifest_of(path: Path) -> dict[str, Any]:
    """What a manifest says. Raises UserError for none, and for what is no manifest."""
    try:
        found = json.loads(read_plain(path, TEXT))
        assert isinstance(found["sha256"], str)
        [(str(one["file"]), str(one["sha256"])) for one in found["pieces"]]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f"{path} is no manifest of pieces ({error!r}); bring it again") from error
    return dict(found)


def joined(manifest: Path, folders: tuple[Path, ...] = ()) -> bytes:
    """The blob, from pieces in the manifest's folder and in `folders`. Raises UserError for one that is not there or is
    another.
    """
    said, parts = manifest_of(manifest), []
    for entry in said["pieces"]:
        places = [folder / Path(entry["file"]).name for folder in (manifest.parent, *folders)]
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            raise UserError(f"{manifest} needs {entry['file']}, which is not beside it; bring all of its pieces")
        parts.append(read_plain(place))
        if sha256(parts[-1]) != entry["sha256"]:
            raise UserError(f"{place} is not what {manifest} says (SHA-256); bring it again")
    if sha256(blob := b"".join(parts)) != said["sha256"]:
        raise UserError(f"the pieces of {manifest} are not the whole that it says (SHA-256); bring it again")
    return blob
