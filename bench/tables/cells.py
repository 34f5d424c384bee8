"""Plan + records -> one tidy row per cell, with n, interval and seed spread. A cell without all records is
no number.

Per-image verdicts are joined late: only records of the plan's own images and of the registered weights
count. Unions and means of columns are made here, image by image; they have no records of their own. Rows are then
compared with each other, see `bench.tables.compare`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import isclose, nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.ground.config import UserError
from bench.ground.stats import over_seeds
from bench.ledger.budgets import radius
from bench.ledger.diagnoses import read_diagnoses
from bench.ledger.evals import DISTANCES, EvalRecord
from bench.ledger.find import OK, WORST, Found, find
from bench.ledger.folder import Results
from bench.ledger.plan import Plan
from bench.ledger.runs import read_run
from bench.tables import certified
from bench.tables.compare import COLUMNS as COMPARED
from bench.tables.compare import Robust, between_rows

COLUMNS = [
    "table", "row", "column", "seeds", "n", "accuracy", "low", "high", "seed_spread",
    "state", "error", "run_ids", "broken_by", "health", "trust", "reach", "audit", "proven", *COMPARED,
]  # fmt: skip
TRUST = ("ok", UNKNOWN := "not diagnosed", "doubtful", "masked")  # the worst last


class Audited(NamedTuple):
    """What audits leave open of a number, a mean over its seeds. below: how much lower at most the auditor would make
    it, in [0, 1]; saved: share of the auditor's passes; told: one sentence for each seed, also where there was none.
    """

    below: float
    saved: float
    told: list[str]


class Broken(NamedTuple):
    """Part of a union. first: images that are right until this part, in the order of the list, breaks them.
    only: those of them that no other part breaks. Counted over images and seeds.
    """

    part: str
    first: int
    only: int


def table(plan: Plan, results: Results) -> pd.DataFrame:
    """One line per cell, in the plan's order, the columns of COLUMNS; shares in [0, 1], n in images.

    state: "ok", or "missing", "error", "stale", and then there are no numbers and `error` says why. broken_by: for
    a union a list of Broken. health: run id -> what is wrong with a network behind the number, {} if nothing is.
    trust: that of the row, see `trust`. reach: how far the farthest adversarial image lies, as a share of the radius;
    of several networks the least; NaN where there is no distance. audit: Audited, None where the attack has no audit.
    proven: Bracket, None where no certificate is of the same networks, images and radius.
    The last columns are of `compare.between_rows`, NaN
    or None where there is nothing to compare. Raises UserError for a broken record.
    """
    return table_and_verdicts(plan, results)[0]


def table_and_verdicts(plan: Plan, results: Results) -> tuple[pd.DataFrame, dict[tuple[str, str], Robust]]:
    """`table`, and (row, column) -> the verdicts behind each of its numbers. Raises UserError for a broken record."""
    lines, cells = _lines_and_verdicts(plan, results)
    compared = between_rows(plan.rows, plan.shown, cells, plan.baseline, plan.wrong)
    lines = [line | compared.get((line["row"], line["column"]), {}) for line in lines]
    frame = pd.DataFrame(lines, columns=COLUMNS)
    numbers = dict.fromkeys(("accuracy", "low", "high", "seed_spread", "reach", *COMPARED[:-1]), "float64")
    frame = frame.astype({"seeds": "int64", "n": "Int64"} | numbers)
    for name in ("error", "broken_by", "health", "trust", "audit", "proven", "best"):
        frame[name] = pd.Series([line.get(name) for line in lines], dtype=object)  # None stays None
    return frame, cells


def trust(plan: Plan, row: str, results: Results) -> str | None:
    """What `bench diagnose` said of a row's networks: the worst over seeds and threat models; None where it was not
    asked. Such as "doubtful: square (Linf 8/255, 100 images)". Masked gradients are so at any radius; an "ok" counts
    on the table's data and at a radius of its attacks, and of all checks. Raises UserError for a broken record.
    """
    runs = dict.fromkeys(cell.run_id for cell in plan.cells if cell.row == row)
    said = [words for run_id in runs for words in _diagnosed(plan, run_id, results)]
    worst = max(said, key=lambda words: [words.startswith(word) for word in TRUST].index(True))
    return None if all(words.startswith(f"{UNKNOWN}: ") for words in said) else worst


def _diagnosed(plan: Plan, run_id: str, results: Results) -> list[str]:
    """One phrase for each diagnosis that counts, of the weights that the run has now."""
    found = read_diagnoses(results, run_id)
    now = read_run(results, run_id).weights_sha256 if found and results.run(run_id).exists() else None
    found = [one for one in found if one.weights_sha256 == now]
    fits = [one.dataset == plan.dataset and _is_among(plan.threats, one.norm, one.eps) for one in found]
    counted = [one for one, fit in zip(found, fits, strict=True) if fit or one.trust != "ok"]
    if found and not counted:
        return [f"{UNKNOWN} at a radius of this table: {run_id} (but ok at {found[0].norm} {radius(found[0].eps)})"]
    return [f"{one.verdict} ({one.norm} {radius(one.eps)}, {one.images} images)" for one in counted] or [
        f"{UNKNOWN}: {run_id}"
    ]


def _is_among(threats: Collection[tuple[str, float]], norm: str, eps: float) -> bool:
    """Whether a table is about this threat model; one without any distance is about all."""
    return not threats or any(norm == other and isclose(eps, at) for other, at in threats)


def union_robust(records: Sequence[EvalRecord]) -> pd.Series:
    """Per image (index: image id), whether it survives every attack. Its mean is not the smallest column's.

    Raises UserError when the records are of different images or weights.
    """
    if not records:
        raise UserError("a union of no records")
    for name in ("images_sha256", "weights_sha256"):
        if len({getattr(record, name) for record in records}) > 1:
            kind = name.removesuffix("_sha256")
            raise UserError(f"union over different {kind}: {', '.join(record.eval_id for record in records)}")
    verdicts = [record.images.set_index("image")["robust"] for record in records]
    if any(not verdict.index.sort_values().equals(verdicts[0].index.sort_values()) for verdict in verdicts):
        raise UserError(f"union over different images: {', '.join(record.eval_id for record in records)}")
    return pd.concat(verdicts, axis=1).all(axis=1).rename("robust")


def _check_images(cells: Mapping[tuple[str, str], Robust]) -> None:
    """Raises UserError when two cells are not of the same images: then they cannot be compared."""
    for (row, column), robust in cells.items():
        if not np.array_equal(robust.images, next(iter(cells.values())).images):
            raise UserError(f"{row} / {column} is of other images than the cells before it; run the table again")


def _lines_and_verdicts(plan: Plan, results: Results) -> tuple[list[dict[str, Any]], dict[tuple[str, str], Robust]]:
    """The cells in the plan's order, not yet compared with each other."""
    lines: list[dict[str, Any]] = []
    cells: dict[tuple[str, str], Robust] = {}
    for row in plan.rows:  # one at a time: a table's records may not fit into memory together
        found: dict[str, list[Found]] = {}
        for cell in plan.cells:
            if cell.row == row:
                found.setdefault(cell.column, []).append(find(plan, cell, results))
        told = {"trust": trust(plan, row, results)}
        for column in plan.columns:
            if column in plan.proofs:
                line, robust = certified.line(plan, row, column, results)
            else:
                line, robust = _line(plan, row, column, {one: found[one] for one in plan.attacked(column)})
                line |= {"proven": _proven(plan, column, found, results)} if robust is not None else {}
            lines.append(line | told)
            if robust is not None:
                cells[row, column] = robust
    _check_images(cells)
    return lines, cells


def _line(
    plan: Plan, row: str, column: str, found: Mapping[str, Sequence[Found]]
) -> tuple[dict[str, Any], Robust | None]:
    """One cell over its seeds, and its verdicts. found: for each attacked column that it is made of, one per seed.

    Numbers only when every seed has its records: a mean of some seeds is another number.
    """
    every = [one for seeds in found.values() for one in seeds]
    line: dict[str, Any] = {
        "table": plan.name,
        "row": row,
        "column": column,
        "seeds": len(plan.seeds),
        "state": max((one.state for one in every), key=WORST.index),
        "error": "; ".join(one.reason for one in every if one.reason) or None,
        "run_ids": ";".join(dict.fromkeys(one.run_id for one in every)),
        "health": {run_id: words for one in every for run_id, words in one.health.items()},
    }
    if line["state"] != OK:
        if column not in found:  # the reasons stand with the columns it is made of
            without = [name for name, seeds in found.items() if any(one.state != OK for one in seeds)]
            line["error"] = f"{row} / {column}: no number for {', '.join(without)}"
        return line, None
    verdicts = _verdicts(plan, plan.leaves(column), found)
    if column in plan.wrong:
        verdicts = verdicts._replace(robust=~verdicts.robust)
    value, spread = over_seeds(verdicts.robust)
    line |= {"n": value.n, "accuracy": value.value, "low": value.low, "high": value.high, "seed_spread": spread}
    if column in found:
        line["reach"] = min(_reach(one.record) for one in found[column] if one.record is not None)
        line["audit"] = _audited([one.record for one in found[column] if one.record is not None])
    if column in plan.unions:
        line["broken_by"] = _broken_by(plan, plan.unions[column], found)
    return line, verdicts


def _audited(records: Sequence[EvalRecord]) -> Audited | None:
    """Of one column, over its seeds. Where one was not audited, nothing is known of the mean."""
    if not any("audit" in record.settings for record in records):
        return None
    told, below, saved = [], [], []
    for record in records:
        one, n = record.audit, len(record.images)
        told.append("not audited" if one is None else one.words(n))
        below.append(nan if one is None else one.bound * one.standing / n)
        saved.append(nan if one is None else one.saved)
    return Audited(float(np.mean(below)), float(np.mean(saved)), told)


def _proven(
    plan: Plan, column: str, found: Mapping[str, Sequence[Found]], results: Results
) -> certified.Bracket | None:
    """What is proven beside the number of an attack or a union."""
    if column in plan.means or column in plan.wrong:
        return None
    seeds = zip(*(found[one] for one in plan.attacked(column)), strict=True)
    return certified.beside(plan, [[one.record for one in parts if one.record] for parts in seeds], results)


def _reach(record: EvalRecord) -> float:
    """How far the farthest adversarial image lies, as a share of the radius; NaN for what has no distance."""
    norm = record.norm.lower()
    return float(record.images[norm].max()) / record.eps if norm in DISTANCES and record.eps > 0 else nan


def _verdicts(plan: Plan, columns: Sequence[str], found: Mapping[str, Sequence[Found]]) -> Robust:
    """In the same order of images for every seed and column. Raises UserError when the ids differ."""
    verdicts = []
    for seed in range(len(plan.seeds)):
        for column in columns:
            records = [found[one][seed].record for one in plan.attacked(column)]
            verdicts.append(union_robust([record for record in records if record is not None]).sort_index())
    joined = pd.concat(verdicts, axis=1)
    if len(joined) != len(verdicts[0]) or joined.isna().any(axis=None):
        names = ", ".join(dict.fromkeys(one.run_id for seeds in found.values() for one in seeds))
        raise UserError(f"seeds of one cell on different images: {names}")
    robust = joined.to_numpy(dtype=bool).reshape(len(joined), len(plan.seeds), len(columns)).swapaxes(0, 1)
    return Robust(joined.index.to_numpy(), robust)


def _broken_by(plan: Plan, parts: Sequence[str], found: Mapping[str, Sequence[Found]]) -> list[Broken]:
    """Which part of a union broke the images that are right without an attack."""
    records = [one.record.images.sort_values("image") for one in next(iter(found.values())) if one.record is not None]
    right = np.stack([(images["clean_prediction"] == images["label"]).to_numpy() for images in records])
    broken = right[..., None] & ~_verdicts(plan, parts, found).robust
    first, only = broken & (broken.cumsum(-1) == 1), broken & (broken.sum(-1, keepdims=True) == 1)
    return [Broken(part, int(first[..., k].sum()), int(only[..., k].sum())) for k, part in enumerate(parts)]
