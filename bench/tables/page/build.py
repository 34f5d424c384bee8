"""Plans and records -> the page: one HTML file with its script, styles, charts and pictures in it.

Names in records are anybody's text: the template escapes everything (Jinja's autoescape), scripts are allowed by their
hash alone, and nothing may be loaded from anywhere (Content-Security-Policy).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment
from markupsafe import Markup

from bench.ground.files import write_text
from bench.ground.stats import LEVEL
from bench.ground.terminal import visible, warn
from bench.ledger.find import OK
from bench.ledger.folder import Results
from bench.ledger.plan import Plan
from bench.ledger.runs import read_run
from bench.tables import notation, report
from bench.tables.page import charts, looks, pictures
from bench.tables.page.shelf import Shelf

NAME = "index.html"
NO_CURVES = (
    "No curves of these trainings: the release that trained them did not keep what was measured after each epoch."
)


class Cell(NamedTuple):
    """What stands in a table's cell: texts, and in percent what they are drawn and sorted by. marks: sign -> meaning.
    opens: the id of the article behind it, "" is none.
    """

    text: str
    interval: str = ""
    value: float | None = None
    low: float = 0.0
    high: float = 0.0
    best: bool = False
    marks: Mapping[str, str] = {}
    opens: str = ""


class Section(NamedTuple):
    """One table of the page. facts: figure and what it is of. rows: label and cells, in the order of columns; those
    behind the accuracies are named by `more`. no_curves, no_pictures: why there are none, or "".
    """

    id: str
    plan: Plan
    facts: list[tuple[str, str]]
    columns: list[str]
    more: list[str]
    rows: list[tuple[str, list[Cell]]]
    notes: list[str]
    charts: list[charts.Chart]
    no_curves: str
    gallery: list[pictures.Item]
    no_pictures: str


def write_page(made: Sequence[tuple[Plan, pd.DataFrame]], results: Results, folder: Path) -> Path:
    """The page of some tables (of `cells.table`) as index.html in the folder; its path. Says on standard error where it
    comes without charts. Raises UserError.
    """
    if not charts.available():
        warn(charts.LACKING)
    return write_text(folder / NAME, page(made, results))


def page(made: Sequence[tuple[Plan, pd.DataFrame]], results: Results) -> str:
    """The page as text; the same records make the same bytes. Raises UserError."""
    shelf = Shelf(results)
    sections = [_section(f"t{n}", plan, frame, shelf) for n, (plan, frame) in enumerate(made)]
    opens = {(one.run_id, one.eval_id): shelf.attack(one.run_id, one.eval_id) for s in sections for one in s.gallery}
    drawn = charts.available()
    scripts = [_asset("page.js")] if not drawn else [charts.bundle(), _asset("page.js")]
    assert not any(sign in script for script in scripts for sign in ("</script", "<!--")), "they would end too early"
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_seen)
    return environment.from_string(_asset("page.html")).render(
        sections=sections,
        articles=list(shelf.articles.values()),
        opens=opens,
        style=Markup(_asset("page.css")),
        scripts=[Markup(script) for script in scripts],
        hashes=[_hash(script) for script in scripts],
        picture=_picture,
        lacking="" if drawn else charts.LACKING,
        level=f"{100 * LEVEL:.0f} %",
    )


def _asset(name: str) -> str:
    return (files("bench.tables.page") / name).read_text()


def _seen(value: Any) -> Any:
    """What is told by a record holds no sign that shows nothing or turns the line around."""
    return visible(value) if type(value) is str else value


def _hash(script: str) -> str:
    """As a Content-Security-Policy names a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _picture(svg: str) -> str:
    """As a data URL: in an image element nothing of it can run, and its ids meet no others."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _section(name: str, plan: Plan, frame: pd.DataFrame, shelf: Shelf) -> Section:
    lines = {(line["row"], line["column"]): line for line in frame.to_dict("records")}
    trusted = {line["row"]: line["trust"] for line in lines.values()}
    more = ["Trust", "Training"]
    rows = []
    for row in plan.rows:
        told = [_cell(plan, lines[row, column], shelf) for column in plan.shown]
        rows.append((row, [*told, _trust(plan, row, trusted[row], shelf), _training(plan, row, shelf)]))
    drawn, items = charts.charts(plan, frame, shelf.results), pictures.gallery(plan, shelf.results)
    return Section(
        name,
        plan,
        _facts(plan, frame),
        plan.shown,
        more,
        rows,
        report.notes_of(plan, frame),
        drawn,
        "" if any(chart.title == charts.CURVES for chart in drawn) else NO_CURVES,
        items,
        "" if items else _why_no_pictures(plan),
    )


def _why_no_pictures(plan: Plan) -> str:
    return (
        f"No images of this table were kept. `bench run {plan.table} --keep-adversarial`, with the other options as "
        "before, attacks again what lacks them, and keeps originals and adversarial images beside the records."
    )


def _cell(plan: Plan, line: Mapping[Any, Any], shelf: Shelf) -> Cell:
    opens = shelf.number(plan, line)
    if line["state"] != OK:
        return Cell(str(line["state"]), opens=opens, marks={"": str(line["error"])})
    n, shares = int(line["n"]), [float(line[name]) for name in ("accuracy", "low", "high")]
    value, low, high = (notation.percent(share, n) for share in shares)
    spread = f", sd {notation.percent(line['seed_spread'], n)}" if line["seeds"] > 1 else ""
    percents = [round(100 * share, 3) for share in shares]
    best = line["best"] is not None and bool(line["best"])
    interval = " ".join([f"[{low}, {high}]{spread}", *notation.proven_words(line)])
    return Cell(value, interval, percents[0], percents[1], percents[2], best, _marks(plan, line), opens)


def _marks(plan: Plan, line: Mapping[Any, Any]) -> dict[str, str]:
    """Sign -> what it says."""
    marks = {}
    if line["p_baseline"] <= 1 - LEVEL:
        above = line["difference"] > 0
        marks[notation.ABOVE if above else notation.BELOW] = f"{'above' if above else 'below'} {plan.baseline}"
    if line["best"] and not pd.isna(line["p_best"]):
        marks[notation.TIED] = "cannot be told apart from the best of its column"
    if line["health"]:
        marks[notation.SICK] = "; ".join(f"{run_id}: {words}" for run_id, words in line["health"].items())
    return marks


def _trust(plan: Plan, row: str, said: str | None, shelf: Shelf) -> Cell:
    """In a word, with the checks behind it."""
    words = (said or "not diagnosed").partition(":")[0].partition(" (")[0]
    return Cell(words, opens=shelf.trust(plan, row), marks={"": said} if said else {})


def _training(plan: Plan, row: str, shelf: Shelf) -> Cell:
    """Seconds of the trainings of a row, a mean over seeds, with the network's record behind it."""
    runs = dict.fromkeys(cell.run_id for cell in plan.cells if cell.row == row)
    there = [read_run(shelf.results, run_id) for run_id in runs if shelf.results.run(run_id).exists()]
    if not there:
        return Cell("missing")
    seconds = sum(one.cost.seconds for one in there) / len(there)
    return Cell(
        f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s", "", seconds, opens=shelf.network(there[0].run_id)
    )


def _facts(plan: Plan, frame: pd.DataFrame) -> list[tuple[str, str]]:
    """What a reader looks for first."""
    frame = frame[frame["column"].isin(plan.shown)]
    known = frame[frame["state"] == OK]
    facts = []
    if (column := looks.strongest(plan, frame)) and len(of_it := known[known["column"] == column]):
        best = of_it.loc[of_it["accuracy"].idxmax()]
        n = int(best["n"])
        value, low, high = (notation.percent(best[name], n) for name in ("accuracy", "low", "high"))
        facts.append((f"{value} %", f"{best['row']}: the highest under {column} [{low}, {high}]"))
    facts.append((f"{plan.images}", f"{plan.split} images of {plan.dataset}, {plan.arch}"))
    facts.append((f"{len(known)} of {len(frame)}", f"numbers: {len(plan.rows)} networks, {len(plan.shown)} columns"))
    marked = len({line["row"] for line in known.to_dict("records") if line["health"]})
    trusted = sum(str(words).startswith("ok") for words in frame.groupby("row")["trust"].first())
    facts.append((f"{trusted} of {len(plan.rows)}", f"networks diagnosed and trusted; {marked} with a mark (!)"))
    return facts
