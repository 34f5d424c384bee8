"""A table for a paper: a table environment that needs the booktabs package alone.

In each column the highest number is bold and the second underlined; what cannot be told apart from the highest has a
=, as bold type says nothing of chance. Intervals stand below the numbers, so that columns stay narrow, or are left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

import pandas as pd

from bench.ground.stats import LEVEL
from bench.ledger.budgets import radius
from bench.ledger.find import OK
from bench.ledger.plan import Plan
from bench.tables.notation import counting, percent, proven_words, signs

ROOMY = 6  # columns that a page holds in small type
TRUST = r"@{\hspace{12pt}}l"  # the column
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "`": r"\textasciigrave{}",
    "\n": " ", "\r": " ", "\t": " ",
    "\u00b1": r"\ensuremath{\pm}", "\u00d7": r"\ensuremath{\times}", "\u2264": r"\ensuremath{\leq}",
    "\u2265": r"\ensuremath{\geq}", "\u221e": r"\ensuremath{\infty}", "\u2113": r"\ensuremath{\ell}",
    "\u2212": r"\ensuremath{-}", "\u2192": r"\ensuremath{\rightarrow}", "\u00b7": r"\ensuremath{\cdot}",
    "\u03c2": r"\ensuremath{\varsigma}",
}  # fmt: skip
_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)")
_LIKE_LATIN = {  # LaTeX has no commands for these
    "ALPHA": "A", "BETA": "B", "EPSILON": "E", "ZETA": "Z", "ETA": "H", "IOTA": "I", "KAPPA": "K", "MU": "M", "NU": "N",
    "OMICRON": "O", "RHO": "P", "TAU": "T", "CHI": "X",
}  # fmt: skip
_NORMS = re.compile(r"\bL(inf|2|1|0)(?= [0-9])")


def escape(text: str) -> str:
    """Text as LaTeX shows it: special signs, Greek letters and a few more; others stay, for XeLaTeX or LuaLaTeX."""
    return "".join(_SPECIAL.get(sign) or _sign(sign) for sign in text)


def table(plan: Plan, frame: pd.DataFrame, notes: list[str], trusted: list[str] | None, intervals: bool) -> str:
    """The environment as text. frame: of `cells.table`. notes: what stands below it. trusted: a word for each row, in a
    last column.
    """
    lines = {(line["row"], line["column"]): line for line in frame.to_dict("records")}
    looks = {one: _looks([lines[row, one] for row in plan.rows], one in plan.wrong) for one in plan.shown}
    body = []
    for place, row in enumerate(plan.rows):
        of_row = [lines[row, column] for column in plan.shown]
        first = [_number(line, looks[line["column"]][place]) for line in of_row]
        cells = [_label(row), *first, *([] if trusted is None else [escape(trusted[place])])]
        below = [[_interval(line) for line in of_row] if intervals else [], [_bracket(line) for line in of_row]]
        body.append(" & ".join(cells) + r" \\")
        for under in filter(any, below):
            body.append(" & " + " & ".join([*under, *([] if trusted is None else [""])]) + r" \\[2pt]")
    heads = ["", *(_label(column) for column in plan.shown), *([] if trusted is None else ["Trust"])]
    return "\n".join(
        [
            *(["% has letters that pdfLaTeX may not know: compile with XeLaTeX or LuaLaTeX"] if _odd(plan) else []),
            r"\begin{table}[ht]  % needs \usepackage{booktabs}",
            r"\centering",
            rf"\caption{{{_caption(plan, frame, intervals)}}}",
            rf"\label{{tab:{plan.name}}}",
            r"\medskip",
            rf"{_size(len(heads) - 1)}",
            rf"\begin{{tabular}}{{l{'r' * len(plan.shown)}{'' if trusted is None else TRUST}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\medskip",
            r"\parbox{\linewidth}{\footnotesize\raggedright",
            *(f"{_prose(note)}\\par" for note in notes),
            r"}",
            r"\end{table}",
        ]
    )


def _sign(sign: str) -> str:
    if sign.isascii():
        return sign
    found = _GREEK.fullmatch(unicodedata.name(sign, ""))
    if found is None:
        return sign
    case, name = found.groups()
    name = name.replace("LAMDA", "LAMBDA")
    if case == "CAPITAL" and name in _LIKE_LATIN:
        return _LIKE_LATIN[name]
    if name == "OMICRON":
        return "o"
    return rf"\ensuremath{{\{name.lower() if case == 'SMALL' else name.capitalize()}}}"


def _label(text: str) -> str:
    """A cell that begins with [ would be taken for an argument of the line's end before it."""
    shown = _prose(text)
    return f"{{}}{shown}" if shown.startswith(("[", "*")) else shown


def _prose(text: str) -> str:
    """Norms before a radius as they are written in papers."""
    parts = _NORMS.split(text)
    shown = [escape(part) if place % 2 == 0 else _norm(part) for place, part in enumerate(parts)]
    return "".join(shown)


def _norm(name: str) -> str:
    return r"\ensuremath{\ell_\infty}" if name == "inf" else rf"\ensuremath{{\ell_{name}}}"


def _odd(plan: Plan) -> bool:
    """Whether a letter is left that is neither ASCII nor Latin."""
    shown = escape("".join([plan.title, *plan.rows, *plan.shown, plan.note, plan.source]))
    return any(not sign.isascii() and not unicodedata.name(sign, "").startswith("LATIN") for sign in shown)


def _size(columns: int) -> str:
    """Smaller the more columns there are."""
    return r"\small" if columns <= ROOMY else r"\footnotesize\setlength{\tabcolsep}{4pt}"


def _caption(plan: Plan, frame: pd.DataFrame, intervals: bool) -> str:
    """What a number is: of what, under what, on how many images, and how it is set."""
    norms = [(norm[1:], eps) for norm, eps in sorted(plan.threats) if norm != "own"]
    shown = ", ".join(rf"\ensuremath{{\epsilon}} = {radius(eps)} in {_norm(norm)}" for norm, eps in norms)
    many = len(plan.seeds) > 1
    about = [
        f"{plan.title}. {'Mean accuracy' if many else 'Accuracy'} in percent on n = {plan.images} {plan.split} images "
        f"of {plan.dataset}, {plan.arch}",
        f"; {counting(plan)}.",
    ]
    if intervals:
        kind = "interval over seeds and images" if many else "Wilson interval"
        about.append(f" In brackets the {100 * LEVEL:.0f} % {kind}.")
    if many:
        about.append(f" \u00b1: standard deviation over {len(plan.seeds)} seeds.")
    if any(_ranked([line for line in frame.to_dict("records") if line["column"] == one]) for one in plan.shown):
        errors = ", of an error the lowest" if plan.wrong else ""
        about.append(f" The highest of a column is bold{errors}, the second underlined.")
    before, *after = map(_prose, about)
    return "".join([before, f", {shown}" if shown else "", *after])


def _ranked(lines: list[dict[Any, Any]]) -> list[float]:
    """The numbers of a column as printed, each once, from the highest on; none where there is nothing to compare."""
    shown = [float(percent(line["accuracy"], int(line["n"]))) for line in lines if line["state"] == OK]
    return sorted(set(shown), reverse=True) if len(shown) > 1 else []


def _looks(lines: list[dict[Any, Any]], lowest: bool) -> list[str]:
    """How each number of a column is set: bold, underlined or plain, as a template. lowest: whether that is best."""
    ranks = _ranked(lines)[:: -1 if lowest else 1]
    looks = dict(zip(ranks[:2], (r"\textbf{{{}}}", r"\underline{{{}}}"), strict=False))
    return [
        looks.get(float(percent(line["accuracy"], int(line["n"]))), "{}") if line["state"] == OK else "{}"
        for line in lines
    ]


def _number(line: Mapping[Any, Any], look: str) -> str:
    """ "\\textbf{83.1}" and its signs, or the state in a word. A single sign has no width, so that digits align."""
    if line["state"] != OK:
        return escape(str(line["state"]))
    n = int(line["n"])
    shown = look.format(percent(line["accuracy"], n))
    if line["seeds"] > 1:
        shown += rf"\,{{\scriptsize\ensuremath{{\pm}}\,{percent(line['seed_spread'], n)}}}"
    behind = rf"\textsuperscript{{{','.join(signs(line))}}}" if signs(line) else ""
    return shown + (rf"\rlap{{{behind}}}" if len(signs(line)) == 1 and not line["health"] else behind)


def _interval(line: Mapping[Any, Any]) -> str:
    """In braces: a bracket behind a line's end would be its argument."""
    if line["state"] != OK:
        return ""
    low, high = (percent(line[name], int(line["n"])) for name in ("low", "high"))
    return rf"{{\scriptsize [{low}, {high}]}}"


def _bracket(line: Mapping[Any, Any]) -> str:
    """What is proven below the number, and what is open."""
    if line["state"] != OK or not (words := proven_words(line)):
        return ""
    return rf"{{\scriptsize {words[0]}}}"
