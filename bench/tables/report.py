"""Tables as Markdown, CSV, LaTeX, HTML and terminal text. Shares become percent here.

A cell reads "83.1 [79.4, 86.3]", with signs behind it where it is above or below the baseline or cannot be told apart
from the best of its column; under the table stand n, what the interval is, what was tested, every attack's budget,
which networks' training went wrong, and what is missing or failed and why. Needs the records only, never torch.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd

from bench.ground.config import UserError, choose
from bench.ground.files import write_text
from bench.ground.spreadsheet import read_csv, to_csv
from bench.ground.stats import LEVEL
from bench.ground.terminal import visible
from bench.ledger.budgets import budget
from bench.ledger.find import OK
from bench.ledger.folder import Results
from bench.ledger.named import unlike_suite
from bench.ledger.plan import Plan
from bench.tables import latex
from bench.tables.certified import Bracket
from bench.tables.compare import COLUMNS as COMPARED
from bench.tables.notation import (
    ABOVE,
    BELOW,
    SICK,
    TIED,
    audit_words,
    corrupted,
    counting,
    percent,
    proven_words,
    signs,
)

COMPARED_POINTS = ["difference_points", "difference_low_points", "difference_high_points"]


def render(plan: Plan, frame: pd.DataFrame, style: str, intervals: bool = True) -> str:
    """The table of `tables.table` in one of FORMATS. intervals: whether LaTeX shows them; the others always do. Raises
    UserError for another format, and for one that cannot be without intervals.
    """
    if not intervals and style != "latex":
        raise UserError(f"--no-intervals goes with --format latex, where a caption says what a number is, not {style}")
    made = FORMATS[choose(style, FORMATS, "format")]
    text = made(plan, frame) if intervals else _latex(plan, frame, intervals)
    return text if style == "csv" else visible(text)  # a CSV is read again


def write_table(plan: Plan, frame: pd.DataFrame, results: Results) -> Path:
    """The table as CSV among the results; returns its path. Raises UserError."""
    return write_text(results.table(plan.name), _csv(plan, frame))


def against_paper(plan: Plan, frame: pd.DataFrame, reference: Path) -> pd.DataFrame:
    """Published value and ours, in percent, for every cell that the reference table has.

    reference: CSV with dataset, arch, method, column, accuracy_percent (and table). Columns: row, column,
    paper_percent, ours_percent, low_percent, high_percent, distance_points (ours - paper), inside (the
    paper's value is in our interval). Empty where data set or architecture differ. Raises UserError when
    the file is missing or of another form.
    """
    published = _published(reference)
    fits = (published["dataset"] == plan.dataset) & (published["arch"] == plan.arch)
    number = plan.reference.partition(":")[2]
    if number and "table" in published:
        fits &= published["table"] == number
    paper = published[fits].set_index(["method", "column"])["accuracy_percent"]
    if not paper.index.is_unique:
        twice = " / ".join(paper.index[paper.index.duplicated()][0])
        raise UserError(f"{reference}: {twice} is there twice for {plan.dataset} with {plan.arch}")
    lines = []
    for line in frame[frame["state"] == OK].to_dict("records"):
        key = (line["row"], plan.published.get(line["column"]))
        if key in paper.index:
            lines.append({"row": line["row"], "column": line["column"]} | _distance(float(paper[key]), line))
    columns = ["paper_percent", "ours_percent", "low_percent", "high_percent", "distance_points", "inside"]
    return pd.DataFrame(lines, columns=["row", "column", *columns])


def _published(path: Path) -> pd.DataFrame:
    """Raises UserError."""
    try:
        frame = read_csv(path)
        frame["accuracy_percent"] = pd.to_numeric(frame["accuracy_percent"])
        wanted = frame[["dataset", "arch", "method", "column", "accuracy_percent"]]
    except OSError as error:
        raise UserError(f"{path}: the published values cannot be read ({error.strerror})") from error
    except (ValueError, KeyError) as error:
        columns = "dataset, arch, method, column and accuracy_percent"
        raise UserError(f"{path}: is no table of published values, a CSV with {columns} ({error})") from error
    if not wanted["accuracy_percent"].between(0, 100).all():
        raise UserError(f"{path}: an accuracy_percent is no number in 0..100")
    return frame


def _distance(paper: float, line: dict[Any, Any]) -> dict[str, object]:
    ours, low, high = (round(100 * line[name], 2) for name in ("accuracy", "low", "high"))
    return {
        "paper_percent": paper,
        "ours_percent": ours,
        "low_percent": low,
        "high_percent": high,
        "distance_points": round(ours - paper, 2),
        "inside": low <= paper <= high,
    }


def _wide(plan: Plan, frame: pd.DataFrame, escape: Callable[[str], str] = str, bold: str = "{}") -> pd.DataFrame:
    """Rows and columns as in the plan, cells as text. bold: how the format writes bold text."""
    cells = {}
    for line in frame.to_dict("records"):
        look = bold if line["best"] else "{}"
        cells[line["row"], line["column"]] = look.replace("{}", escape(_cell(line)))
    content = [[cells[row, column] for column in plan.shown] for row in plan.rows]
    index = pd.Index([escape(row) for row in plan.rows], name=escape("Network"))
    wide = pd.DataFrame(content, index=index, columns=[escape(column) for column in plan.shown])
    if words := _trust_words(plan, frame):
        wide.insert(len(wide.columns), "Trust", words, allow_duplicates=True)
    return wide


def _trusted(frame: pd.DataFrame) -> dict[str, str | None]:
    """Row -> what `bench diagnose` said of it."""
    return {line["row"]: line["trust"] for line in frame.to_dict("records")}


def _trust_words(plan: Plan, frame: pd.DataFrame) -> list[str] | None:
    """Trust in a word for each row; None where nobody was diagnosed."""
    trusted = _trusted(frame)
    words = [(trusted[row] or "not diagnosed").partition(":")[0].partition(" (")[0] for row in plan.rows]
    return words if any(trusted.values()) else None


def _cell(line: dict[Any, Any]) -> str:
    """ "83.1 [79.4, 86.3]", with "sd 0.5" over several seeds and the signs where it is so, or the state in a word."""
    if line["state"] != OK:
        return str(line["state"])
    n = int(line["n"])
    value, low, high = (percent(line[name], n) for name in ("accuracy", "low", "high"))
    spread = f" sd {percent(line['seed_spread'], n)}" if line["seeds"] > 1 else ""
    return " ".join([f"{value} [{low}, {high}]{spread}", *proven_words(line), *audit_words(line), *signs(line)])


def notes_of(plan: Plan, frame: pd.DataFrame) -> list[str]:
    """What stands under the table, one sentence or two a line."""
    seeds = ", ".join(str(seed) for seed in plan.seeds)
    many = len(plan.seeds) > 1
    interval = "95 % interval over seeds and images], sd over seeds" if many else "95 % Wilson interval]"
    notes = [
        f"{'Mean accuracy' if many else 'Accuracy'} in percent [{interval}, on n = {plan.images} {plan.split} images "
        f"of {plan.dataset}; {counting(plan)}.",
        f"Architecture {plan.arch}; seed{'s' if many else ''} {seeds}; recipes {', '.join(_recipes(plan))}.",
        "Attacks: " + "; ".join(f"{column}: {plan.budgets[column]}" for column in plan.shown) + ".",
        f"Source: {plan.source}.",
        *corrupted(plan),
        *_tested(plan, frame),
    ]
    if plan.note:
        notes.append(f"Note: {plan.note}")
    notes += _unlike_suite(plan)
    notes += [note for column in plan.unions if (note := _broken_by(column, frame))]
    notes += [note for column in plan.columns if (note := _audits(plan, column, frame))]
    notes += _brackets(plan, frame)
    sick = {run_id: words for health in frame["health"] for run_id, words in health.items()}
    notes += [f"{SICK} {run_id}: {words}." for run_id, words in sick.items()]
    if said := [f"{row}: {words}" for row, words in _trusted(frame).items() if words]:
        notes.append(f"Trust, by `bench diagnose` (checks for gradient masking): {'; '.join(said)}.")
    failed = frame[frame["state"] != OK]
    return notes + [f"{line['state'].capitalize()}: {line['error']}." for line in failed.to_dict("records")]


def _unlike_suite(plan: Plan) -> list[str]:
    """Where an attack is not what the suite has under its name, or is not what the plan says of it in words."""
    notes = []
    for column in plan.columns:
        cell = next((cell for cell in plan.cells if cell.column == column), None)
        if cell is None:
            continue
        attack = plan.attacks[cell.attack]
        if unlike := unlike_suite(cell.attack, attack):
            notes.append(f"Not as named: {column} is not the suite's {cell.attack}: {', '.join(unlike)}.")
        if (words := budget(attack, cell.at)) not in plan.budgets[column]:
            notes.append(f"Not as said: the settings of {column} are {words}.")
    return notes


def _tested(plan: Plan, frame: pd.DataFrame) -> list[str]:
    """What the signs of comparisons mean, where any were made."""
    test = "t over seeds and images on paired differences" if len(plan.seeds) > 1 else "exact McNemar"
    if len(plan.seeds) == 1 and plan.means:
        test += " (for means of columns the paired permutation test)"
    about = "" if len(plan.seeds) > 1 else "; with one seed it is about these networks, not about their methods"
    notes = []
    if against := int(frame["p_baseline"].notna().sum()):
        notes.append(
            f"With {ABOVE} above, with {BELOW} below {plan.baseline} on the same images: {test}, "
            f"adjusted p at most {1 - LEVEL:.2g} (Holm over {against} comparisons){about}."
        )
    ranked = frame[frame["best"].notna()]
    if len(ranked):
        pairs = int(sum(n * (n - 1) // 2 for n in ranked.groupby("column").size()))
        notes.append(
            f"With {TIED} it cannot be told apart from the best of its column (both in bold, where there is bold): "
            f"{test}, adjusted p above {1 - LEVEL:.2g} (Holm over all {pairs} pairs of rows){about}."
        )
    return notes


def _broken_by(column: str, frame: pd.DataFrame) -> str:
    """Which attack of a union broke how many images, row by row; nothing where there is no number."""
    lines = frame[(frame["column"] == column) & (frame["state"] == OK)].to_dict("records")
    rows = []
    for line in lines:
        parts = [f"{part} {first} ({only} only)" for part, first, only in line["broken_by"] if first]
        rows.append(f"{line['row']}: {', '.join(parts) or 'none'}")
    head = f"{column}: images{' (summed over seeds)' if lines and lines[0]['seeds'] > 1 else ''} by the first column"
    return f"{head} that broke them, and by it only: {'; '.join(rows)}." if rows else ""


def _audits(plan: Plan, column: str, frame: pd.DataFrame) -> str:
    """What the audits of a column found, row by row; nothing where it has none."""
    rows = [line for line in frame[frame["column"] == column].to_dict("records") if line["audit"]]
    told = []
    for line in rows:
        seeds = [f"seed {seed}: " if len(plan.seeds) > 1 else "" for seed in plan.seeds]
        told += [f"{line['row']}: {seed}{words}" for seed, words in zip(seeds, line["audit"].told, strict=True)]
    return f"Audit of {column}: {'; '.join(told)}." if told else ""


def _brackets(plan: Plan, frame: pd.DataFrame) -> list[str]:
    """What certificates say beside the attacks, row by row; nothing where there are none."""
    told = []
    for line in (one for one in frame.to_dict("records") if one["proven"] is not None):
        seeds = [f"seed {seed}: " if len(plan.seeds) > 1 else "" for seed in plan.seeds]
        each = "; ".join(f"{seed}{words}" for seed, words in zip(seeds, line["proven"].told, strict=True))
        told.append(f"{line['row']} / {line['column']}: {each}.")
    if not told:
        return []
    head = (
        "Proven, by `bench certify` on the same weights, images, norm and radius: no image within it has another "
        "class. Robust accuracy lies between the share proven and the accuracy under attack; what is neither proven "
        "nor broken is open. Bounds that prove no image say nothing."
    )
    return [head, *told]


def _recipes(plan: Plan) -> list[str]:
    """ "ard-digits (20 epochs, teacher at-digits)"."""
    words = []
    for name, recipe in plan.recipes.items():
        epochs = recipe["settings"].get("schedule", {}).get("epochs")
        more = [f"{epochs} epochs"] if epochs else []
        more += [f"teacher {recipe['teacher']['name']}"] if "teacher" in recipe else []
        words.append(f"{name} ({', '.join(more)})" if more else name)
    return words


def _markdown(plan: Plan, frame: pd.DataFrame) -> str:
    def escape(text: str) -> str:
        return re.sub(r"([\\|*<`])", r"\\\1", text)

    wide = _wide(plan, frame, escape, "**{}**")
    body = wide.to_markdown(disable_numparse=True, colalign=["left"] + ["right"] * len(wide.columns))
    notes = "\n".join(f"- {escape(note)}" for note in notes_of(plan, frame))
    return f"### {escape(plan.title)}\n\n{body}\n\n{notes}"


def _text(plan: Plan, frame: pd.DataFrame) -> str:
    wide = _wide(plan, frame)
    align = ["left"] + ["right"] * len(wide.columns)
    body = wide.to_markdown(tablefmt="simple", disable_numparse=True, colalign=align)
    return "\n".join([plan.title, "", body, "", *notes_of(plan, frame)])


def _csv(plan: Plan, frame: pd.DataFrame) -> str:
    shares = ("accuracy", "low", "high", "seed_spread")
    tidy = frame.assign(**{f"{name}_percent": 100 * frame[name] for name in shares})
    tidy = tidy.rename(columns=dict(zip(COMPARED[:3], COMPARED_POINTS, strict=True)))
    tidy[COMPARED_POINTS] *= 100
    tidy[["p_baseline", "p_best"]] = tidy[["p_baseline", "p_best"]].map("{:.3g}".format).replace("nan", "")
    tidy["health"] = ["; ".join(f"{run_id}: {words}" for run_id, words in sick.items()) for sick in frame["health"]]
    audits = {} if frame["audit"].isna().all() else {"audit_points": "below", "audit_saved_percent": "saved"}
    for name, of in audits.items():
        tidy[name] = [nan if one is None else 100 * getattr(one, of) for one in frame["audit"]]
    brackets = {} if frame["proven"].isna().all() else {"proven_percent": "proven", "open_percent": "open"}
    for name, of in brackets.items():
        tidy[name] = [_bracketed(one, of) for one in frame["proven"]]
    made = (*(f"{name}_percent" for name in shares), *audits, *brackets)
    columns = ["table", "row", "column", "n", "seeds", *made]
    columns += ["state", "error", "run_ids", "health", "trust", *COMPARED_POINTS, "p_baseline", "p_best", "best"]
    # four decimals: far below one image, and no digits that only floating point knows
    return to_csv(tidy[columns], float_format="%.4f")


def _bracketed(found: Bracket | None, of: str) -> str:
    """A share in percent, as the other numbers of a CSV; where nothing is proven there is none, in words."""
    if found is None or not found.proven:
        return "bounds say nothing" if found and of == "proven" else ""
    return f"{100 * getattr(found, of):.4f}"


def _latex(plan: Plan, frame: pd.DataFrame, intervals: bool = True) -> str:
    """See `bench.tables.latex`, whose caption says what the first note does, and where the highest alone is bold."""
    notes = [note.replace(" (both in bold, where there is bold)", "") for note in notes_of(plan, frame)[1:]]
    return latex.table(plan, frame, notes, _trust_words(plan, frame), intervals)


def _html(plan: Plan, frame: pd.DataFrame) -> str:
    """A figure element, to stand in a page of one's own."""
    wide = _wide(plan, frame, html.escape, "<b>{}</b>").rename_axis(None)
    body = wide.to_html(escape=False, border=0)  # done, cell by cell
    notes = "\n".join(f"<li>{html.escape(note)}</li>" for note in notes_of(plan, frame))
    caption = f"<figcaption>{html.escape(plan.title)}</figcaption>"
    return f"<figure>\n{caption}\n{body}\n<ul>\n{notes}\n</ul>\n</figure>"


FORMATS: dict[str, Callable[[Plan, pd.DataFrame], str]] = {
    "markdown": _markdown,
    "csv": _csv,
    "latex": _latex,
    "html": _html,
    "text": _text,
}
