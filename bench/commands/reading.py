"""`bench report`, `bench check` and `bench diff`: what records say; none of them loads torch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands import completing
from bench.commands.options import (
    FORMAT,
    RESULTS,
    filled_of,
)
from bench.ground.config import UserError
from bench.ground.terminal import tell
from bench.ledger.folder import Results

if TYPE_CHECKING:
    import pandas as pd

    from bench.ledger.plan import Plan


@click.command()
@click.argument("names", nargs=-1, metavar="[TABLE ...]", shell_complete=completing.of(completing.planned))
@click.option(
    "--format",
    "style",
    default="markdown",
    show_default=True,
    type=click.Choice(["markdown", "csv", "latex", "html", "text"]),
)
@click.option(
    "--out",
    callback=filled_of,
    metavar="PATH",
    help="Write to this file instead of the terminal; with --format html a folder (report/) gets one page of all.",
)
@click.option("--baseline", metavar="ROW", help="Test the other rows against this one, not against the table's own.")
@click.option("--no-intervals", "bare", is_flag=True, help="LaTeX without the intervals below the numbers.")
@click.option("--cost", "costly", is_flag=True, help="What each row cost, in place of its accuracies.")
@click.option("--figures", "pictures", is_flag=True, help="Also draw the tables' figures, beside their CSV.")
@RESULTS
def report(
    names: tuple[str, ...],
    style: str,
    out: str | None,
    baseline: str | None,
    bare: bool,
    costly: bool,
    pictures: bool,
    results: Path,
) -> int:
    """Tables from records alone: all that were planned, or the named ones (table2 or table2-digits).

    --format html --out report/ writes report/index.html, a page with charts, pictures and the records behind every
    number, that opens without a network.

    \b
    Example:
      bench report table2 --format latex --out table2.tex
    """
    from bench.ledger.plan import meant
    from bench.tables import cells, cost, report

    folder = Results(results)
    is_page = style == "html" and out is not None and (out.endswith(("/", os.sep)) or Path(out).is_dir())
    if costly and (baseline is not None or bare or pictures or is_page):
        raise UserError("--cost goes with --format and --out FILE alone; for accuracies run `bench report` without it")
    if costly:
        found = [(plan, cost.costs(plan, folder)) for plan in meant(names, folder)]
        return _put([cost.render(plan, frame, style) for plan, frame in found], out)
    plans = [plan if baseline is None else plan.against(baseline) for plan in meant(names, folder)]
    made = [(plan, cells.table(plan, folder)) for plan in plans]
    if pictures:
        _draw(made, folder)
    if is_page and out is not None:
        from bench.tables.page import build

        tell(f"wrote {build.write_page(made, folder, Path(out))}")
        return 0
    return _put([report.render(plan, frame, style, not bare) for plan, frame in made], out)


def _draw(made: Iterable[tuple[Plan, pd.DataFrame]], folder: Results) -> None:
    """The figures of the tables."""
    from bench.tables import figures

    for plan, frame in made:
        drawn = figures.draw(plan, frame, folder)
        for line in [f"wrote {picture}" for picture in drawn] or [f"{plan.name} has no figure"]:
            tell(line, err=True)


def _put(texts: Iterable[str], out: str | None) -> int:
    """To the terminal, or to a file, a line apart. Raises UserError."""
    from bench.ground.files import write_text

    text = "\n\n".join(one.rstrip("\n") for one in texts)
    if out is None:
        tell(text)
    else:
        if Path(out).exists() and not Path(out).is_file():
            raise UserError(f"--out {out} is no plain file; leave it out, and the tables are printed")
        write_text(Path(out).resolve(), text + "\n")
    return 0


@click.command()
@click.argument("names", nargs=-1, metavar="[TABLE ...]", shell_complete=completing.of(completing.planned))
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="This file, not results/reference/TABLE.csv below the current folder; or a folder of results, whose records "
    "the tables are then held to, image by image.",
)
@click.option("--paper", is_flag=True, help="Only tell how far the paper's numbers lie; exit code 0.")
@click.option("--update", is_flag=True, help="Write today's numbers as the new reference, and tell what changes.")
@click.option(
    "--format",
    "style",
    default="text",
    show_default=True,
    type=click.Choice(["text", "junit", "json", "github"]),
)
@RESULTS
def check(names: tuple[str, ...], reference: Path | None, paper: bool, update: bool, style: str, results: Path) -> int:
    """Hold tables to their reference; exit code 1 when a number moved by more than its tolerance, or than chance.

    \b
    Example:
      bench check table2
      bench check table2 --reference results-before
    """
    from bench.ledger.plan import meant
    from bench.regression import check, outcome
    from bench.regression import reference as numbers
    from bench.tables import cells

    folder, outcomes = Results(results), []
    plans = meant(names, folder)
    of_records = reference is not None and reference.is_dir()
    if of_records and (paper or update):
        raise UserError(f"{reference} is a folder; --paper and --update want a CSV file")
    if reference is not None and not of_records and len(plans) > 1:
        raise UserError(f"--reference goes with one table, not with {', '.join(plan.name for plan in plans)}")
    if paper and update:
        raise UserError("--update writes our own numbers, and --paper holds them to others; give one of them")
    for plan in plans:
        path = reference or (numbers.paper_path(plan) if paper else numbers.reference_path(plan.name))
        if of_records:
            outcomes.append(check.check_records(plan, folder, Results(path)))
        elif paper:
            outcomes.append(check.check_paper(plan, cells.table(plan, folder), path))
        elif update:
            tell("\n".join(numbers.update(plan, folder, path)))
        else:
            outcomes.append(check.check(plan, cells.table(plan, folder), path))
    if outcomes:
        tell(outcome.tell(outcomes, style))
    return 0 if all(one.ok for one in outcomes) else 1


@click.command()
@click.argument("first", metavar="A", shell_complete=completing.of(completing.runs))
@click.argument("second", metavar="B", shell_complete=completing.of(completing.runs))
@FORMAT
@RESULTS
def diff(first: str, second: str, style: str, results: Path) -> int:
    """Which images flipped between A and B, and whether it may be chance.

    A and B: two run ids (every attack that both have), two eval records (.parquet files), or two folders of results
    (every table that both have, cell by cell).

    \b
    Example:
      bench diff results-before results
    """
    from bench.regression import diff

    tell(diff.tell(*diff.diff(first, second, Results(results)), style))
    return 0
