"""Pictures of tables, from records alone: PNG, SVG, and the numbers in them as CSV, beside the table's own CSV.

`points` is all that a picture shows, in percent; a cell without a number has no point. matplotlib is loaded when one is
drawn. Colours: Okabe & Ito's, which colour-blind people can tell apart; lines differ in their markers too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from bench.ground.files import write_atomic, write_text
from bench.ground.spreadsheet import to_csv
from bench.ground.stats import holm, mcnemar
from bench.ledger.find import OK, find
from bench.ledger.folder import Results
from bench.ledger.plan import Cell, Plan
from bench.ledger.runs import read_run
from bench.ledger.spec import CLEAN

Axes: TypeAlias = Any  # matplotlib's, which is not loaded here
Canvas: TypeAlias = Any
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
STYLE: dict[Any, Any] = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"}
STYLE |= {"text.parse_math": False}  # a $ in a label is a $
SHARES = {"accuracy": "accuracy_percent", "low": "low_percent", "high": "high_percent"}
LETTER = 6.2  # points, about the mean width in the size of the names of points
CONFUSION = {  # of two networks' predictions on one image, and its colour
    "both right": COLOURS[2],
    "only the first": COLOURS[0],
    "only the second": COLOURS[1],
    "both wrong, same class": "0.6",
    "both wrong, two classes": "0.82",
}
ACCURACY = "Accuracy (%), 95 % interval"


def points(plan: Plan, frame: pd.DataFrame, results: Results) -> pd.DataFrame:
    """What the plan's figure shows. frame: of `tables.table`. Shares are in percent.

    "bars", "radius", "sweep", "cost": line, x, accuracy_percent, low_percent, high_percent; x is the column, the radius
    in image units, the setting's value, or the passes (forward and backward, in images) of the training of all its
    networks and teachers, a mean over seeds. "overlap": first, second (rows), column, which (of CONFUSION), images
    (summed over seeds), crafted_anew (images of which the two records have other versions), and p, the exact McNemar p
    of "equally often right" for one seed, adjusted for all pairs and columns (Holm). Raises UserError for a broken
    record.
    """
    assert plan.figure is not None, "only for plans with a figure"
    if plan.figure.kind == "overlap":
        return _overlap(plan, results)
    cells = {(cell.row, cell.column): cell for cell in reversed(plan.cells)}
    lines = []
    for line in frame[(frame["state"] == OK) & frame["column"].isin(plan.shown)].to_dict("records"):
        cell = cells[line["row"], plan.attacked(line["column"])[0]]  # any of a union's says which network it is
        if (place := _place(plan, line["column"], cell, results)) is not None:
            lines.append(place | {new: round(100 * line[old], 4) for old, new in SHARES.items()})
    return pd.DataFrame(lines, columns=["line", "x", *SHARES.values()])


def draw(plan: Plan, frame: pd.DataFrame, results: Results) -> list[Path]:
    """Writes the plan's figure; returns the paths, none where it has no figure or no point. Raises UserError."""
    if plan.figure is None or (shown := points(plan, frame, results)).empty:
        return []
    from matplotlib import figure, rc_context

    stem = results.table(plan.name).with_name(f"{plan.name}-figure")
    paths = [write_text(stem.with_suffix(".csv"), to_csv(shown))]
    with rc_context(STYLE | {"svg.hashsalt": plan.name}):
        canvas = figure.Figure(figsize=(8, 4.8), layout="constrained")
        axes = canvas.add_subplot()
        PICTURES[plan.figure.kind](plan, shown, axes)
        images = f"{plan.images} {plan.split} images of {plan.dataset}, {plan.arch}"
        axes.set_title(f"{plan.title}\n{images}", loc="left", fontsize=11)
        paths += [_save(canvas, stem.with_suffix(suffix)) for suffix in (".png", ".svg")]
    return paths


def _save(canvas: Canvas, path: Path) -> Path:
    """In the format that the suffix says; without a date, so that the same records make the same bytes."""
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    return write_atomic(path, lambda file: canvas.savefig(file, format=path.suffix[1:], dpi=150, metadata=metadata))


def _place(plan: Plan, column: str, cell: Cell, results: Results) -> dict[str, Any] | None:
    """Line and x of a column in the row of a cell, or None where the figure does not show it."""
    assert plan.figure is not None
    kind = plan.figure.kind
    if kind == "bars":
        return {"line": cell.row, "x": column}
    if kind == "radius":
        radius = 0.0 if cell.column_attack == CLEAN else cell.at
        return None if radius is None or column != cell.column else {"line": cell.row, "x": radius}
    if kind == "sweep":
        value = plan.recipes[cell.recipe]["settings"].get(plan.figure.over)
        return None if value is None else {"line": f"h{cell.member + 1}, {column}", "x": float(value)}
    if column != plan.figure.column:
        return None
    seeds = [one.run_id for one in plan.cells if (one.row, one.column) == (cell.row, cell.column)]
    return {"line": cell.row, "x": float(np.mean([_passes(results, run_id) for run_id in seeds]))}


def _passes(results: Results, run_id: str) -> int:
    """Forward and backward passes, in images, of a network's training and of those of its teachers."""
    record = read_run(results, run_id)
    taught = _passes(results, record.teacher.run_id) if record.teacher else 0
    return taught + record.cost.forward_passes + record.cost.backward_passes


def _overlap(plan: Plan, results: Results) -> pd.DataFrame:
    """How often each two rows are right and wrong on the same images; nothing of two where a record lacks."""
    assert plan.figure is not None
    crafted = {cell.column for cell in plan.cells if cell.source_run_id is not None and cell.at is None}
    columns = [plan.figure.column] if plan.figure.column else [one for one in plan.columns if one in crafted]
    judged = {(row, column): _judged(plan, row, column, results) for row in plan.figure.rows for column in columns}
    lines, p = [], []
    for (first, second), column in product(combinations(plan.figure.rows, 2), columns):
        a, b = judged[first, column], judged[second, column]
        if a is None or b is None:
            continue
        anew = int((~np.isclose(a["l2"], b["l2"], rtol=1e-5)).sum())
        p.append(mcnemar(a["right"], b["right"]) if len(plan.seeds) == 1 else np.nan)  # seeds share their images
        two = {"first": first, "second": second, "column": column, "crafted_anew": anew}
        lines += [two | {"which": which, "images": images} for which, images in _confusion(a, b).items()]
    adjusted = holm(p) if len(plan.seeds) == 1 else p
    shown = pd.DataFrame(lines, columns=["first", "second", "column", "which", "images", "crafted_anew"])
    return shown.assign(p=np.repeat(adjusted, len(CONFUSION)))


def _judged(plan: Plan, row: str, column: str, results: Results) -> pd.DataFrame | None:
    """A row's images in a column, one seed after the other, and whether it is right; None where a record lacks.

    Of images that were crafted for all rows, right is the prediction on them; else it is the verdict.
    """
    cells = [cell for cell in plan.cells if (cell.row, cell.column) == (row, column)]
    records = [find(plan, cell, results).record for cell in cells]
    images = [record.images.sort_values("image") for record in records if record is not None]
    if len(images) < len(plan.seeds):
        return None
    joined = pd.concat(images, ignore_index=True)
    predicted = joined["adversarial_prediction"] == joined["label"]
    return joined.assign(right=predicted if cells[0].source_run_id else joined["robust"])


def _confusion(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, int]:
    """Images by CONFUSION."""
    a, b = first["right"].to_numpy(), second["right"].to_numpy()
    alike = first["adversarial_prediction"].to_numpy() == second["adversarial_prediction"].to_numpy()
    held = (a & b, a & ~b, ~a & b, ~a & ~b & alike, ~a & ~b & ~alike)
    return {which: int(those.sum()) for which, those in zip(CONFUSION, held, strict=True)}


def _error(shown: pd.DataFrame) -> np.ndarray:
    """[2, points]: how far the interval reaches down and up."""
    value = shown["accuracy_percent"]
    return np.stack([value - shown["low_percent"], shown["high_percent"] - value]).clip(0)


def _bars(plan: Plan, shown: pd.DataFrame, axes: Axes) -> None:
    """A group for each row, a bar for each column."""
    columns = [column for column in plan.columns if column in set(shown["x"])]
    rows = [row for row in plan.rows if row in set(shown["line"])]
    width = 0.8 / len(columns)
    for number, column in enumerate(columns):
        of_it = shown[shown["x"] == column]
        places = [rows.index(row) + (number - (len(columns) - 1) / 2) * width for row in of_it["line"]]
        values, colour = of_it["accuracy_percent"], COLOURS[number % len(COLOURS)]
        axes.bar(places, values, width * 0.92, yerr=_error(of_it), label=column, color=colour, capsize=3)
    axes.set_xticks(range(len(rows)), [_wrapped(row) for row in rows])
    axes.set(ylabel=ACCURACY, ylim=(0, 100))
    axes.legend(ncols=min(4, len(columns)), loc="upper left", bbox_to_anchor=(0, -0.16), frameon=False)


def _lines(plan: Plan, shown: pd.DataFrame, axes: Axes) -> None:
    """Accuracy against x, a line for each of `line`; intervals as bars, a little apart so that they can be read."""
    names = list(dict.fromkeys(shown["line"]))
    apart = (shown["x"].max() - shown["x"].min()) * 0.006
    for number, name in enumerate(names):
        of_it = shown[shown["line"] == name].sort_values("x")
        x = of_it["x"] + (number - (len(names) - 1) / 2) * apart
        look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "label": name}
        axes.errorbar(x, of_it["accuracy_percent"], _error(of_it), capsize=2, elinewidth=0.9, markersize=5, **look)
    assert plan.figure is not None
    label = plan.figure.over or f"Radius ({_norm(plan)}, in image units)"
    axes.set(xlabel=label, ylabel=ACCURACY, ylim=(0, 101))
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def _cost(plan: Plan, shown: pd.DataFrame, axes: Axes) -> None:
    """Accuracy against the passes of training, each point with its name."""
    axes.errorbar(shown["x"], shown["accuracy_percent"], _error(shown), fmt="o", color=COLOURS[0], elinewidth=0.9)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.15)  # not from 0 to 100: rows lie close together, and their intervals say how close
    assert plan.figure is not None
    axes.set(ylabel=f"{plan.figure.column}: {ACCURACY[0].lower()}{ACCURACY[1:]}")
    axes.set_xlabel("Passes in training (images, forward and backward, of all networks and teachers)")
    axes.grid(alpha=0.25)
    for line, place in zip(shown.to_dict("records"), _free_places(shown, axes), strict=True):
        axes.annotate(
            line["line"],
            (line["x"], line["accuracy_percent"]),
            place,
            textcoords="offset points",
            fontsize=9,
            ha="left" if place[0] > 0 else "right",
            va="center",
            arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4},
        )


def _free_places(shown: pd.DataFrame, axes: Axes) -> Iterator[tuple[float, float]]:
    """For each point an offset in typographic points where its name covers no other name, point or interval."""
    axes.get_figure().draw_without_rendering()  # fixes the limits that places are computed with
    scale = 72 / axes.get_figure().dpi
    at, low, high = (axes.transData.transform(shown[["x", name]].to_numpy()) * scale for name in SHARES.values())
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in at]
    taken += [(x - 1, bottom, x + 1, top) for (x, bottom), (_, top) in zip(low, high, strict=True)]
    tries = [(dx, reach * way) for reach in range(9, 120, 6) for way in (0, 0.5, -0.5, 1, -1) for dx in (9, -9)]
    for (x, y), name in zip(at, shown["line"], strict=True):
        wide = LETTER * len(name)
        for dx, dy in tries:
            left = x + dx if dx > 0 else x + dx - wide
            box = (left, y + dy - 6, left + wide, y + dy + 6)
            if not any(box[0] < c and a < box[2] and box[1] < d and b < box[3] for a, b, c, d in taken):
                break
        taken.append(box)
        yield dx, dy


def _overlap_bars(plan: Plan, shown: pd.DataFrame, axes: Axes) -> None:
    """A bar of all images for each two rows and column, in the parts of CONFUSION with their counts."""
    bars = list(shown.groupby(["first", "second", "column"], sort=False))
    total = shown["images"].sum() / len(bars)
    for place, (_, parts) in enumerate(bars):
        left = 0
        for line in parts.to_dict("records"):
            axes.barh(place, line["images"], left=left, color=CONFUSION[line["which"]], edgecolor="white", height=0.7)
            if line["images"] > 0.03 * total:
                axes.text(left + line["images"] / 2, place, line["images"], ha="center", va="center", fontsize=8)
            left += line["images"]
        axes.text(total * 1.01, place, _in_words(parts.iloc[0]), va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [f"{first} / {second}, {column}" for (first, second, column), _ in bars])
    axes.set(ylim=(len(bars) - 0.4, -0.6), xlim=(0, total))
    images = _images_of(plan, set(shown["column"]))
    axes.set_xlabel(f"{images}, by which of the two predicts their label; p: equally often (McNemar, Holm)")
    axes.spines["left"].set_visible(False)
    handles = [axes.barh(0, 0, color=colour, label=which) for which, colour in CONFUSION.items()]
    axes.get_figure().legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    axes.get_figure().set_size_inches(10, 2.4 + 0.34 * len(bars))


def _in_words(line: pd.Series[Any]) -> str:
    """What stands behind a bar: its p, where there is one, and how many images are not the same ones."""
    words = [] if pd.isna(line["p"]) else [f"p = {line['p']:.2g}"]
    return ", ".join(words + ([f"{line['crafted_anew']} of other images"] if line["crafted_anew"] else []))


def _images_of(plan: Plan, columns: Collection[str]) -> str:
    """What made the images of an overlap, and that they are summed where they are."""
    attacks = dict.fromkeys(cell.column_attack for cell in plan.cells if cell.column in columns)
    return f"Images of {' and '.join(attacks)}{'' if len(plan.seeds) == 1 else ' (summed over seeds)'}"


def _norm(plan: Plan) -> str:
    """The norm of the radii that columns are read at."""
    norms = {plan.attacks[cell.attack]["settings"]["threat"]["norm"] for cell in plan.cells if cell.at is not None}
    return " and ".join(sorted(norms))


def _wrapped(label: str) -> str:
    """One word a line."""
    return label.replace(" ", "\n")


PICTURES: dict[str, Callable[[Plan, pd.DataFrame, Any], None]] = {
    "bars": _bars,
    "radius": _lines,
    "sweep": _lines,
    "cost": _cost,
    "overlap": _overlap_bars,
}
