"""A result on one screen: `repr` of it, and what `bench attack MODEL` ends with. Plain text of at most 110 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from bench.api.result import IN_MEMORY, SHOWN, Result
from bench.ground.stats import Share
from bench.ground.terminal import visible

WIDTH, HEAD = 110, 26
COLUMN = {"Linf": "linf", "L2": "l2", "L1": "l1", "L0": "l0"}


class Line(NamedTuple):
    """One line of a verdict: what it is about, the number, and the rest in words."""

    head: str
    number: str
    words: str


def text(result: Result) -> str:
    """The whole screen."""
    lines = [title(result), "", *(_row(line) for line in numbers(result)), "", *_told("trust", result.trust)]
    lines += [line for words in against(result) for line in _told("", words)]
    if fallen := examples(result):
        lines += ["", "fell, for example", *(f"  {words}" for words in fallen)]
    if result.next:
        lines += ["", "next", *(f"  {words}" for words in result.next)]
    kept = "nothing was kept" if result.record is None else f"record: {result.record}"
    passes = f"{result.cost.forward_passes} forward and {result.cost.backward_passes} backward passes"
    return visible("\n".join([*lines, "", f"{kept}; {result.cost.seconds:.1f} s, {passes}"]))


def title(result: Result) -> str:
    """Who was attacked, on what, within which radius."""
    where = "in memory" if result.dataset == IN_MEMORY else f"of {result.dataset}"
    return f"{result.model} on {len(result.images)} images {where}, {result.threat}"


def numbers(result: Result) -> Iterator[Line]:
    """Clean accuracy, a line for each attack, the worst case."""
    clean, robust, draws = result.clean, result.robust, result.draws
    right = f"{round(clean.value * clean.n)} of {clean.n} are right"
    yield Line("clean", percent(clean.value), right if draws is None else f"mean of {draws.count} draws")
    for place, row in enumerate(result.attacks.itertuples()):
        which = "that were right" if place == 0 else "that were left"
        yield Line(
            str(row.attack), percent(row.robust), f"{row.fell} of the {row.tried} {which} fell, {row.seconds:.1f} s"
        )
    for name in result.not_run:
        yield Line(name, "", "not run: no image was left")
    if len(result.attacks):
        yield Line("worst case", percent(robust.value), f"95 % interval {_interval(robust)}{_over(result)}")
    else:
        yield Line("", "", f"95 % interval {_interval(clean)}")


def against(result: Result) -> list[str]:
    """What speaks against the number, and what the settings lack."""
    bad = [
        f"{one.verdict} {one.check}: {one.figure}; {one.meaning}" for one in result.findings if one.verdict != "pass"
    ]
    return [*bad, *(f"sign: {words}" for words in result.signs), *result.notes]


def examples(result: Result) -> list[str]:
    """The first images that fell: number, label and prediction, distance."""
    return [
        f"image {row['image']}: {row['label']} -> {row['adversarial_prediction']} under {row['fell_under']}, "
        f"{_distance(result, row)}"
        for row in result.fallen.head(SHOWN).to_dict("records")
    ]


def _over(result: Result) -> str:
    """Over what the interval is, where that is more than images."""
    if result.draws is None:
        return ""
    spread = result.draws.robust_of(result.images)[1]
    return f", for new draws too; mean of {result.draws.count}, which differ by an sd of {100 * spread:.1f} points"


def percent(share: float) -> str:
    """0.455 -> "45.5 %"."""
    return f"{100 * share:.1f} %"


def _distance(result: Result, row: dict[str, float]) -> str:
    norm = result.norm if result.norm in COLUMN else "Linf"
    return f"{norm} {row[COLUMN[norm]]:.4g}"


def _interval(share: Share) -> str:
    return f"{100 * share.low:.1f} to {percent(share.high)}"


def _row(line: Line) -> str:
    return f"{line.head:{HEAD}} {line.number:>7}  {line.words}".rstrip()


def _told(head: str, words: str) -> list[str]:
    """Words beside a head, in as many lines as they take."""
    return textwrap.wrap(
        words, WIDTH, initial_indent=f"{head:{HEAD}} ", subsequent_indent=" " * (HEAD + 1), break_on_hyphens=False
    )
