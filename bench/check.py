"""Regression: a table against its reference, cell by cell, both ways.

Lower accuracy may be a worse model; higher robust accuracy may be a weaker attack. So a cell fails when it moves either
way, and the message says which way: against reference numbers by more than their tolerance, against the records of
another folder by more than chance, image by image. A cell without a number, one that only one side has, and
another attack, recipe or set of validation images than the reference's fail too: a radius of 0.031 for 8/255
moves no number by more than noise. Against a paper's table nothing fails: other networks are bound to differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lcm
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from bench.compare import Robust
from bench.config import UserError
from bench.diff import ids
from bench.files import write_text
from bench.outcome import Checked, CheckResult
from bench.plan import Plan, digest, read_plan
from bench.provenance import Provenance
from bench.records import Results, check_id, read_eval, read_run
from bench.report import against_paper
from bench.stats import LEVEL, Difference, compare, compare_apart, holm
from bench.tables import OK, table, verdicts

COLUMNS = [
    "table", "row", "column", "n", "accuracy_percent", "tolerance_percent", "seed_spread_percent",
    "reach", "attack", "recipe", "chosen_with", "provenance",
]  # fmt: skip
LEAST_TOLERANCE = 2.0  # points: what another CPU or another release of the packages was allowed to move
MOST_TOLERANCE = 25.0  # points: what lets more pass is no check
FALSE_ALARM = 0.001  # how often an equal training may fail the whole table
WHOLE = 1e-3  # of the radius: a bounded attack on hundreds of images comes as near to it, or never meant to
_Verdicts = Mapping[tuple[str, str], Robust]
_SLACK = 1e-4  # points: the reference file's last digit


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


def check(plan: Plan, frame: pd.DataFrame, reference: Path) -> CheckResult:
    """The table of `tables.table` against a reference CSV (COLUMNS). Raises UserError when that is missing
    or broken.
    """
    known = _read(reference)
    lines = _lines(plan, frame)
    cells = []
    for (row, column), line in lines.items():
        problems = _problems(line, known.get((row, column)), is_attack=plan.budgets.get(column) != "no attack")
        cells.append(Checked(row, column, not problems, "; ".join(problems)))
    cells += [Checked(*key, ok=False, words="not in the table") for key in known if key not in lines]
    return CheckResult(
        plan.name, str(reference), cells, f"{len(lines)} cells, {_failed(cells) or 'all within tolerance'}"
    )


def check_records(plan: Plan, results: Results, reference: Results) -> CheckResult:
    """The table in `results` against the same table in another folder: a cell fails when p, corrected by Holm for
    all cells, is below 0.05. Paired by image and by seed where both sides have the same images and seeds
    (`stats.compare`), else by their intervals (`stats.compare_apart`). Raises UserError.
    """
    before = read_plan(reference, plan.name)
    lines, known = _lines(plan, table(plan, results)), _lines(before, table(before, reference))
    paired = _same_images(plan, before) and plan.seeds == before.seeds
    changes = _changes(plan.seeds, verdicts(plan, results), verdicts(before, reference), paired)
    cells = []
    for (row, column), line in lines.items():
        problems, words = _lacking(line, known.get((row, column)), reference.root), []
        if not problems:
            change, is_attack = changes[row, column], plan.budgets.get(column) != "no attack"
            problems = [*_problem(change, is_attack), *_made_otherwise(line, known[row, column])]
            words = [_moved(line, change), *change.flips] if problems or change.flips else []
        cells.append(Checked(row, column, not problems, "; ".join([*problems, *words])))
    cells += [Checked(*key, ok=False, words="not in the table") for key in known if key not in lines]
    how = "image by image" if paired else "by their intervals, as images or seeds are others"
    verdict = _failed(cells) or "none moved by more than chance"
    return CheckResult(plan.name, str(reference.root), cells, f"{len(lines)} cells compared {how}, {verdict}")


def check_paper(plan: Plan, frame: pd.DataFrame, published: Path) -> CheckResult:
    """The table against its paper's, where data set and architecture are the paper's. Raises UserError."""
    cells, found = [], against_paper(plan, frame, published)
    for line in found.to_dict("records"):
        where = "inside" if line["inside"] else "outside"
        cells.append(
            Checked(
                line["row"],
                line["column"],
                ok=True,
                words=f"the paper says {line['paper_percent']:.2f} %, we get {line['ours_percent']:.2f} "
                f"[{line['low_percent']:.2f}, {line['high_percent']:.2f}], {line['distance_points']:+.2f} points: "
                f"{where} our interval",
            )
        )
    told = f"{int(found['inside'].sum())} of {len(found)} published numbers inside our intervals"
    nothing = f"nothing published for {plan.dataset} with {plan.arch}"
    return CheckResult(plan.name, str(published), cells, told if cells else nothing)


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
    old = _read(reference) if reference.exists() else {}
    frame = frame.assign(tolerance_percent=_tolerance(plan, frame))
    new = _lines(plan, frame)
    lines = []
    for (row, column), line in new.items():
        known, now = old.get((row, column)), 100 * line["accuracy"]
        if known is None:
            lines.append(f"+ {row} / {column}: {now:.2f} %")
        elif abs(now - known["accuracy_percent"]) > _SLACK or line["n"] != known["n"]:
            was = f"{known['accuracy_percent']:.2f} % of {known['n']:.0f}"
            lines.append(f"! {row} / {column}: {was} -> {now:.2f} % of {line['n']} images")
        elif other := [*_made_otherwise(line, known), *_held_otherwise(line, known)]:
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
    return write_text(path, lines.to_csv(index=False, float_format="%.4f"))


def _lines(plan: Plan, frame: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
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


def _made_otherwise(line: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
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


def _held_otherwise(line: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """What else of a reference cell `write_reference` changes."""
    was, now = known["tolerance_percent"], line["tolerance_percent"]
    wider = [f"tolerance {was:.2f} -> {now:.2f} points"] if abs(was - now) > _SLACK else []
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


def _read(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(row, column) -> the reference cell."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)  # a row may be named NA, a hash be all digits
    except FileNotFoundError as error:
        advice = "make one with `bench check --update` and commit it"
        raise UserError(f"{path}: there is no reference; {advice}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is no readable CSV ({error})") from error
    if list(frame.columns) != COLUMNS or frame[["row", "column"]].duplicated().any():
        raise UserError(f"{path}: wanted the columns {', '.join(COLUMNS)} and each cell once")
    numbers = frame[["n", "accuracy_percent", "tolerance_percent"]].apply(pd.to_numeric, errors="coerce").astype(float)
    if not (numbers.ge(0) & np.isfinite(numbers)).all(axis=None) or (numbers.iloc[:, 1:] > 100).any(axis=None):
        raise UserError(f"{path}: a cell has no n, or no accuracy_percent or tolerance_percent in 0..100")
    frame[numbers.columns] = numbers
    frame["reach"] = pd.to_numeric(frame["reach"], errors="coerce").astype(float)
    return {(line["row"], line["column"]): line for line in frame.to_dict("records")}


def _problems(line: Mapping[str, Any], known: Mapping[str, Any] | None, is_attack: bool) -> list[str]:
    """Why the cell fails its reference number: nothing, if it does not."""
    if line["state"] != OK:
        return [f"{line['state']}: {line['error']}"]
    if known is None:
        return ["not in the reference; add it with `bench check --update`"]
    if line["n"] != known["n"]:
        return [f"measured on {line['n']} images, the reference on {known['n']}"]
    moved = 100 * float(line["accuracy"]) - known["accuracy_percent"]
    if abs(moved) <= known["tolerance_percent"] + _SLACK:
        return _made_otherwise(line, known)
    words = f"{moved:+.2f} points from {known['accuracy_percent']:.2f} % (tolerance {known['tolerance_percent']:.2f})"
    return [f"{words}: {_which_way(moved, is_attack)}", *_made_otherwise(line, known)]


def _which_way(moved: float, is_attack: bool) -> str:
    """What a number that moved may mean."""
    if moved > 0:
        return "a weaker attack, or a better model" if is_attack else "a better model, or other data"
    return "a worse model, or a stronger attack" if is_attack else "a worse model, or other data"


def _failed(cells: Sequence[Checked]) -> str:
    failed = sum(not cell.ok for cell in cells)
    return f"{failed} failed" if failed else ""


class _Change(NamedTuple):
    """A cell now and in another folder. p: corrected for all cells. flips: by network, in words; {} unless paired."""

    moved: Difference
    p: float
    flips: Sequence[str]


def _changes(seeds: Sequence[int], now: _Verdicts, then: _Verdicts, paired: bool) -> dict[tuple[str, str], _Change]:
    """Every cell that has a number on both sides."""
    both = [cell for cell in now if cell in then]
    measure = compare if paired else compare_apart
    moved = [measure(*_alike(now[cell].robust, then[cell].robust)) for cell in both]
    p = holm([one.p for one in moved])
    flips = [_flips(seeds, now[cell], then[cell]) if paired else [] for cell in both]
    return {cell: _Change(*change) for cell, *change in zip(both, moved, p, flips, strict=True)}


def _alike(now: NDArray[np.bool_], then: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """[S, n, k] of both; where they are means of j and of k columns, each is repeated until both have as many."""
    columns = lcm(now.shape[2], then.shape[2])
    repeated = (one.repeat(columns // one.shape[2], axis=2) for one in (now, then))
    return tuple(repeated)  # type: ignore[return-value]


def _same_images(plan: Plan, other: Plan) -> bool:
    return plan.images_sha256 == other.images_sha256 and plan.images == other.images


def _lacking(line: Mapping[str, Any], known: Mapping[str, Any] | None, folder: Path) -> list[str]:
    """Why a cell cannot be compared with that of another folder: nothing, if it can."""
    if line["state"] != OK:
        return [f"{line['state']}: {line['error']}"]
    if known is None:
        return [f"not in {folder}"]
    return [f"{folder} has no number: {known['state']}: {known['error']}"] if known["state"] != OK else []


def _problem(change: _Change, is_attack: bool) -> list[str]:
    """That a cell moved by more than chance: nothing, if it did not."""
    return [] if change.p > 1 - LEVEL else [_which_way(change.moved.value, is_attack)]


def _moved(line: Mapping[str, Any], change: _Change) -> str:
    value, low, high = (100 * share for share in change.moved[:3])
    return (
        f"{value:+.2f} points [{low:+.2f}, {high:+.2f}] from {100 * line['accuracy'] - value:.2f} %, "
        f"corrected p = {change.p:.2g}"
    )


def _flips(seeds: Sequence[int], now: Robust, then: Robust) -> list[str]:
    """The images that a network lost and won; in the mean of several columns those that went down and up."""
    difference = now.robust.mean(2) - then.robust.mean(2)
    return [
        f"{kind} with seed {seed}: {ids(now.images[flipped].tolist())}"
        for seed, one in zip(seeds, difference, strict=True)
        for kind, flipped in (("lost", one < 0), ("won", one > 0))
        if flipped.any()
    ]
