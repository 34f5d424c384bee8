"""Registered networks and their records on the way from one results folder to another, in pieces."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath

from bench.ground.config import UserError, choose
from bench.ground.plain import read_plain
from bench.ledger.folder import Results
from bench.ledger.ids import training_of
from bench.ledger.runs import list_runs
from benchmarks.gpu import pieces


def carry(results: Results, name: str, to: Path, part: int) -> list[str]:
    """Writes one part of what belongs to a training, or of one of its runs: records, weights, attacks. Returns what is
    to be said. Raises UserError.
    """
    runs = list_runs(results)
    known = [run for run in runs if name in (run, training_of(run))]
    if not known:
        choose(name, {*runs, *map(training_of, runs)}, f"run or training in {results.root}")
    blob = _tar(results, [path for run in known for path in _files(results, run)])
    parts = pieces.parts_of(blob)
    if not 1 <= part <= parts:
        raise UserError(f"--part {part}: {name} has parts 1 to {parts}")
    manifest = pieces.cut(to, name, blob, {"name": name, "parts": parts}, part)
    after = f"then part {part + 1}" if part < parts else f"then: benchmarks/gpu.sh join {to} --results RESULTS"
    return [
        f"wrote part {part} of {parts} of {name} ({len(blob) / 2**20:.1f} MiB in all) to {manifest.parent}; {after}"
    ]


def join(folders: tuple[Path, ...], results: Results) -> list[str]:
    """Puts what `carry` wrote into a results folder; pieces may lie in any of the folders. Returns what is to be said.
    Raises UserError for a piece that is not there, and for another file under the same name; nothing is overwritten.
    """
    manifests = {path.name: path for folder in folders for path in sorted(folder.glob("*.json"))}
    if not manifests:
        raise UserError(f"{', '.join(map(str, folders))}: no manifest is there; name the folders that `carry` wrote")
    said = []
    for path in manifests.values():
        with tarfile.open(fileobj=io.BytesIO(pieces.joined(path, folders))) as tar:
            for member in tar.getmembers():
                _put(results.root / _inside(member, path), tar, member)
            said.append(f"{len(tar.getmembers())} files of {path.stem} are in {results.root}")
    return said


def _inside(member: tarfile.TarInfo, manifest: Path) -> PurePosixPath:
    """Where a file lies in a results folder; tarfile's own filters came with Python 3.11.4. Raises UserError."""
    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts or not member.isfile():
        raise UserError(f"{manifest}: {member.name!r} is no file inside a results folder; carry the networks again")
    return place


def _put(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    file = tar.extractfile(member)
    content = file.read() if file else b""
    if path.exists() and read_plain(path) != content:
        raise UserError(f"{path} is there already, and is another; join into another --results")
    pieces.put(path, content)


def _files(results: Results, run: str) -> list[Path]:
    """Of one run: its record, its weights, its attacks."""
    record = results.run(run)
    evals = sorted((results.root / "evals" / run).glob("[!.]*"))
    return [record, record.with_suffix(".safetensors"), *evals]


def _tar(results: Results, files: list[Path]) -> bytes:
    """The same bytes whenever it is made: each part comes of another command."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in files:
            content = read_plain(path)
            member = tarfile.TarInfo(str(path.relative_to(results.root)))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()
