"""Records of trainings and attacks on disk: atomic write, strict read.

One RunRecord (JSON) per trained network and checkpoint, one EvalRecord (one Parquet file: the per-image
table, with all else as JSON in its metadata) per network and attack, one ErrorRecord (JSON) where a cell
failed, one DiagnosisRecord (JSON) per network and threat model that `bench diagnose` looked at. A file is
written under a temporary name in its own folder and then renamed, so a file that exists is whole. Reading
trusts nothing: unknown or missing fields, an id that is not its path's, a verdict that contradicts its
predictions, or content that is not what was written (SHA-256) is a UserError with the file's name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.config import UserError
from bench.files import dump, parse, read_json, write_atomic, write_json
from bench.provenance import Cost, Provenance, TrainingCost

T = TypeVar("T")
Verdict = Literal["pass", "warn", "fail", "skip"]
DISTANCES = ("linf", "l2", "l1", "l0")
COLUMNS = dict.fromkeys(("image", "label", "clean_prediction", "adversarial_prediction"), pa.int64())
COLUMNS |= {"robust": pa.bool_()} | dict.fromkeys(DISTANCES, pa.float64())
COLUMNS |= dict.fromkeys(("forward_passes", "backward_passes"), pa.int64())
SCHEMA = pa.schema([pa.field(name, kind, nullable=False) for name, kind in COLUMNS.items()])
_METADATA, _SEAL = b"bench", b"sha256"
# no "..", no separator, no leading dot or dash
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
LONGEST = 200  # letters of an id
_LABEL = re.compile(r"((h[0-9]+|all)-)?(best|last)")


@dataclass(frozen=True)
class Source:
    """Another network that a record depends on, by its weights."""

    run_id: str
    weights_sha256: str


@dataclass(frozen=True)
class RunRecord:
    """One trained network at one checkpoint. image_shape: [C, H, W]. images_sha256: training images.

    epoch: the checkpoint's. health: what is wrong with the network, over its whole training; [] is healthy. teacher:
    the frozen network it learned from.
    """

    run_id: str
    training_id: str
    trainer: str
    recipe: str
    settings: dict[str, Any]
    dataset: str
    images_sha256: str
    arch: str
    image_shape: list[int]
    classes: int
    seed: int
    member: int
    checkpoint: Literal["best", "last"]
    epoch: int
    validation: dict[str, float]
    weights_sha256: str
    weights_file: str
    health: list[str]
    cost: TrainingCost
    provenance: Provenance
    teacher: Source | None = field(default=None, kw_only=True)
    validation_sha256: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if training_of(self.run_id) != self.training_id:
            raise ValueError(f"run_id {self.run_id!r} is not of training {self.training_id!r}")
        if self.weights_file != f"{self.run_id.rpartition('.')[2]}.safetensors":
            raise ValueError(f"weights_file {self.weights_file!r} is not the run's own safetensors file")


@dataclass(frozen=True)
class EvalHead:
    """One network under one attack, without the images. eps: in image units; clean accuracy has eps 0. source: the
    network that the images were crafted on; None is the network itself. broken_by: for a union of attacks, the ids of
    the images that each of them broke. adversarial_sha256: of the file with the images that fool, None where none is.
    """

    run_id: str
    eval_id: str
    attack: str
    settings: dict[str, Any]
    norm: str
    eps: float
    seed: int
    dataset: str
    weights_sha256: str
    images_sha256: str
    cost: Cost
    provenance: Provenance
    source: Source | None = field(default=None, kw_only=True)
    broken_by: dict[str, list[int]] | None = field(default=None, kw_only=True)
    adversarial_sha256: str | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class EvalRecord(EvalHead):
    """One network under one attack. images: one row per image, the columns of SCHEMA; distances in image
    units.
    """

    images: pd.DataFrame = field(repr=False, compare=False)


@dataclass(frozen=True)
class ErrorRecord:
    """A cell that failed. eval_id: None where the training failed. reason: one sentence; detail: the
    traceback.
    """

    run_id: str
    eval_id: str | None
    reason: str
    detail: str
    provenance: Provenance


@dataclass(frozen=True)
class Finding:
    """What one check says. verdict: "skip" where it could not be made. figure: the numbers behind it, in words;
    meaning: what they say about the model, and what to do.
    """

    check: str
    verdict: Verdict
    figure: str
    meaning: str


@dataclass(frozen=True)
class DiagnosisRecord:
    """Whether the robustness of one network may be believed. norm, eps: the threat model it was attacked in.
    settings: what the attacks could spend; source: the network that the transfer attack was crafted on, None is a
    substitute trained for it. trust: of `trust_of(findings)`. Raises ValueError where it is not.
    """

    run_id: str
    norm: str
    eps: float
    settings: dict[str, Any]
    seed: int
    dataset: str
    weights_sha256: str
    images_sha256: str
    images: int
    source: Source | None
    findings: list[Finding]
    trust: str
    cost: Cost
    provenance: Provenance

    def __post_init__(self) -> None:
        if not self.findings or self.trust != trust_of(self.findings):
            raise ValueError(f"trust {self.trust!r} is not what its {len(self.findings)} findings say")


def trust_of(findings: Iterable[Finding]) -> str:
    """ "ok", "doubtful: ..." with the checks that warn, or "masked: ..." with those that fail."""
    named: dict[str, list[str]] = {}
    for finding in findings:
        named.setdefault(finding.verdict, []).append(finding.check)
    for verdict, word in (("fail", "masked"), ("warn", "doubtful")):
        if verdict in named:
            return f"{word}: {', '.join(named[verdict])}"
    return "ok"


@dataclass(frozen=True)
class Results:
    """The folder that records live in. No id leads out of it: a bad one raises UserError."""

    root: Path

    def plan(self, name: str) -> Path:
        """The plan of a table."""
        return self.root / "plans" / f"{check_id(name)}.json"

    def training(self, training_id: str) -> Path:
        """The folder of all that one training made."""
        return self.root / "runs" / check_id(training_id)

    def run(self, run_id: str) -> Path:
        """The record of one network: runs/<training_id>/<label>.json."""
        return self.training(training_of(run_id)) / f"{run_id.rpartition('.')[2]}.json"

    def eval(self, run_id: str, eval_id: str) -> Path:
        """The record of one network under one attack."""
        return self.root / "evals" / check_id(run_id) / f"{check_id(eval_id)}.parquet"

    def adversarial(self, run_id: str, eval_id: str) -> Path:
        """The adversarial images of a record, where they were kept."""
        return self.eval(run_id, eval_id).with_suffix(".npz")

    def error(self, run_id: str, eval_id: str | None) -> Path:
        """Why a cell, or with eval_id None its training, has no number."""
        if eval_id is None:
            return self.training(training_of(run_id)) / "error.json"
        return self.eval(run_id, eval_id).with_suffix(".error.json")

    def diagnosis(self, run_id: str, norm: str, eps: float) -> Path:
        """The diagnosis of one network in one threat model."""
        return self.root / "diagnoses" / check_id(run_id) / f"{check_id(f'{norm.lower()}-{eps:g}')}.json"

    def table(self, name: str) -> Path:
        """The table as CSV."""
        return self.root / "tables" / f"{check_id(name)}.csv"


def check_id(name: str) -> str:
    """`name` if it may be a file name: letters, digits, '_', '-' and single dots. Raises UserError."""
    if not is_id(name):
        raise UserError(
            f"{name!r} is no id: ids are letters, digits, '_', '-' and single dots inside, at most {LONGEST}"
        )
    return name


def is_id(name: Any) -> bool:
    """Whether it may be a file name, see `check_id`."""
    return isinstance(name, str) and _ID.fullmatch(name) is not None and len(name) <= LONGEST


def training_of(run_id: str) -> str:
    """ "<training_id>.h1-best" -> "<training_id>". Raises UserError."""
    training_id, dot, label = check_id(run_id).rpartition(".")
    if not dot or not _LABEL.fullmatch(label):
        raise UserError(f"{run_id!r} is no run id: it ends in .best or .last, .h1-best or .all-best")
    return training_id


def write_run(results: Results, record: RunRecord) -> Path:
    """Writes atomically; returns the path. Raises UserError."""
    return write_json(results.run(record.run_id), record)


def read_run(results: Results, run_id: str) -> RunRecord:
    """Raises UserError when the record is missing, broken or another run's."""
    path = results.run(run_id)
    return _own(path, read_json(path, RunRecord), run_id=run_id)


def list_runs(results: Results) -> list[str]:
    """All run ids that have a record, sorted."""
    paths = (results.root / "runs").glob("[!.]*/*.json")
    return sorted(f"{path.parent.name}.{path.stem}" for path in paths if _LABEL.fullmatch(path.stem))


def write_error(results: Results, record: ErrorRecord) -> Path:
    """Writes atomically; returns the path. Raises UserError."""
    return write_json(results.error(record.run_id, record.eval_id), record)


def read_error(results: Results, run_id: str, eval_id: str | None) -> ErrorRecord | None:
    """The error of a cell, or None where there is none. Raises UserError when it is broken.

    A training's error is one for all its networks, so its run_id may be a sibling's.
    """
    path = results.error(run_id, eval_id)
    if not path.exists():
        return None
    record = read_json(path, ErrorRecord)
    if eval_id is None and training_of(record.run_id) == training_of(run_id):
        return _own(path, record, eval_id=None)
    return _own(path, record, run_id=run_id, eval_id=eval_id)


def clear_error(results: Results, run_id: str, eval_id: str | None) -> None:
    """Forgets the error of a cell that has worked since. Raises UserError."""
    path = results.error(run_id, eval_id)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {path}: {error.strerror or error}") from error


def write_diagnosis(results: Results, record: DiagnosisRecord) -> Path:
    """Writes atomically, in place of an earlier one; returns the path. Raises UserError."""
    return write_json(results.diagnosis(record.run_id, record.norm, record.eps), record)


def read_diagnoses(results: Results, run_id: str) -> list[DiagnosisRecord]:
    """Every diagnosis of a network, one for each threat model. Raises UserError when one is broken."""
    found = []
    for path in sorted((results.root / "diagnoses" / check_id(run_id)).glob("[!.]*.json")):
        record = _own(path, read_json(path, DiagnosisRecord), run_id=run_id)
        if path != results.diagnosis(run_id, record.norm, record.eps):
            raise _broken(path, f"it is of {record.norm} {record.eps:g}")
        found.append(record)
    return found


def write_eval(results: Results, record: EvalRecord) -> Path:
    """Checks the table and writes one Parquet file atomically; returns its path. Raises UserError."""
    path = results.eval(record.run_id, record.eval_id)
    if set(record.images.columns) != set(COLUMNS):  # pyarrow would drop what is too much
        raise UserError(f"{path}: the per-image table needs exactly the columns {', '.join(COLUMNS)}")
    try:
        table = pa.Table.from_pandas(record.images, SCHEMA, preserve_index=False, safe=True)
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: the per-image table does not fit the schema: {error}") from error
    _check_images(record.images, record, path)
    head = EvalHead(**{f.name: getattr(record, f.name) for f in fields(EvalHead)})
    seal = _digest(table.to_pandas()).encode()
    whole = table.replace_schema_metadata({_METADATA: dump(path, head).encode(), _SEAL: seal})
    return write_atomic(path, lambda file: pq.write_table(whole, file, compression="zstd"))


def read_eval(results: Results, run_id: str, eval_id: str) -> EvalRecord:
    """Raises UserError when the record is missing, truncated, of another cell, or contradicts itself."""
    path = results.eval(run_id, eval_id)
    try:
        with open(path, "rb") as file:
            table = pq.read_table(pa.BufferReader(file.read()), use_threads=False)
        metadata, seal = ((table.schema.metadata or {})[key] for key in (_METADATA, _SEAL))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such record") from error
    except KeyError as error:
        raise _broken(path, f"it has no {str(error.args[0], errors='replace')!r} metadata") from error
    except (OSError, pa.ArrowException) as error:
        raise _broken(path, f"it is no whole Parquet file ({str(error).splitlines()[0]})") from error
    if not table.schema.equals(SCHEMA):
        raise _broken(path, f"its columns or their types are not {', '.join(SCHEMA.names)}")  # names may be no text
    head = _own(path, parse(path, metadata, EvalHead), run_id=run_id, eval_id=eval_id)
    images = table.to_pandas()
    _check_images(images, head, path)
    if seal != _digest(images).encode():
        raise _broken(path, "its images are not what was written (SHA-256): it was damaged or edited")
    return EvalRecord(**vars(head), images=images)


def beyond(images: pd.DataFrame, norm: str, eps: float) -> pd.Series:
    """Per image, whether x_adv is farther than eps: past it fooling does not count. Never in a norm of its own."""
    if norm.lower() not in DISTANCES:
        return pd.Series(False, index=images.index)
    return images[norm.lower()] > eps + 1e-6 * max(1.0, eps)  # the tolerance of a ThreatModel


def _digest(images: pd.DataFrame) -> str:
    """SHA-256 of a per-image table: every column's values in the order of COLUMNS."""
    digest = hashlib.sha256()
    for name in COLUMNS:
        digest.update(images[name].to_numpy().tobytes())
    return digest.hexdigest()


def _check_images(images: pd.DataFrame, head: EvalHead, path: Path) -> None:
    """The laws of a per-image table. Raises UserError."""
    column = {name: images[name].to_numpy() for name in COLUMNS}  # plain arrays: a report checks a million rows
    right = column["clean_prediction"] == column["label"]
    held = column["adversarial_prediction"] == column["label"]
    held |= beyond(images, head.norm, head.eps).to_numpy()  # a minimal-norm attack may have needed more than eps
    contradicted = int((column["robust"] != (right & held)).sum())
    if images.empty:
        raise _broken(path, "it holds no image")
    if not images["image"].is_unique:
        raise _broken(path, "an image appears twice")
    if contradicted:
        raise _broken(path, f"on {contradicted} images the verdict contradicts the predictions")
    if not all((column[name] >= 0).all() for name in COLUMNS if name != "robust"):  # NaN is not at least 0 either
        raise _broken(path, "a class, a distance or a count of passes is negative or no number")


def _own(path: Path, record: T, **ids: str | None) -> T:
    """The record, if its ids are those that its path says. Raises UserError."""
    for name, value in ids.items():
        if getattr(record, name) != value:
            raise _broken(path, f"its {name} is {getattr(record, name)!r}, not {value!r}")
    return record


def _broken(path: Path, why: str) -> UserError:
    return UserError(f"{path}: {why}; delete it and run again")
