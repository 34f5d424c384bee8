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

from bench.ground.config import UserError
from bench.ground.stats import LEVEL, Difference, compare, compare_apart, holm
from bench.ledger.find import OK
from bench.ledger.folder import Results
from bench.ledger.named import is_corruption
from bench.ledger.plan import Plan, read_plan
from bench.ledger.spec import CLEAN
from bench.regression.diff import ids
from bench.regression.outcome import Checked, CheckResult
from bench.regression.reference import SLACK, cells_of, made_otherwise, read_reference
from bench.tables.cells import table_and_verdicts
from bench.tables.compare import Robust
from bench.tables.report import against_paper

_Verdicts = Mapping[tuple[str, str], Robust]


def check(plan: Plan, frame: pd.DataFrame, reference: Path) -> CheckResult:
    """The table of `tables.table` against a file of `bench.regression.reference`. Raises UserError when that is missing
    or broken.
    """
    known = read_reference(reference, plan.name)
    lines = cells_of(plan, frame)
    cells = []
    for (row, column), line in lines.items():
        problems = _problems(line, known.get((row, column)), _meaning(plan, column))
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
    if reference.root.resolve() == results.root.resolve():
        raise UserError(f"{reference.root} is the folder that is checked; give --reference one of earlier records")
    before = read_plan(reference, plan.name)
    (frame, now), (frame_then, then) = table_and_verdicts(plan, results), table_and_verdicts(before, reference)
    lines, known = cells_of(plan, frame), cells_of(before, frame_then)
    paired = _same_images(plan, before) and plan.seeds == before.seeds
    changes = _changes(plan.seeds, now, then, paired)
    cells = []
    for (row, column), line in lines.items():
        problems, words = _lacking(line, known.get((row, column)), reference.root), []
        if not problems:
            change = changes[row, column]
            problems = [*_problem(change, _meaning(plan, column)), *made_otherwise(line, known[row, column])]
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
    told += f" ({plan.note.rstrip('.')})" if plan.note else ""
    nothing = f"nothing published for {plan.dataset} with {plan.arch}"
    return CheckResult(plan.name, str(published), cells, told if cells else nothing)


def _problems(line: Mapping[str, Any], known: Mapping[str, Any] | None, meaning: _Meaning) -> list[str]:
    """Why the cell fails its reference number: nothing, if it does not."""
    if line["state"] != OK:
        return [f"{line['state']}: {line['error']}"]
    if known is None:
        return ["not in the reference; add it with `bench check --update`"]
    if line["n"] != known["n"]:
        return [f"measured on {line['n']} images, the reference on {known['n']:.0f}"]
    moved = 100 * float(line["accuracy"]) - known["accuracy_percent"]
    if abs(moved) <= known["tolerance_percent"] + SLACK:
        return made_otherwise(line, known)
    words = f"{moved:+.2f} points from {known['accuracy_percent']:.2f} % (tolerance {known['tolerance_percent']:.2f})"
    return [f"{words}: {meaning.of(moved)}", *made_otherwise(line, known)]


class _Meaning(NamedTuple):
    """What a number that moved may mean, in words."""

    rise: str
    fall: str

    def of(self, moved: float) -> str:
        return self.rise if moved > 0 else self.fall


def _meaning(plan: Plan, column: str) -> _Meaning:
    """Of an error less is better; nothing is as strong or as weak as an attack but an attack."""
    leaves = {one for leaf in plan.leaves(column) for one in plan.attacked(leaf)}
    attacks = {cell.attack for cell in plan.cells if cell.column in leaves and cell.column_attack != CLEAN}
    better, worse = "a better model, or other data", "a worse model, or other data"
    if any(not is_corruption(plan.attacks[attack]) for attack in attacks):
        better, worse = "a weaker attack, or a better model", "a worse model, or a stronger attack"
    return _Meaning(worse, better) if column in plan.wrong else _Meaning(better, worse)


def _failed(cells: Sequence[Checked]) -> str:
    """ "3 failed", or "" where none did."""
    failed = sum(not cell.ok for cell in cells)
    return f"{failed} failed" if failed else ""


class _Change(NamedTuple):
    """A cell now and in another folder. p: corrected for all cells. flips: by network, in words; none unless paired."""

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
    return now.repeat(columns // now.shape[2], axis=2), then.repeat(columns // then.shape[2], axis=2)


def _same_images(plan: Plan, other: Plan) -> bool:
    return plan.images_sha256 == other.images_sha256 and plan.images == other.images


def _lacking(line: Mapping[str, Any], known: Mapping[str, Any] | None, folder: Path) -> list[str]:
    """Why a cell cannot be compared with that of another folder: nothing, if it can."""
    if line["state"] != OK:
        return [f"{line['state']}: {line['error']}"]
    if known is None:
        return [f"not in {folder}"]
    return [f"{folder} has no number: {known['state']}: {known['error']}"] if known["state"] != OK else []


def _problem(change: _Change, meaning: _Meaning) -> list[str]:
    """That a cell moved by more than chance: nothing, if it did not."""
    return [] if change.p > 1 - LEVEL else [meaning.of(change.moved.value)]


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
