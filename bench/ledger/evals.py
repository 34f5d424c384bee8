"""One record per network and attack: one Parquet file, the per-image table, with all else as JSON in its metadata."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.ground.config import UserError
from bench.ground.files import dump, parse, write_atomic
from bench.ground.plain import read_plain
from bench.ground.provenance import Cost, Provenance, check_cost
from bench.ground.stats import Share, wilson
from bench.ledger import draws
from bench.ledger.audits import Audit
from bench.ledger.draws import Draws
from bench.ledger.folder import Results, Source, broken, own
from bench.ledger.ids import check_seed
from bench.ledger.named import is_closest

CORRUPTIONS = "corruptions"  # a norm: what is not chosen against the network, see attacks/contract.py
DISTANCES = ("linf", "l2", "l1", "l0")
COLUMNS = dict.fromkeys(("image", "label", "clean_prediction", "adversarial_prediction"), pa.int64())
COLUMNS |= {"robust": pa.bool_()} | dict.fromkeys(DISTANCES, pa.float64())
COLUMNS |= dict.fromkeys(("forward_passes", "backward_passes"), pa.int64())
SCHEMA = pa.schema([pa.field(name, kind, nullable=False) for name, kind in COLUMNS.items()])
MOST_ROWS = 10_000_000
_METADATA, _SEAL = b"bench", b"sha256"


@dataclass(frozen=True)
class EvalHead:
    """One network under one attack, without the images. eps: in image units; clean accuracy has eps 0. source: the
    network that the images were crafted on; None is the network itself. broken_by: for a union of attacks, the ids of
    the images that each of them broke. adversarial_sha256: of the file with the images that fool, None where none is.
    signs: what the judge saw that speaks against the number; [] in records of before it looked. reading: how images of
    one's own were read, such as {"size": 256, "crop": 224}, where that was asked for. outside: of an attack that is not
    this repository's, what the id was hashed of beside its settings: its name there, version, package and code. audit:
    of the number, where the attack has one. draws: of a model that answers at random, which was asked again and again;
    the table then has the columns of `bench.ledger.draws`, and its predictions are what most draws say.
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
    signs: list[str] = field(default_factory=list, kw_only=True)
    reading: dict[str, str | int] | None = field(default=None, kw_only=True, metadata={"since": 2})
    outside: dict[str, str | int | bool] | None = field(default=None, kw_only=True, metadata={"since": 3})
    audit: Audit | None = field(default=None, kw_only=True, metadata={"since": 3})
    draws: Draws | None = field(default=None, kw_only=True, metadata={"since": 4})

    def __post_init__(self) -> None:
        if self.norm not in ("none", "own", CORRUPTIONS, "Linf", "L2", "L1", "L0") or not 0 <= self.eps < float("inf"):
            raise ValueError(f"norm {self.norm!r}, eps {self.eps} is no threat model")
        check_seed(self.seed)
        check_cost(self.cost)


@dataclass(frozen=True)
class EvalRecord(EvalHead):
    """One network under one attack. images: one row per image, the columns of SCHEMA; distances in image
    units.
    """

    images: pd.DataFrame = field(repr=False, compare=False)


def write_eval(results: Results, record: EvalRecord) -> Path:
    """Checks the table and writes one Parquet file atomically; returns its path. Raises UserError."""
    path = results.eval(record.run_id, record.eval_id)
    schema = schema_of(record)
    if set(record.images.columns) != set(schema.names):  # pyarrow would drop what is too much
        raise UserError(f"{path}: the per-image table needs exactly the columns {', '.join(schema.names)}")
    try:
        table = pa.Table.from_pandas(record.images, schema, preserve_index=False, safe=True)
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
        content = pa.BufferReader(read_plain(path))
        if (rows := pq.read_metadata(content).num_rows) > MOST_ROWS:  # a few bytes may say billions
            raise broken(path, f"it has {rows} images, more than {MOST_ROWS}")
        table = pq.read_table(content, use_threads=False)
        metadata, seal = ((table.schema.metadata or {})[key] for key in (_METADATA, _SEAL))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such record") from error
    except KeyError as error:
        raise broken(path, f"it has no {str(error.args[0], errors='replace')!r} metadata") from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise broken(path, f"it is no whole Parquet file ({str(error).splitlines()[0]})") from error
    head = own(path, parse(path, metadata, EvalHead), run_id=run_id, eval_id=eval_id)
    if not table.schema.equals(schema_of(head)):
        raise broken(path, f"its columns or their types are not {', '.join(schema_of(head).names)}")  # may be no text
    images = table.to_pandas()
    _check_images(images, head, path)
    if seal != _digest(images).encode():
        raise broken(path, "its images are not what was written (SHA-256): it was damaged or edited")
    return EvalRecord(**vars(head), images=images)


def schema_of(head: EvalHead) -> pa.Schema:
    """Of the per-image table: of several draws with their counts."""
    return (
        SCHEMA if head.draws is None else pa.schema([*SCHEMA, *(pa.field(n, pa.int64(), False) for n in draws.COLUMNS)])
    )


def beyond(images: pd.DataFrame, norm: str, eps: float) -> pd.Series:
    """Per image, whether x_adv is farther than eps: past it fooling does not count. Never in a norm of its own."""
    if norm.lower() not in DISTANCES:
        return pd.Series(False, index=images.index)
    return images[norm.lower()] > eps + 1e-6 * max(1.0, eps)  # the tolerance of a ThreatModel


def _digest(images: pd.DataFrame) -> str:
    """SHA-256 of a per-image table: every column's values in the order of COLUMNS."""
    digest = hashlib.sha256()
    for name in (*COLUMNS, *(name for name in draws.COLUMNS if name in images)):
        digest.update(images[name].to_numpy().tobytes())
    return digest.hexdigest()


def _check_images(images: pd.DataFrame, head: EvalHead, path: Path) -> None:
    """The laws of a per-image table. Raises UserError."""
    column = {name: images[name].to_numpy() for name in COLUMNS}  # plain arrays: a report checks a million rows
    right = column["clean_prediction"] == column["label"]
    counted = right | (head.norm == CORRUPTIONS)  # there whatever it was before: plain accuracy
    held = column["adversarial_prediction"] == column["label"]
    past = ~held & beyond(images, head.norm, head.eps).to_numpy()  # a minimal-norm attack may have needed more than eps
    held |= past
    contradicted = int((column["robust"] != (counted & held)).sum())
    if images.empty:
        raise broken(path, "it holds no image")
    if head.draws is not None and head.draws.contradicted(images):
        raise broken(path, "its draws are not those of its images")
    if not images["image"].is_unique:
        raise broken(path, "an image appears twice")
    if contradicted:
        raise broken(path, f"on {contradicted} images the verdict contradicts the predictions")
    if (past & right).any() and not is_closest(head.attack, vars(head), len(images)):
        raise broken(
            path,
            f"{int((past & right).sum())} images that {head.attack} fooled count as robust because they lie beyond its "
            "radius, where only an attack that looks for the closest image may go",
        )
    if not all((column[name] >= 0).all() for name in COLUMNS if name != "robust"):  # NaN is not at least 0 either
        raise broken(path, "a class, a distance or a count of passes is negative or no number")


def accuracies(record: EvalRecord) -> tuple[Share, Share]:
    """Without the attack and with it; of several draws the means over them."""
    images, n = record.images, len(record.images)
    if record.draws is not None:
        return record.draws.clean_of(images)[0], record.draws.robust_of(images)[0]
    counts = (int((images["clean_prediction"] == images["label"]).sum()), int(images["robust"].sum()))
    clean, robust = (Share(n, count / n, *wilson(count, n)) for count in counts)
    return clean, robust


def judge_at(record: EvalRecord, eps: float) -> EvalRecord:
    """The record of a minimal-norm attack as if its radius had been eps: the distances decide. Raises UserError."""
    if record.draws is not None:
        raise UserError(f"{record.eval_id} of {record.run_id} is of {record.draws.count} draws at its own radius alone")
    if record.norm.lower() not in DISTANCES:
        raise UserError(f"{record.eval_id} of {record.run_id} has norm {record.norm!r}, which has no radius to choose")
    images = record.images
    held = (images["adversarial_prediction"] == images["label"]) | beyond(images, record.norm, eps)
    robust = (images["clean_prediction"] == images["label"]) & held
    return replace(record, eps=eps, images=images.assign(robust=robust))
