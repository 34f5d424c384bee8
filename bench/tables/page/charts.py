"""The charts of a page: Vega-Lite by Altair, each with a picture (SVG) for print and the numbers in it as a table.

Colours are Okabe & Ito's, which colour-blind people can tell apart, without the two that are pale on white; what differs
in colour differs in shape or dashes too. Altair and vl-convert are an extra: without them there are the numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import pandas as pd

from bench.ground.terminal import visible
from bench.ledger.folder import Results
from bench.ledger.plan import Plan
from bench.tables import figures
from bench.tables.page import looks

Spec: TypeAlias = Any  # an Altair chart; Altair is not loaded here
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [10, 4], [1, 3])
WIDE, HIGH = 640, 340  # pixels of a printed chart
SMALL = 190
LETTER = 6.0  # pixels, about the mean width of one in a label
MOST_LINES = 400  # of the table below a chart
LACKING = (
    "Charts need Altair and vl-convert, which are not installed: pip install 'robustness-bench[page]', and make the page "
    "again. The numbers of every chart are below."
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
    """A chart before it is drawn. live: drawn for the screen; printed: for paper, where it differs."""

    title: str
    about: str
    numbers: pd.DataFrame
    live: Callable[[pd.DataFrame], Spec]
    printed: Callable[[pd.DataFrame], Spec] | None = None


def available() -> bool:
    """Whether the extra is installed."""
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError:
        return False
    return True


def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, without a network. Only where `available`."""
    import vl_convert

    return str(vl_convert.javascript_bundle(vl_version=_version()))


def charts(plan: Plan, frame: pd.DataFrame, results: Results) -> list[Chart]:
    """Every chart that the records of a plan give. frame: of `cells.table`. Raises UserError."""
    drawn = available()
    return [_drawn(kind) if drawn else _told(kind) for kind in _kinds(plan, frame, results) if len(kind.numbers)]


def _kinds(plan: Plan, frame: pd.DataFrame, results: Results) -> Iterator[Kind]:
    column, clean = looks.strongest(plan, frame), looks.clean_column(plan)
    n = f"n = {plan.images} {plan.split} images of {plan.dataset}; bars are 95 % intervals."
    if any(cell.at is not None for cell in plan.cells):
        about = f"One run of a minimal-norm attack, whose distances decide at every radius, in image units; {n}"
        numbers = looks.of_figure(plan, frame, results, "radius")
        yield Kind("Accuracy against radius", about, numbers, lambda d: _lines(d, "Radius (image units)"))
    if plan.figure is not None and plan.figure.kind == "sweep":
        over, about = plan.figure.over, f"Every line is one network of the cohort in one column; {n}"
        numbers = looks.of_figure(plan, frame, results, "sweep")
        yield Kind(f"Accuracy against {over}", about, numbers, lambda d: _lines(d, over))
    if column is not None and clean is not None:
        about = f"Each point is a network: right and up is better; {n}"
        yield Kind(
            f"Clean against robust accuracy ({column})",
            about,
            looks.against_clean(plan, frame, column),
            lambda d: _scatter(d, f"{clean} accuracy (%)", f"{column} accuracy (%)"),
        )
    if column is not None:
        about = f"Passes, forward and backward, in images, of all networks and teachers of a training; {n}"
        numbers = looks.of_figure(plan, frame, results, "cost", column)
        yield Kind(f"Accuracy ({column}) against the cost of training", about, numbers, lambda d: _cost(d, column))
    if plan.figure is not None and plan.figure.kind == "overlap":
        about = "Images by which of two networks is right on them, on the same adversarial images."
        yield Kind("Two networks on the same images", about, figures.points(plan, frame, results), _pairs)
    yield from _of_images(plan, results)
    about = "Validation accuracy after every epoch; circles are the checkpoints best and last."
    yield Kind("Training curves", about, looks.curves(plan, results), _curves, _curves_printed)


def _of_images(plan: Plan, results: Results) -> Iterator[Kind]:
    """What is told image by image."""
    seen = looks.seen(plan, results)
    summed = " Summed over seeds." if len(plan.seeds) > 1 else ""
    about = f"Of the images that are right without an attack; in brackets those that no other attack breaks.{summed}"
    yield Kind("Which attack broke what", about, seen.broken, _broken)
    several = seen.overlaps[seen.overlaps["first"] != seen.overlaps["second"]]
    about = f"Of the images that the attack of a line breaks, the share that the attack of a column breaks too.{summed}"
    if len(several):
        yield Kind("Overlaps of attacks", about, seen.overlaps, _overlaps)
    about = f"Predictions under the attack, by label; the diagonal is right. All images count.{summed}"
    if len(seen.confusions) and len(set(seen.confusions["label"])) <= looks.MOST_CLASSES:
        yield Kind("Confusion under attack", about, seen.confusions, _confusion)
    elif len(seen.confusions):
        about = f"The most frequent mistakes under the attack.{summed}"
        yield Kind("Confusion under attack", about, seen.confusions, _mistakes)


def _told(kind: Kind) -> Chart:
    """The numbers alone."""
    shown = kind.numbers.head(MOST_LINES)
    return Chart(kind.title, kind.about, shown, left_out=len(kind.numbers) - len(shown))


def _drawn(kind: Kind) -> Chart:
    import altair as alt
    import vl_convert

    numbers = kind.numbers.map(lambda value: visible(value) if isinstance(value, str) else value)
    with alt.data_transformers.enable("default", max_rows=None):
        live = _dressed(kind.live(numbers)).to_dict()
        printed = live if kind.printed is None else _dressed(kind.printed(numbers)).to_dict()
    svg = vl_convert.vegalite_to_svg(_with_width(printed, WIDE), vl_version=_version())
    return _told(kind._replace(numbers=numbers))._replace(spec=_with_width(live, "container"), svg=svg)


def _version() -> str:
    """Of Vega-Lite, as vl-convert names it: that of Altair."""
    import altair as alt

    return alt.SCHEMA_VERSION.rpartition(".")[0]


def _with_width(spec: dict[str, Any], width: int | str) -> dict[str, Any]:
    """Facets and charts that have a width of their own keep it."""
    return spec if "facet" in spec or "width" in spec else spec | {"width": width}


def _dressed(chart: Spec) -> Spec:
    """Fonts and lines of a page; without a background of its own."""
    return (
        chart.configure(background="transparent", font="system-ui, sans-serif", padding=4)
        .configure_view(stroke=None)
        .configure_axis(gridOpacity=0.35, labelFontSize=11, titleFontSize=12, labelLimit=220, domain=False)
        .configure_legend(labelFontSize=11, titleFontSize=12, symbolSize=80, labelLimit=260, symbolStrokeWidth=2)
    )


def _percent(field: str, title: str, **scale: Any) -> Spec:
    import altair as alt

    return alt.Y(f"{field}:Q", title=title, scale=alt.Scale(**scale))


def _lines(data: pd.DataFrame, x_title: str) -> Spec:
    """Accuracy against x, a line for each of `line`, with intervals."""
    import altair as alt

    names = list(dict.fromkeys(data["line"]))
    fit = {"domain": names, "range": [COLOURS[n % len(COLOURS)] for n in range(len(names))]}
    dashes = [DASHES[(n + n // len(COLOURS)) % len(DASHES)] for n in range(len(names))]
    chosen = alt.selection_point(name="chosen", fields=["line"], bind="legend")
    seen = alt.when(chosen).then(alt.value(1)).otherwise(alt.value(0.12))
    below = {"orient": "bottom", "columns": 4, "title": None}
    base = alt.Chart(data).encode(
        x=alt.X("x:Q", title=x_title, scale=alt.Scale(zero=False)),
        color=alt.Color("line:N", scale=alt.Scale(**fit), legend=alt.Legend(**below)),
        opacity=seen,
    )
    y = _percent("accuracy_percent", "Accuracy (%)", zero=False)
    drawn = base.mark_line().encode(
        y=y, strokeDash=alt.StrokeDash("line:N", scale=alt.Scale(domain=names, range=dashes), legend=alt.Legend(**below))
    )
    bars = base.mark_rule(strokeWidth=1).encode(y=_percent("low_percent", "Accuracy (%)", zero=False), y2="high_percent")
    points = base.mark_point(filled=True, size=45, opacity=1).encode(y=y, tooltip=_tips(data))
    return alt.layer(bars, drawn, points.add_params(chosen)).properties(height=HIGH)


def _tips(data: pd.DataFrame) -> list[Spec]:
    """Everything that is known of a point."""
    import altair as alt

    kinds = {True: ("Q", ".5~g"), False: ("N", "")}
    told = []
    for name in data.columns:
        kind, form = kinds[pd.api.types.is_numeric_dtype(data[name])]
        tip = {"format": form} if form else {}
        told.append(alt.Tooltip(f"{name}:{kind}", title=_words(name), **tip))
    return told


def _words(name: str) -> str:
    """ "low_percent" -> "low percent"."""
    return name.replace("_", " ")


def _scatter(data: pd.DataFrame, x_title: str, y_title: str) -> Spec:
    """Points with both intervals and their names."""
    import altair as alt

    data = _labelled(data, ("clean", "clean_low", "clean_high"), ("robust", "robust_low", "robust_high"))
    x = alt.X("clean:Q", title=x_title, scale=alt.Scale(zero=False, nice=False, padding=12))
    y = _percent("robust", y_title, zero=False, nice=False, padding=12)
    base = alt.Chart(data)
    across = base.mark_rule(color=COLOURS[0], opacity=0.45).encode(x=alt.X("clean_low:Q"), x2="clean_high", y=y)
    up = base.mark_rule(color=COLOURS[0], opacity=0.45).encode(x=x, y=alt.Y("robust_low:Q"), y2="robust_high")
    return _named(base, x, y, across + up, data)


def _cost(data: pd.DataFrame, column: str) -> Spec:
    """Accuracy against passes, on a logarithmic scale."""
    import altair as alt

    data = data.rename(columns={"line": "network", "x": "passes"})
    if not (data["passes"] > 0).all():  # a network that was brought along
        data = data[data["passes"] > 0]
    data = _labelled(data, ("passes", "passes", "passes"), ("accuracy_percent", "low_percent", "high_percent"), True)
    x = alt.X(
        "passes:Q",
        title="Passes in training (images, forward and backward)",
        scale=alt.Scale(type="log", nice=False, padding=24),
        axis=alt.Axis(format="~s", tickCount=6),
    )
    y = _percent("accuracy_percent", f"{column} accuracy (%)", zero=False, nice=False, padding=12)
    base = alt.Chart(data)
    up = base.mark_rule(color=COLOURS[0], opacity=0.45).encode(x=x, y=alt.Y("low_percent:Q"), y2="high_percent")
    return _named(base, x, y, up, data)


def _named(base: Spec, x: Spec, y: Spec, bars: Spec, data: pd.DataFrame) -> Spec:
    """Bars, points on them, and the name of each point where `_labelled` found room."""
    import altair as alt

    told = _tips(data.drop(columns=["label_x", "label_y"]))
    leads = base.mark_rule(color="#888888", strokeWidth=0.6).encode(x=x, y=y, x2="label_x", y2="label_y")
    points = base.mark_point(filled=True, size=70, color=COLOURS[0], opacity=1).encode(x=x, y=y, tooltip=told)
    names = base.mark_text(align="left", dx=2, fontSize=11, color="#000000").encode(
        x=alt.X("label_x:Q"), y=alt.Y("label_y:Q"), text="network:N"
    )
    return (leads + bars + points + names).properties(height=HIGH + 60)


def _labelled(data: pd.DataFrame, x: tuple[str, ...], y: tuple[str, ...], log: bool = False) -> pd.DataFrame:
    """With label_x, label_y: a place for the name of each point, right of it, that covers no other name and no point.
    x, y: the columns of a value, its low and its high end.
    """
    import numpy as np

    def scaled(columns: tuple[str, ...], side: float, log: bool) -> tuple[np.ndarray, float, float]:
        values = np.log10(data[list(columns)].to_numpy(float)) if log else data[list(columns)].to_numpy(float)
        low, high = float(values.min()), float(values.max())
        return (values[:, 0] - low) / ((high - low) or 1) * side, low, (high - low) or 1

    if data.empty:
        return data.assign(label_x=[], label_y=[])
    (px, x_low, x_range), (py, y_low, y_range) = scaled(x, WIDE - 80, log), scaled(y, HIGH, False)
    taken = [(a - 5, b - 5, a + 5, b + 5) for a, b in zip(px, py, strict=True)]
    places = []
    for a, b, name in zip(px, py, data["network"], strict=True):
        left, up = _free(a, b, LETTER * len(name), taken, WIDE - 80)
        taken.append((left, up - 6, left + LETTER * len(name), up + 6))
        places.append((x_low + left / (WIDE - 80) * x_range, y_low + up / HIGH * y_range))
    label_x = [10**a if log else a for a, _ in places]
    return data.assign(label_x=label_x, label_y=[b for _, b in places])


def _free(x: float, y: float, wide: float, taken: list[tuple[float, ...]], most: float) -> tuple[float, float]:
    """Left end and middle of a name of that width near a point, in pixels from below."""
    tries = [(dx, reach * way) for reach in range(0, 150, 6) for way in (1, -1) for dx in (8, -8 - wide)]
    for dx, dy in tries:
        left, up = x + dx, y + dy
        inside = left >= -20 and left + wide <= most + 60 and -10 <= up <= HIGH + 10
        if inside and not any(left < c and a < left + wide and up - 6 < d and b < up + 6 for a, b, c, d in taken):
            return left, up
    return x + 8, y


def _heat(data: pd.DataFrame, x: str, y: str, value: str, titles: tuple[str, str, str], text: str = "") -> Spec:
    """A square for each x and y with its number. text: another column to write into it."""
    import altair as alt

    orders = {name: list(dict.fromkeys(data[name])) for name in (x, y)}
    top = float(data[value].max() or 1)
    base = alt.Chart(data).encode(
        x=alt.X(f"{x}:N", title=titles[0], sort=orders[x], axis=alt.Axis(labelAngle=0 if len(orders[x]) < 8 else -40)),
        y=alt.Y(f"{y}:N", title=titles[1], sort=orders[y]),
        tooltip=_tips(data),
    )
    colour = alt.Color(f"{value}:Q", title=titles[2], scale=alt.Scale(scheme="blues", domain=[0, top]), legend=None)
    ink = alt.when(alt.datum[value] > 0.55 * top).then(alt.value("#ffffff")).otherwise(alt.value("#101820"))
    written = base.mark_text(fontSize=11).encode(text=f"{text or value}:{'N' if text else 'Q'}", color=ink)
    squares = base.mark_rect(stroke="#88888855").encode(color=colour)
    return (squares + written).properties(height=max(120, 24 * len(orders[y])))


def _broken(data: pd.DataFrame) -> Spec:
    shown = data.assign(share=(100 * data["broken"] / data["right"].clip(lower=1)).round(1))
    shown["told"] = [f"{broken} ({only})" for broken, only in zip(shown["broken"], shown["only"], strict=True)]
    return _heat(shown, "attack", "network", "share", ("Attack", "", "Share (%)"), "told")


def _choice(name: str, title: str, data: pd.DataFrame) -> tuple[Spec, str]:
    """A list to choose one of a column's values from, and the filter that shows it."""
    import altair as alt

    values = list(dict.fromkeys(data[title.lower()]))
    bound = alt.binding_select(options=values, name=f"{title} ")
    return alt.param(name=name, value=values[0], bind=bound), f"datum.{title.lower()} === {name}"


def _overlaps(data: pd.DataFrame) -> Spec:
    chosen, only = _choice("chosen_network", "Network", data)
    heat = _heat(data, "second", "first", "share", ("... is broken by", "Broken by", "Share (%)"))
    return heat.add_params(chosen).transform_filter(only)


def _confusion(data: pd.DataFrame) -> Spec:
    network, one = _choice("chosen_network", "Network", data)
    attack, other = _choice("chosen_attack", "Attack", data)
    heat = _heat(data.sort_values(["label", "predicted"]), "predicted", "label", "images", ("Predicted", "Label", "Images"))
    return heat.add_params(network, attack).transform_filter(one).transform_filter(other)


def _mistakes(data: pd.DataFrame) -> Spec:
    """Bars of the most frequent pairs, where classes are too many for squares."""
    import altair as alt

    pair = [f"{label} as {predicted}" for label, predicted in zip(data["label"], data["predicted"], strict=True)]
    data = data.assign(mistake=pair)
    network, one = _choice("chosen_network", "Network", data)
    attack, other = _choice("chosen_attack", "Attack", data)
    bars = (
        alt.Chart(data)
        .mark_bar(color=COLOURS[0])
        .encode(x=alt.X("images:Q", title="Images"), y=alt.Y("mistake:N", sort="-x", title=None), tooltip=_tips(data))
    )
    return bars.properties(height=HIGH).add_params(network, attack).transform_filter(one).transform_filter(other)


def _pairs(data: pd.DataFrame) -> Spec:
    """A bar of all images for each two networks and column."""
    import altair as alt

    pair = [f"{a} / {b}, {c}" for a, b, c in zip(data["first"], data["second"], data["column"], strict=True)]
    data = data.assign(pair=pair, order=data["which"].map(list(figures.CONFUSION).index))
    names, colours = list(figures.CONFUSION), [*COLOURS[:3], "#8a8a8a", "#c4c4c4"]
    fill = alt.Color(
        "which:N",
        scale=alt.Scale(domain=names, range=colours),
        legend=alt.Legend(orient="bottom", columns=3, title=None),
    )
    bars = alt.Chart(data).mark_bar(stroke="white").encode(
        x=alt.X("images:Q", title="Images"),
        y=alt.Y("pair:N", sort=list(dict.fromkeys(pair)), title=None),
        color=fill,
        order="order:Q",
        tooltip=_tips(data.drop(columns=["pair", "order"])),
    )  # fmt: skip
    return bars.properties(height=alt.Step(22))


def _curves(data: pd.DataFrame) -> Spec:
    """One network at a time."""
    network, one = _choice("chosen_network", "Network", data)
    return _curve(data, HIGH).add_params(network).transform_filter(one)


def _curves_printed(data: pd.DataFrame) -> Spec:
    """Every network, small."""
    small = _curve(data, 110).properties(width=SMALL)
    return small.facet(facet="network:N", columns=3)


def _curve(data: pd.DataFrame, high: int) -> Spec:
    """Accuracies by epoch, a line for each measure; circles on the kept checkpoints."""
    import altair as alt

    names = list(looks.MEASURES.values())
    below = {"orient": "bottom", "title": None}
    base = alt.Chart(data).encode(
        x=alt.X("epoch:Q", title="Epoch", axis=alt.Axis(tickMinStep=1, format="d")),
        y=_percent("accuracy", "Validation accuracy (%)", domain=[0, 100]),
        color=alt.Color(
            "measure:N", scale=alt.Scale(domain=names, range=list(COLOURS[:3])), legend=alt.Legend(**below)
        ),
    )
    lines = base.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash(
            "measure:N", scale=alt.Scale(domain=names, range=list(DASHES[:3])), legend=alt.Legend(**below)
        ),
    )
    points = base.mark_point(filled=True, size=18, opacity=1).encode(tooltip=_tips(data))
    kept = base.transform_filter("datum.mark !== ''").mark_point(size=150, strokeWidth=2).encode(tooltip=_tips(data))
    marks = base.transform_filter("datum.mark !== '' && datum.measure === 'PGD'")
    said = marks.mark_text(dy=20, fontSize=11).encode(text="mark:N", color=alt.value("#000000"))
    return alt.layer(lines, points, kept, said).properties(height=high)
