"""How each chart is drawn: tidy numbers -> Altair. Loaded only where Altair is installed.

Colours are Okabe & Ito's, which colour-blind people can tell apart; what differs in colour differs in
shape or dashes too. The page paints black as the ink of its theme.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import altair as alt
import numpy as np
import pandas as pd

from bench.tables import figures
from bench.tables.page import looks

Spec: TypeAlias = Any  # one of Altair's many kinds of charts
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [10, 4], [1, 3])
HIGH = 340  # pixels of a chart
SMALL = 190  # of one of many charts
ROOM = 380  # of the inside of a chart, where it has half a screen: what names are placed in
LETTER = 6.0  # pixels, about the mean width of one in a label
BELOW: dict[str, Any] = {"orient": "bottom", "title": None}
STROKES: dict[str, Any] = BELOW | {"symbolType": "stroke", "symbolSize": 400}


def draw(data: pd.DataFrame, drawing: str, *titles: str) -> dict[str, Any]:
    """A chart of tidy numbers, none of them empty, as Vega-Lite, in the fonts and lines of a page."""
    chart = (
        DRAWINGS[drawing](data, *titles)
        .configure(background="transparent", font="system-ui, sans-serif", padding=4)
        .configure_view(stroke=None)
        .configure_axis(gridOpacity=0.35, labelFontSize=11, titleFontSize=12, labelLimit=220, domain=False)
        .configure_legend(labelFontSize=11, titleFontSize=12, symbolSize=80, labelLimit=260, symbolStrokeWidth=2)
    )
    return dict(chart.to_dict())


def _percent(field: str, title: str, **scale: Any) -> Spec:
    return alt.Y(f"{field}:Q", title=title, scale=alt.Scale(**scale))


def _lines(data: pd.DataFrame, x_title: str) -> Spec:
    """Accuracy against x, a line for each of `line`, with intervals."""
    names = list(dict.fromkeys(data["line"]))
    fit: dict[str, Any] = {"domain": names, "range": [COLOURS[n % len(COLOURS)] for n in range(len(names))]}
    dashes = [DASHES[(n + n // len(COLOURS)) % len(DASHES)] for n in range(len(names))]
    chosen = alt.selection_point(name="chosen", fields=["line"], bind="legend")
    seen = alt.when(chosen).then(alt.value(1)).otherwise(alt.value(0.12))
    base = alt.Chart(data).encode(
        x=alt.X("x:Q", title=x_title, scale=alt.Scale(zero=False)),
        color=alt.Color("line:N", scale=alt.Scale(**fit), legend=alt.Legend(**STROKES, columns=4)),
        opacity=seen,
    )
    y = _percent("accuracy_percent", "Accuracy (%)", zero=False)
    drawn = base.mark_line().encode(
        y=y,
        strokeDash=alt.StrokeDash(
            "line:N", scale=alt.Scale(domain=names, range=dashes), legend=alt.Legend(**STROKES, columns=4)
        ),
    )
    bars = base.mark_rule(strokeWidth=1).encode(
        y=_percent("low_percent", "Accuracy (%)", zero=False), y2="high_percent"
    )
    points = base.mark_point(filled=True, size=45, opacity=1).encode(y=y, tooltip=_tips(data))
    return alt.layer(bars, drawn, points.add_params(chosen)).properties(height=HIGH)


def _tips(data: pd.DataFrame) -> list[Spec]:
    """Everything that is known of a point."""
    kinds = {True: ("Q", ".5~g"), False: ("N", "")}
    told = []
    for name in data.columns:
        kind, form = kinds[pd.api.types.is_numeric_dtype(data[name])]
        tip: dict[str, Any] = {"format": form} if form else {}
        told.append(alt.Tooltip(f"{name}:{kind}", title=_words(name), **tip))
    return told


def _words(name: str) -> str:
    """ "low_percent" -> "low percent"."""
    return name.replace("_", " ")


def _scatter(data: pd.DataFrame, x_title: str, y_title: str) -> Spec:
    """Points with both intervals and their names."""
    data = _labelled(data, ("clean", "clean_low", "clean_high"), ("robust", "robust_low", "robust_high"))
    x = alt.X("clean:Q", title=x_title, scale=alt.Scale(zero=False, nice=False, padding=12))
    y = _percent("robust", y_title, zero=False, nice=False, padding=12)
    base = alt.Chart(data)
    across = base.mark_rule(color=COLOURS[0], opacity=0.6).encode(x=alt.X("clean_low:Q"), x2="clean_high", y=y)
    up = base.mark_rule(color=COLOURS[0], opacity=0.6).encode(x=x, y=alt.Y("robust_low:Q"), y2="robust_high")
    return _named(base, x, y, across + up, data)


def _cost(data: pd.DataFrame, y_title: str) -> Spec:
    """Accuracy against passes, on a logarithmic scale."""
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
    y = _percent("accuracy_percent", y_title, zero=False, nice=False, padding=12)
    base = alt.Chart(data)
    up = base.mark_rule(color=COLOURS[0], opacity=0.6).encode(x=x, y=alt.Y("low_percent:Q"), y2="high_percent")
    return _named(base, x, y, up, data)


def _named(base: Spec, x: Spec, y: Spec, bars: Spec, data: pd.DataFrame) -> Spec:
    """Bars, points on them, and the name of each point where `_labelled` found room."""
    told = _tips(data.drop(columns=["label_x", "label_y", "lead_x"]))
    leads = base.mark_rule(color="#888888", strokeWidth=0.6).encode(x=x, y=y, x2="lead_x", y2="label_y")
    points = base.mark_point(filled=True, size=70, color=COLOURS[0], opacity=1).encode(x=x, y=y, tooltip=told)
    names = base.mark_text(align="left", dx=2, fontSize=11, color="#000000").encode(
        x=alt.X("label_x:Q"), y=alt.Y("label_y:Q"), text="network:N"
    )
    return (leads + bars + points + names).properties(height=HIGH + 60)


def _labelled(data: pd.DataFrame, x: tuple[str, ...], y: tuple[str, ...], log: bool = False) -> pd.DataFrame:
    """With label_x, label_y: a place for the name of each point, its left end and middle, that covers no other name and
    no point; and lead_x, where a line from the point meets it. x, y: the columns of a value, its low and its high end.
    """

    def scaled(columns: tuple[str, ...], side: float, log: bool) -> tuple[np.ndarray, float, float]:
        values = np.log10(data[list(columns)].to_numpy(float)) if log else data[list(columns)].to_numpy(float)
        low, high = float(values.min()), float(values.max())
        return (values[:, 0] - low) / ((high - low) or 1) * side, low, (high - low) or 1

    if data.empty:
        return data.assign(label_x=[], label_y=[], lead_x=[])
    (px, x_low, x_range), (py, y_low, y_range) = scaled(x, ROOM, log), scaled(y, HIGH, False)
    taken = [(a - 5, b - 5, a + 5, b + 5) for a, b in zip(px, py, strict=True)]
    places = []
    for a, b, name in zip(px, py, data["network"], strict=True):
        wide = LETTER * len(name)
        left, up = _free(a, b, wide, taken, ROOM)
        taken.append((left, up - 6, left + wide, up + 6))
        places.append((left, up, min(max(a, left), left + wide)))
    lefts, ups, leads = np.array(places).T
    ends = {"label_x": x_low + lefts / ROOM * x_range, "lead_x": x_low + leads / ROOM * x_range}
    ends = {name: 10**end for name, end in ends.items()} if log else ends
    return data.assign(**ends, label_y=y_low + ups / HIGH * y_range)


def _free(x: float, y: float, wide: float, taken: Sequence[tuple[float, ...]], most: float) -> tuple[float, float]:
    """Left end and middle of a name of that width near a point, in pixels from below."""
    tries = [(dx, reach * way) for reach in range(0, 150, 6) for way in (1, -1) for dx in (8, -8 - wide)]
    for dx, dy in tries:
        left, up = x + dx, y + dy
        inside = left >= -20 and left + wide <= most + 60 and -10 <= up <= HIGH + 10
        if inside and not any(left < c and a < left + wide and up - 6 < d and b < up + 6 for a, b, c, d in taken):
            return left, up
    return x + 8, y


def _heat(data: pd.DataFrame, x: str, y: str, value: str, titles: tuple[str, str], text: str = "") -> Spec:
    """A square for each x and y, in the order of the data, with its number. text: another column to write into it."""
    orders = {name: list(dict.fromkeys(data[name])) for name in (x, y)}
    if all(pd.api.types.is_numeric_dtype(data[name]) for name in (x, y)):  # classes
        orders = dict.fromkeys((x, y), sorted({*data[x], *data[y]}))
    top = float(data[value].max() or 1)
    angle = -40 if sum(len(str(one)) for one in orders[x]) > 40 else 0
    base = alt.Chart(data).encode(
        x=alt.X(f"{x}:N", title=titles[0], scale=alt.Scale(domain=orders[x]), axis=alt.Axis(labelAngle=angle)),
        y=alt.Y(f"{y}:N", title=titles[1], scale=alt.Scale(domain=orders[y])),
        tooltip=_tips(data),
    )
    colour = alt.Color(f"{value}:Q", scale=alt.Scale(scheme="blues", domain=[0, top]), legend=None)
    ink = alt.when(alt.datum[value] > 0.55 * top).then(alt.value("#ffffff")).otherwise(alt.value("#101820"))
    written = base.mark_text(fontSize=11).encode(text=f"{text or value}:{'N' if text else 'Q'}", color=ink)
    squares = base.mark_rect(stroke="#88888855").encode(color=colour)
    return (squares + written).properties(height=max(120, 24 * len(orders[y])))


def _broken(data: pd.DataFrame) -> Spec:
    shown = data.assign(share=(100 * data["broken"] / data["right"].clip(lower=1)).round(1))
    shown["told"] = [f"{broken} ({only})" for broken, only in zip(shown["broken"], shown["only"], strict=True)]
    return _heat(shown, "attack", "network", "share", ("Attack", ""), "told")


def _choice(name: str, title: str, data: pd.DataFrame, first: str | None = None) -> tuple[Spec, str]:
    """A list to choose one of a column's values from, and the filter that shows it. first: what is shown unasked."""
    values = list(dict.fromkeys(data[title.lower()]))
    bound = alt.binding_select(options=values, name=f"{title} ")
    return alt.param(name=name, value=first or values[0], bind=bound), f"datum.{title.lower()} === {name}"


def _overlaps(data: pd.DataFrame) -> Spec:
    chosen, only = _choice("chosen_network", "Network", data)
    heat = _heat(data, "second", "first", "share", ("... is broken by", "Broken by"))
    return heat.add_params(chosen).transform_filter(only)


def _confusion(data: pd.DataFrame) -> Spec:
    network, one = _choice("chosen_network", "Network", data)
    attack, other = _choice("chosen_attack", "Attack", data, _hardest(data))
    heat = _heat(data, "predicted", "label", "images", ("Predicted", "Label"))
    return heat.add_params(network, attack).transform_filter(one).transform_filter(other)


def _hardest(data: pd.DataFrame) -> str:
    """The attack with the most mistakes."""
    mistakes = data["images"].where(data["label"] != data["predicted"], 0)
    return str(mistakes.groupby(data["attack"]).sum().idxmax())


def _mistakes(data: pd.DataFrame) -> Spec:
    """Bars of the most frequent pairs, where classes are too many for squares."""
    pair = [f"{label} as {predicted}" for label, predicted in zip(data["label"], data["predicted"], strict=True)]
    data = data.assign(mistake=pair)
    network, one = _choice("chosen_network", "Network", data)
    attack, other = _choice("chosen_attack", "Attack", data, _hardest(data))
    bars = (
        alt.Chart(data)
        .mark_bar(color=COLOURS[0])
        .encode(x=alt.X("images:Q", title="Images"), y=alt.Y("mistake:N", sort="-x", title=None), tooltip=_tips(data))
    )
    return bars.properties(height=HIGH).add_params(network, attack).transform_filter(one).transform_filter(other)


def _pairs(data: pd.DataFrame) -> Spec:
    """A bar of all images for each two networks and column."""
    pair = [f"{a} / {b}, {c}" for a, b, c in zip(data["first"], data["second"], data["column"], strict=True)]
    data = data.assign(pair=pair, order=data["which"].map(list(figures.CONFUSION).index))
    names, colours = list(figures.CONFUSION), [*COLOURS[:3], "#8a8a8a", "#c4c4c4"]
    fill = alt.Color(
        "which:N",
        scale=alt.Scale(domain=names, range=colours),
        legend=alt.Legend(**BELOW, columns=3),
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
    return small.facet(facet=alt.Facet("network:N", title=None), columns=3)


def _curve(data: pd.DataFrame, high: int) -> Spec:
    """Accuracies by epoch, a line for each measure; circles on the kept checkpoints."""
    names = list(looks.MEASURES.values())
    base = alt.Chart(data).encode(
        x=alt.X("epoch:Q", title="Epoch", axis=alt.Axis(tickMinStep=1, format="d")),
        y=_percent("accuracy", "Validation accuracy (%)", domain=[0, 100]),
        color=alt.Color(
            "measure:N",
            scale=alt.Scale(domain=names, range=list(COLOURS[:3])),
            legend=alt.Legend(**STROKES),
        ),
    )
    lines = base.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash(
            "measure:N",
            scale=alt.Scale(domain=names, range=list(DASHES[:3])),
            legend=alt.Legend(**STROKES),
        ),
    )
    points = base.mark_point(filled=True, size=18, opacity=1).encode(tooltip=_tips(data))
    kept = base.transform_filter("datum.mark !== ''").mark_point(size=150, strokeWidth=2).encode(tooltip=_tips(data))
    marks = base.transform_filter("datum.mark !== '' && datum.measure === 'PGD'")
    said = marks.mark_text(dy=20, fontSize=11).encode(text="mark:N", color=alt.value("#000000"))
    return alt.layer(lines, points, kept, said).properties(height=high)


DRAWINGS: dict[str, Callable[..., Spec]] = {
    "lines": _lines,
    "scatter": _scatter,
    "cost": _cost,
    "pairs": _pairs,
    "broken": _broken,
    "overlaps": _overlaps,
    "confusion": _confusion,
    "mistakes": _mistakes,
    "curves": _curves,
    "small curves": _curves_printed,
}
