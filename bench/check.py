"""Regression: a table against its reference numbers, cell by cell, both ways.

Lower accuracy may be a worse model; higher robust accuracy may be a weaker attack. So a cell fails when it
moves either way by more than its tolerance, and the message says which way. A cell without a number, a
reference that the table lacks, another number of images, and another attack, recipe or set of validation images than
the reference's fail too: a radius of 0.031 for 8/255 moves no number by more than noise. Against a paper's table
nothing fails: other networks are bound to differ. What came out is told as text, JUnit XML, JSON or GitHub's workflow
commands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from bench.config import UserError, choose
from bench.files import write_text
from bench.plan import Plan, digest
from bench.provenance import Provenance
from bench.records import Results, read_eval, read_run
from bench.report import against_paper
from bench.tables import OK

COLUMNS = [
    "table", "row", "column", "n", "accuracy_percent", "tolerance_percent", "seed_spread_percent",
    "attack", "recipe", "chosen_with", "provenance",
]  # fmt: skip
LEAST_TOLERANCE = 2.0  # points: what another CPU or another release of the packages was allowed to move
FALSE_ALARM = 0.001  # how often an equal training may fail the whole table
_SLACK = 1e-4  # points: the reference file's last digit


@dataclass(frozen=True)
class Checked:
    """A cell that was compared with its reference. words: what failed, or what there is to say."""

    row: str
    column: str
    ok: bool
    words: str = ""


@dataclass(frozen=True)
class CheckResult:
    """A table that was compared with a reference: its cells, and a sentence on all of them."""

    table: str
    reference: str
    cells: list[Checked]
    summary: str

    @property
    def ok(self) -> bool:
        """Whether no cell failed."""
        return all(cell.ok for cell in self.cells)

    @property
    def lines(self) -> list[str]:
        """One for every cell that there is something to say of, then the summary."""
        told = [f"{self.table}: {cell.row} / {cell.column}: {cell.words}" for cell in self.cells if cell.words]
        return [*told, f"{self.table}: {self.summary} ({self.reference})"]


def reference_path(name: str) -> Path:
    """Where a plan's reference numbers lie, below the current folder."""
    return Path("results") / "reference" / f"{name}.csv"


def paper_path(plan: Plan) -> Path:
    """Where the numbers of a plan's paper lie, below the current folder. Raises UserError where it has none."""
    file = plan.reference.partition(":")[0]
    if not file:
        raise UserError(f"{plan.name} has no published numbers: {plan.source}; leave --paper out")
    return Path("results") / "reference" / file


def check(plan: Plan, frame: pd.DataFrame, reference: Path) -> CheckResult:
    """The table of `tables.table` against a reference CSV (COLUMNS). Raises UserError when that is missing
    or broken.
    """
    known = _read(reference)
    lines = {(line["row"], line["column"]): line | _made_with(plan, line) for line in frame.to_dict("records")}
    cells = []
    for (row, column), line in lines.items():
        problems = _problems(line, known.get((row, column)), is_attack=plan.budgets.get(column) != "no attack")
        cells.append(Checked(row, column, not problems, "; ".join(problems)))
    cells += [Checked(*key, ok=False, words="not in the table") for key in known if key not in lines]
    failed = sum(not cell.ok for cell in cells)
    verdict = f"{failed} failed" if failed else "all within tolerance"
    return CheckResult(plan.name, str(reference), cells, f"{len(lines)} cells, {verdict}")


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


def changes(plan: Plan, frame: pd.DataFrame, reference: Path) -> list[str]:
    """What `write_reference` would change, cell by cell. Raises UserError when the old reference is broken."""
    old = _read(reference) if reference.exists() else {}
    new = {(line["row"], line["column"]): line | _made_with(plan, line) for line in frame.to_dict("records")}
    lines = []
    for (row, column), line in new.items():
        known, now = old.get((row, column)), 100 * line["accuracy"]
        if known is None:
            lines.append(f"+ {row} / {column}: {now:.2f} %")
        elif abs(now - known["accuracy_percent"]) > _SLACK or line["n"] != known["n"]:
            was = f"{known['accuracy_percent']:.2f} % of {known['n']:.0f}"
            lines.append(f"! {row} / {column}: {was} -> {now:.2f} % of {line['n']} images")
        elif other := _made_otherwise(line, known):
            lines.append(f"! {row} / {column}: {'; '.join(other)}")
    gone = [cell for cell in old if cell not in new]
    lines += [f"- {row} / {column}: {old[row, column]['accuracy_percent']:.2f} %" for row, column in gone]
    return [*lines, f"{plan.name}: {len(lines)} of {len(new | old)} cells change"]


def refuse_incomplete(plan: Plan, frame: pd.DataFrame) -> None:
    """Raises UserError when a cell of the table has no number."""
    bad = frame[frame["state"] != OK]
    if len(bad):
        why = f"{len(bad)} cells without a number, so it is no reference"
        raise UserError(f"{plan.name} has {why}: {bad['error'].iloc[0]}")


def refuse_dirty(plan: Plan, results: Results) -> None:
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
    refuse_incomplete(plan, frame)
    made_with = pd.DataFrame([_made_with(plan, line) for line in frame.to_dict("records")])
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
    lines = pd.concat([lines, made_with], axis=1)[COLUMNS]
    return write_text(path, lines.to_csv(index=False, float_format="%.4f"))


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
    """Where a cell and its reference do not stand for the same thing."""
    words = {"attack": "attacked with", "recipe": "trained by", "chosen_with": "checkpoint chosen with images"}
    return [
        f"{said} {line[key]}, the reference {said.split()[-1]} {known[key]}"
        for key, said in words.items()
        if line[key] != known[key]
    ]


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


def _read(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
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


def _problems(line: Mapping[str, Any], known: Mapping[str, Any] | None, is_attack: bool) -> list[str]:
    """Why the cell fails: nothing, if it does not."""
    if line["state"] != OK:
        return [f"{line['state']}: {line['error']}"]
    if known is None:
        return ["not in the reference; add it with `bench check --update`"]
    if line["n"] != known["n"]:
        return [f"measured on {line['n']} images, the reference on {known['n']}"]
    moved = 100 * float(line["accuracy"]) - known["accuracy_percent"]
    if abs(moved) <= known["tolerance_percent"] + _SLACK:
        return _made_otherwise(line, known)
    higher = "a weaker attack, or a better model" if is_attack else "a better model, or other data"
    lower = "a worse model, or a stronger attack" if is_attack else "a worse model, or other data"
    words = (
        f"{moved:+.2f} points from {known['accuracy_percent']:.2f} % "
        f"(tolerance {known['tolerance_percent']:.2f}): {higher if moved > 0 else lower}"
    )
    return [words, *_made_otherwise(line, known)]


def tell(outcomes: Sequence[CheckResult], style: str) -> str:
    """The outcomes in one of FORMATS. Raises UserError for another format."""
    return FORMATS[choose(style, FORMATS, "format")](outcomes)


def _text(outcomes: Sequence[CheckResult]) -> str:
    return "\n".join(line for outcome in outcomes for line in outcome.lines)


def _json(outcomes: Sequence[CheckResult]) -> str:
    """{"ok", "tables": [{"table", "reference", "summary", "ok", "cells": [{"row", "column", "ok", "words"}]}]}."""
    tables = [asdict(outcome) | {"ok": outcome.ok} for outcome in outcomes]
    return json.dumps({"ok": all(outcome.ok for outcome in outcomes), "tables": tables}, indent=1)


def _junit(outcomes: Sequence[CheckResult]) -> str:
    """A test suite for each table, a test case for each cell."""
    root = ElementTree.Element("testsuites")
    for outcome in outcomes:
        failed = str(sum(not cell.ok for cell in outcome.cells))
        about = {"name": outcome.table, "tests": str(len(outcome.cells)), "failures": failed}
        suite = ElementTree.SubElement(root, "testsuite", about)
        for cell in outcome.cells:
            name = {"classname": outcome.table, "name": _xml(f"{cell.row} / {cell.column}")}
            case = ElementTree.SubElement(suite, "testcase", name)
            if not cell.ok:
                ElementTree.SubElement(case, "failure", {"message": _xml(cell.words)})
            elif cell.words:
                ElementTree.SubElement(case, "system-out").text = _xml(cell.words)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text.decode()


def _xml(text: str) -> str:
    """Without the signs that XML cannot hold, escaped or not; an attack's error may contain any."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)


def _github(outcomes: Sequence[CheckResult]) -> str:
    """Workflow commands, which GitHub shows as annotations of a run."""

    def command(kind: str, title: str, words: str) -> str:
        escaped = words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        title = title.replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
        return f"::{kind} title={title}::{escaped}"

    lines = []
    for outcome in outcomes:
        for cell in outcome.cells:
            if cell.words:
                kind = "notice" if cell.ok else "error"
                lines.append(command(kind, f"{outcome.table}: {cell.row} / {cell.column}", cell.words))
        lines.append(command("notice" if outcome.ok else "error", outcome.table, outcome.summary))
    return "\n".join(lines)


FORMATS: dict[str, Callable[[Sequence[CheckResult]], str]] = {
    "text": _text,
    "junit": _junit,
    "json": _json,
    "github": _github,
}
