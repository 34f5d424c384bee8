"""The charts of a page: Vega-Lite by Altair, each with a picture (SVG) for print and the numbers in it as a table.

Altair and vl-convert are an extra: without them there are the numbers alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import pandas as pd

from bench.ground.terminal import visible
from bench.ledger.folder import Results
from bench.ledger.plan import Plan
from bench.tables import figures
from bench.tables.page import looks

WIDE = 640  # pixels of a printed chart
MOST_LINES = 400  # of the table below a chart
CURVES = "Training curves"
LACKING = (
    "Charts need Altair and vl-convert, which are not installed: pip install 'robustness-bench[page]', and make the "
    "page again. The numbers of every chart are in it."
)


class Chart(NamedTuple):
    """spec: Vega-Lite as a dict; svg: the same drawn, for print. Both None without the extra. numbers: what it shows;
    left_out: how many of its lines the table below it does not hold.
    """

    title: str
    about: str
    numbers: pd.DataFrame
    spec: dict[str, Any] | None = None
    svg: str | None = None
    left_out: int = 0


class Kind(NamedTuple):
    """A chart before it is drawn. drawing: its name in `marks.DRAWINGS`, and the titles that it takes. printed: another
    one for paper, where a screen asks for a choice.
    """

    title: str
    about: str
    numbers: pd.DataFrame
    drawing: tuple[str, ...]
    printed: tuple[str, ...] | None = None


def available() -> bool:
    """Whether the extra is installed."""
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError:
        return False
    return True


@cache  # it takes two seconds
def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, without a network. Only where `available`."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", _version()))


def charts(plan: Plan, frame: pd.DataFrame, results: Results) -> list[Chart]:
    """Every chart that the records of a plan give. frame: of `cells.table`. Raises UserError."""
    drawn = available()
    kinds = [kind for kind in _kinds(plan, frame, results) if len(kind.numbers)]
    return [_drawn(kind) if drawn else _told(kind) for kind in kinds]


def _kinds(plan: Plan, frame: pd.DataFrame, results: Results) -> Iterator[Kind]:
    column, clean = looks.strongest(plan, frame), looks.clean_column(plan)
    n = f"n = {plan.images} {plan.split} images of {plan.dataset}; bars are 95 % intervals."
    if any(cell.at is not None for cell in plan.cells):
        about = f"One run of a minimal-norm attack, whose distances decide at every radius, in image units; {n}"
        numbers = looks.of_figure(plan, frame, results, "radius")
        yield Kind("Accuracy against radius", about, numbers, ("lines", "Radius (image units)"))
    if plan.figure is not None and plan.figure.kind == "sweep":
        over, about = plan.figure.over, f"Every line is one network of the cohort in one column; {n}"
        numbers = looks.of_figure(plan, frame, results, "sweep")
        yield Kind(f"Accuracy against {over}", about, numbers, ("lines", over))
    if column is not None and clean is not None:
        about, titles = f"Each point is a network: right and up is better; {n}", [f"{clean} accuracy (%)"]
        numbers = looks.against_clean(plan, frame, column)
        drawing = ("scatter", *titles, f"{column} accuracy (%)")
        yield Kind(f"Clean against robust accuracy ({column})", about, numbers, drawing)
    if column is not None:
        about = f"Passes, forward and backward, in images, of all networks and teachers of a training; {n}"
        numbers = looks.of_figure(plan, frame, results, "cost", column)
        drawing = ("cost", f"{column} accuracy (%)")
        yield Kind(f"Accuracy ({column}) against the cost of training", about, numbers, drawing)
    if plan.figure is not None and plan.figure.kind == "overlap":
        about = "Images by which of two networks is right on them, on the same adversarial images."
        yield Kind("Two networks on the same images", about, figures.points(plan, frame, results), ("pairs",))
    yield from _of_images(plan, results)
    about = "Validation accuracy after every epoch; circles are the checkpoints best and last."
    yield Kind(CURVES, about, looks.curves(plan, results), ("curves",), ("small curves",))


def _of_images(plan: Plan, results: Results) -> Iterator[Kind]:
    """What is told image by image."""
    seen = looks.seen(plan, results)
    summed = " Summed over seeds." if len(plan.seeds) > 1 else ""
    about = f"Of the images that are right without an attack; in brackets those that no other attack breaks.{summed}"
    yield Kind("Which attack broke what", about, seen.broken, ("broken",))
    if len(set(seen.broken["attack"])) > 1:
        about = "Of the images that the attack of a line breaks, the share (%) that the attack of a column breaks too."
        yield Kind("Overlaps of attacks", about + summed, seen.overlaps, ("overlaps",))
    full = len(seen.confusions) == 0 or seen.confusions["label"].nunique() <= looks.MOST_CLASSES
    about = "Predictions under the attack, by label; the diagonal is right. All images count."
    about = about if full else "The most frequent mistakes under the attack."
    drawing = ("confusion" if full else "mistakes",)
    yield Kind("Confusion under attack", about + summed, seen.confusions, drawing)


def _told(kind: Kind) -> Chart:
    """The numbers alone."""
    shown = kind.numbers.head(MOST_LINES)
    return Chart(kind.title, kind.about, shown, left_out=len(kind.numbers) - len(shown))


def _drawn(kind: Kind) -> Chart:
    import altair as alt
    import vl_convert

    from bench.tables.page.marks import draw

    numbers = kind.numbers.map(lambda value: visible(value) if isinstance(value, str) else value)
    with alt.data_transformers.enable("default", max_rows=None):
        live = draw(numbers, *kind.drawing)
        printed = live if kind.printed is None else draw(numbers, *kind.printed)
    svg = vl_convert.vegalite_to_svg(_with_width(printed, WIDE), vl_version=_version())
    return _told(kind._replace(numbers=numbers))._replace(spec=_with_width(live, "container"), svg=svg)


def _version() -> str:
    """Of Vega-Lite, as vl-convert names it: that of Altair."""
    import altair as alt

    return str(alt.SCHEMA_VERSION).rpartition(".")[0]


def _with_width(spec: dict[str, Any], width: int | str) -> dict[str, Any]:
    """Many small charts keep their own."""
    return spec if "facet" in spec else spec | {"width": width}
