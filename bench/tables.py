"""Plan + records -> one tidy row per cell, with n, interval and seed spread. A cell without all records is
no number.

Per-image verdicts are joined late: only records of the plan's own images and of the registered weights
count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from bench.config import UserError
from bench.plan import Cell, Plan
from bench.records import EvalRecord, Results, read_error, read_eval, read_run
from bench.stats import Share, over_seeds

COLUMNS = [
    "table", "row", "column", "seeds", "n", "accuracy", "low", "high", "seed_spread",
    "state", "error", "run_ids",
]  # fmt: skip
OK, MISSING, STALE, ERROR = WORST = ("ok", "missing", "stale", "error")


class Found(NamedTuple):
    """One seed of a cell: its record, or why there is none."""

    state: str
    reason: str
    record: EvalRecord | None = None


def table(plan: Plan, results: Results) -> pd.DataFrame:
    """One line per cell, in the plan's order, the columns of COLUMNS; shares in [0, 1], n in images.

    state: "ok", or "missing", "error", "stale", and then there are no numbers and `error` says why. Raises
    UserError for a broken record.
    """
    lines = []
    for row in plan.rows:
        for column in plan.columns:
            cells = [cell for cell in plan.cells if (cell.row, cell.column) == (row, column)]
            lines.append(_line(plan, cells, [find(plan, cell, results) for cell in cells]))
    frame = pd.DataFrame(lines, columns=COLUMNS)
    shares = dict.fromkeys(("accuracy", "low", "high", "seed_spread"), "float64")
    frame = frame.astype({"seeds": "int64", "n": "Int64"} | shares)
    frame["error"] = pd.Series([line["error"] for line in lines], dtype=object)  # None stays None
    return frame


def find(plan: Plan, cell: Cell, results: Results) -> Found:
    """The record of one cell and seed. Raises UserError for a broken record."""
    where = f"{cell.row} / {cell.column}, seed {cell.seed}"
    trained, attacked = results.run(cell.run_id).exists(), results.eval(cell.run_id, cell.eval_id).exists()
    if not (trained and attacked):
        if failed := read_error(results, cell.run_id, cell.eval_id if trained else None):
            return Found(ERROR, f"{where}: {failed.reason}")
        lacking = f"record {cell.eval_id} of {cell.run_id}" if trained else f"trained network {cell.run_id}"
        return Found(MISSING, f"{where}: there is no {lacking}")
    record = read_eval(results, cell.run_id, cell.eval_id)
    if record.weights_sha256 != read_run(results, cell.run_id).weights_sha256:
        return Found(STALE, f"{where}: the record is of other weights than {cell.run_id} has now")
    if record.images_sha256 != plan.images_sha256:
        return Found(STALE, f"{where}: the record is of other images than the plan's")
    if len(record.images) != plan.images:
        return Found(STALE, f"{where}: the record has {len(record.images)} images, the plan {plan.images}")
    return Found(OK, "", record)


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


def _line(plan: Plan, cells: Sequence[Cell], found: Sequence[Found]) -> dict[str, object]:
    """One cell over its seeds. Numbers only when every seed has its record: a mean of some seeds is another
    number.
    """
    first = cells[0]
    line: dict[str, object] = {
        "table": plan.name,
        "row": first.row,
        "column": first.column,
        "seeds": len(cells),
        "state": max((one.state for one in found), key=WORST.index),
        "error": "; ".join(one.reason for one in found if one.reason) or None,
        "run_ids": ";".join(cell.run_id for cell in cells),
    }
    records = [one.record for one in found if one.record is not None]
    if line["state"] == OK:
        value, spread = _mean(records)
        line |= {"n": value.n, "accuracy": value.value, "low": value.low, "high": value.high}
        line["seed_spread"] = spread
    return line


def _mean(records: Sequence[EvalRecord]) -> tuple[Share, float | None]:
    """Over seeds, image by image. Raises UserError when the image ids differ."""
    verdicts = [record.images.set_index("image")["robust"] for record in records]
    joined = pd.concat(verdicts, axis=1)
    if len(joined) != len(verdicts[0]) or joined.isna().any(axis=None):
        names = ", ".join(record.run_id for record in records)
        raise UserError(f"seeds of one cell on different images: {names}")
    return over_seeds(joined.to_numpy(dtype=bool).T)
