"""Reference numbers: a table's cells as a file that is committed, with what each stands for and how far it may move.

`bench check --update` writes it from today's records, `bench check` holds tables to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from bench.ground.config import UserError
from bench.ground.files import write_text
from bench.ground.provenance import Provenance
from bench.ground.spreadsheet import read_csv, to_csv
from bench.ledger.evals import read_eval
from bench.ledger.find import OK
from bench.ledger.folder import Results
from bench.ledger.ids import check_id, digest
from bench.ledger.plan import Plan
from bench.ledger.runs import read_run
from bench.tables.cells import table

COLUMNS = [
    "table", "row", "column", "n", "accuracy_percent", "tolerance_percent", "seed_spread_percent",
    "reach", "attack", "recipe", "chosen_with", "provenance",
]  # fmt: skip
LEAST_TOLERANCE = 2.0  # points: what another CPU or another release of the packages was allowed to move
MOST_TOLERANCE = 25.0  # points: what lets more pass is no check
FALSE_ALARM = 0.001  # how often an equal training may fail the whole table
WHOLE = 1e-3  # of the radius: a bounded attack on hundreds of images comes as near to it, or never meant to
SLACK = 1e-4  # points: the reference file's last digit


def reference_path(name: str) -> Path:
    """Where a plan's reference numbers lie, below the current folder."""
    return Path("results") / "reference" / f"{name}.csv"


def paper_path(plan: Plan) -> Path:
    """Where the numbers of a plan's paper lie, below the current folder. Raises UserError where it has none, or names
    a file elsewhere: a plan may be a stranger's.
    """
    file = plan.reference.partition(":")[0]
    if not file:
        raise UserError(f"{plan.name} has no published numbers: {plan.source}; leave --paper out")
    check_id(file)
    return Path("results") / "reference" / file


def update(plan: Plan, results: Results, path: Path) -> list[str]:
    """Today's numbers become the reference; returns what changes, cell by cell. Raises UserError when a cell has no
    number or a record could not be made again.
    """
    frame = table(plan, results)
    _refuse_incomplete(plan, frame)
    _refuse_dirty(plan, results)
    told = _what_changes(plan, frame, path)
    return [*told, f"wrote {write_reference(plan, frame, path)}"]


def _what_changes(plan: Plan, frame: pd.DataFrame, reference: Path) -> list[str]:
    """What `write_reference` would change, cell by cell. Raises UserError when the old reference is broken."""
    old = read_reference(reference, plan.name) if reference.exists() else {}
    frame = frame.assign(tolerance_percent=_tolerance(plan, frame))
    new = cells_of(plan, frame)
    lines = []
    for (row, column), line in new.items():
        known = old.get((row, column))
        if known is None:
            lines.append(f"+ {row} / {column}: {100 * line['accuracy']:.2f} %")
        elif other := [*_moved(line, known), *made_otherwise(line, known), *_held_otherwise(line, known)]:
            lines.append(f"! {row} / {column}: {'; '.join(other)}")
    gone = [cell for cell in old if cell not in new]
    lines += [f"- {row} / {column}: {old[row, column]['accuracy_percent']:.2f} %" for row, column in gone]
    return [*lines, f"{plan.name}: {len(lines)} of {len(new | old)} cells change"]


def _refuse_incomplete(plan: Plan, frame: pd.DataFrame) -> None:
    """Raises UserError when a cell of the table has no number."""
    bad = frame[frame["state"] != OK]
    if len(bad):
        why = f"{len(bad)} cells without a number, so it is no reference"
        raise UserError(f"{plan.name} has {why}: {bad['error'].iloc[0]}")


def _refuse_dirty(plan: Plan, results: Results) -> None:
    """Raises UserError when a record behind the table was made by code that is in no commit, or nobody knows which."""
    made: dict[str, Provenance] = {}
    for cell in plan.cells:
        for run_id in cell.networks:
            made.setdefault(run_id, read_run(results, run_id).provenance)
        what = f"{cell.eval_id} of {cell.run_id}"
        made.setdefault(what, read_eval(results, cell.run_id, cell.eval_id).provenance)
    dirty = [what for what, by in made.items() if by.git_dirty or by.git_commit == "unknown"]
    if dirty:
        raise UserError(
            f"{plan.name}: {len(dirty)} of {len(made)} records were made with uncommitted changes or outside a "
            f"repository, such as {dirty[0]}, so nobody could make them again; commit, delete them and run again"
        )


def write_reference(plan: Plan, frame: pd.DataFrame, path: Path) -> Path:
    """Today's numbers as the reference, see `_tolerance`. Raises UserError when a cell has none."""
    _refuse_incomplete(plan, frame)
    made_with = pd.DataFrame([_made_with(plan, line) for line in frame.to_dict("records")])
    lines = pd.DataFrame(
        {
            "table": frame["table"],
            "row": frame["row"],
            "column": frame["column"],
            "n": frame["n"],
            "accuracy_percent": 100 * frame["accuracy"],
            "tolerance_percent": _tolerance(plan, frame),
            "seed_spread_percent": 100 * frame["seed_spread"],
            "reach": frame["reach"],
            "provenance": frame["run_ids"],
        }
    )
    lines = pd.concat([lines, made_with], axis=1)[COLUMNS]
    return write_text(path, to_csv(lines, float_format="%.4f"))


def cells_of(plan: Plan, frame: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """(row, column) -> a line of the table, and what its number stands for."""
    return {(line["row"], line["column"]): line | _made_with(plan, line) for line in frame.to_dict("records")}


def _made_with(plan: Plan, line: Mapping[str, Any]) -> dict[str, str]:
    """What a cell's number stands for: the attack in words and a hash of its settings, the recipe by name and a hash
    of its settings, and a hash of the images that chose the checkpoint. A column that is made of others has words
    only: theirs have the hashes.
    """
    recipe = next(cell.recipe for cell in plan.cells if cell.row == line["row"])
    attack = next(
        (f", settings {digest(plan.attacks[c.attack])}" for c in plan.cells if c.column == line["column"]), ""
    )
    return {
        "attack": plan.budgets[line["column"]] + attack,
        "recipe": f"{recipe} {digest(plan.recipes[recipe])}",
        "chosen_with": (plan.validation_sha256 or "unknown")[:12],
    }


def made_otherwise(line: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """Where a cell and its reference do not stand for the same thing: in what the settings say, or in what the code
    makes of a radius, where the reference goes as far as it may.
    """
    words = {"attack": "attacked with", "recipe": "trained by", "chosen_with": "checkpoint chosen with images"}
    told = [
        f"{said} {line[key]}, the reference {said.split()[-1]} {known[key]}"
        for key, said in words.items()
        if line[key] != known[key]
    ]
    if abs(known["reach"] - 1) < WHOLE and not line["reach"] > 1 - WHOLE:
        told.append(
            f"its farthest image lies at {line['reach']:.4g} of the radius, the reference's at {known['reach']:.4g}"
        )
    return told


def _moved(line: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """The number of a reference cell before and after, where it changes."""
    was, now = known["accuracy_percent"], 100 * line["accuracy"]
    if abs(now - was) <= SLACK and line["n"] == known["n"]:
        return []
    return [f"{was:.2f} % of {known['n']:.0f} -> {now:.2f} % of {line['n']} images"]


def _held_otherwise(line: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """What else of a reference cell `write_reference` changes."""
    was, now = known["tolerance_percent"], line["tolerance_percent"]
    wider = [f"tolerance {was:.2f} -> {now:.2f} points"] if abs(was - now) > SLACK else []
    before, reach = (f"{one['reach']:.4f}" for one in (known, line))  # as the file has it
    farther = [f"reach {before} -> {reach}"] if before != reach else []
    return [*wider, *farther, *(["of other networks"] if line["run_ids"] != known["provenance"] else [])]


def _tolerance(plan: Plan, frame: pd.DataFrame) -> pd.Series:
    """How far, in points, a training with one new seed may lie from each cell: at least LEAST_TOLERANCE. Raises
    UserError where it is more than MOST_TOLERANCE.

    With S >= 2 seeds: the prediction interval of one more, t * spread * sqrt(1 + 1 / S), where the spread is
    pooled over the rows of a column and t has its S - 1 degrees of freedom per row; the level is FALSE_ALARM
    shared by all cells (Bonferroni). With one seed the spread is unknown, and it is half the width of the
    interval over images.
    """
    seeds = int(frame["seeds"].min())
    if seeds < 2:
        return (50 * (frame["high"] - frame["low"])).clip(lower=LEAST_TOLERANCE)
    columns = frame.groupby("column")["seed_spread"]
    pooled = columns.transform(lambda spread: (spread**2).mean() ** 0.5)
    freedom = columns.transform("size") * (seeds - 1)
    wide = 100 * stdtrit(freedom, 1 - FALSE_ALARM / (2 * len(frame))) * pooled * (1 + 1 / seeds) ** 0.5
    if wide.max() > MOST_TOLERANCE:
        raise UserError(
            f"{plan.name}: with {seeds} seeds of {len(plan.rows)} rows an equal training may lie {wide.max():.0f} "
            f"points off, and a reference that lets more than {MOST_TOLERANCE:.0f} pass checks nothing; "
            "give more seeds, or one"
        )
    return wide.clip(lower=LEAST_TOLERANCE)


def read_reference(path: Path, name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(row, column) -> the reference cell of the table `name`. Raises UserError."""
    try:
        frame = read_csv(path)
    except FileNotFoundError as error:
        advice = "make one with `bench check --update` and commit it"
        raise UserError(f"{path}: there is no reference; {advice}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path}: is no readable CSV ({error})") from error
    if list(frame.columns) != COLUMNS:
        raise UserError(f"{path}: wanted the columns {', '.join(COLUMNS)}")
    if others := sorted(set(frame["table"]) - {name}):
        raise UserError(f"{path}: is the reference of {', '.join(others)}, not of {name}")
    if (twice := frame[["row", "column"]].duplicated()).any():
        raise UserError(f"{path}: has {' / '.join(frame.loc[twice, ['row', 'column']].iloc[0])} twice")
    numbers = frame[["n", "accuracy_percent", "tolerance_percent"]].apply(pd.to_numeric, errors="coerce").astype(float)
    if not (numbers.ge(0) & np.isfinite(numbers)).all(axis=None) or (numbers.iloc[:, 1:] > 100).any(axis=None):
        raise UserError(f"{path}: a cell has no n, or no accuracy_percent or tolerance_percent in 0..100")
    frame[numbers.columns] = numbers
    frame["reach"] = pd.to_numeric(frame["reach"], errors="coerce").astype(float)
    return {(line["row"], line["column"]): line for line in frame.to_dict("records")}
