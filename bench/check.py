"""Regression: a table against its reference numbers, cell by cell, both ways.

Lower accuracy may be a worse model; higher robust accuracy may be a weaker attack. So a cell fails when it
moves either way by more than its tolerance, and the message says which way. A cell without a number, a
reference that the table lacks, and another number of images fail too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from bench.config import UserError
from bench.files import write_text
from bench.plan import Plan
from bench.tables import OK

COLUMNS = [
    "table", "row", "column", "n", "accuracy_percent", "tolerance_percent", "seed_spread_percent",
    "provenance",
]  # fmt: skip
LEAST_TOLERANCE = 2.0  # points: what another CPU or another release of the packages was allowed to move
FALSE_ALARM = 0.001  # how often an equal training may fail the whole table
_SLACK = 1e-4  # points: the reference file's last digit


@dataclass(frozen=True)
class CheckResult:
    """ok: every cell is within its tolerance. lines: one for every failure, then the summary."""

    ok: bool
    lines: list[str]


def reference_path(name: str) -> Path:
    """Where a plan's reference numbers lie, below the current folder."""
    return Path("results") / "reference" / f"{name}.csv"


def check(plan: Plan, frame: pd.DataFrame, reference: Path) -> CheckResult:
    """The table of `tables.table` against a reference CSV (COLUMNS). Raises UserError when that is missing
    or broken.
    """
    known = _read(reference)
    cells = {(line["row"], line["column"]): line for line in frame.to_dict("records")}
    failures = []
    for (row, column), line in cells.items():
        problem = _problem(line, known.get((row, column)), is_attack=plan.budgets.get(column) != "no attack")
        if problem:
            failures.append(f"{plan.name}: {row} / {column}: {problem}")
    gone = [key for key in known if key not in cells]
    failures += [f"{plan.name}: {row} / {column}: not in the table" for row, column in gone]
    verdict = f"{len(failures)} failed" if failures else "all within tolerance"
    return CheckResult(not failures, [*failures, f"{plan.name}: {len(cells)} cells, {verdict} ({reference})"])


def write_reference(plan: Plan, frame: pd.DataFrame, path: Path) -> Path:
    """Today's numbers as the reference, see `_tolerance`. Raises UserError when a cell has none."""
    bad = frame[frame["state"] != OK]
    if len(bad):
        why = f"{len(bad)} cells without a number, so it is no reference"
        raise UserError(f"{plan.name} has {why}: {bad['error'].iloc[0]}")
    lines = pd.DataFrame(
        {
            "table": frame["table"],
            "row": frame["row"],
            "column": frame["column"],
            "n": frame["n"],
            "accuracy_percent": 100 * frame["accuracy"],
            "tolerance_percent": _tolerance(frame).clip(lower=LEAST_TOLERANCE),
            "seed_spread_percent": 100 * frame["seed_spread"],
            "provenance": frame["run_ids"],
        }
    )
    return write_text(path, lines.to_csv(index=False, float_format="%.4f"))


def _tolerance(frame: pd.DataFrame) -> pd.Series:
    """How far, in points, a training with one new seed may lie from each cell.

    With S >= 2 seeds: the prediction interval of one more, t * spread * sqrt(1 + 1 / S), where the spread is
    pooled over the rows of a column and t has its S - 1 degrees of freedom per row; the level is FALSE_ALARM
    shared by all cells (Bonferroni). With one seed the spread is unknown, and it is half the width of the
    interval over images.
    """
    seeds = int(frame["seeds"].min())
    if seeds < 2:
        return 50 * (frame["high"] - frame["low"])
    columns = frame.groupby("column")["seed_spread"]
    pooled = columns.transform(lambda spread: (spread**2).mean() ** 0.5)
    freedom = columns.transform("size") * (seeds - 1)
    return 100 * stdtrit(freedom, 1 - FALSE_ALARM / (2 * len(frame))) * pooled * (1 + 1 / seeds) ** 0.5


def _read(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """(row, column) -> the reference cell."""
    try:
        frame = pd.read_csv(path)
    except FileNotFoundError as error:
        advice = "make one with `bench check --update` and commit it"
        raise UserError(f"{path}: there is no reference; {advice}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is no readable CSV ({error})") from error
    if list(frame.columns) != COLUMNS or frame[["row", "column"]].duplicated().any():
        raise UserError(f"{path}: wanted the columns {', '.join(COLUMNS)} and each cell once")
    numbers = frame[["n", "accuracy_percent", "tolerance_percent"]].apply(pd.to_numeric, errors="coerce")
    if not (numbers.ge(0) & np.isfinite(numbers)).all(axis=None) or (numbers.iloc[:, 1:] > 100).any(axis=None):
        raise UserError(f"{path}: a cell has no n, or no accuracy_percent or tolerance_percent in 0..100")
    frame[numbers.columns] = numbers
    return {(line["row"], line["column"]): line for line in frame.to_dict("records")}


def _problem(line: dict[str, object], known: dict[str, float] | None, is_attack: bool) -> str | None:
    """Why the cell fails, or None."""
    if line["state"] != OK:
        return f"{line['state']}: {line['error']}"
    if known is None:
        return "not in the reference; add it with `bench check --update`"
    if line["n"] != known["n"]:
        return f"measured on {line['n']} images, the reference on {known['n']}"
    moved = 100 * float(str(line["accuracy"])) - known["accuracy_percent"]
    if abs(moved) <= known["tolerance_percent"] + _SLACK:
        return None
    higher = "a weaker attack, or a better model" if is_attack else "a better model, or other data"
    lower = "a worse model, or a stronger attack" if is_attack else "a worse model, or other data"
    return (
        f"{moved:+.2f} points from {known['accuracy_percent']:.2f} % "
        f"(tolerance {known['tolerance_percent']:.2f}): {higher if moved > 0 else lower}"
    )
