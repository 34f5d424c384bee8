"""What the records of a plan say beyond its table: what broke what, confusions, curves of training. Numbers only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.ledger.evals import EvalRecord, beyond
from bench.ledger.find import OK, find
from bench.ledger.folder import Results
from bench.ledger.histories import read_history
from bench.ledger.plan import Cell, Plan
from bench.ledger.runs import read_run
from bench.ledger.spec import CLEAN, Figure
from bench.tables import figures

SHARES = ("accuracy", "low", "high")
MEASURES = {"clean": "clean", "robust": "PGD", "single_step": "one step"}
MOST_CLASSES = 16  # of a confusion in full; of more classes the most frequent mistakes are shown
MOST_MISTAKES = 12


class Seen(NamedTuple):
    """Images of a plan's records, summed over seeds, as tidy tables.

    broken: network, attack, broken (right without and wrong with it), only (by no other attack), right (without one).
    overlaps: network, first, second, both, share (of those that `first` breaks, in percent). confusions: network,
    attack, label, predicted, images.
    """

    broken: pd.DataFrame
    overlaps: pd.DataFrame
    confusions: pd.DataFrame


def strongest(plan: Plan, frame: pd.DataFrame) -> str | None:
    """The column that stands for robustness; None where there is no attack with a number.

    That of the plan's figure, else its last union, else of the attacks (in a norm, where there is one) that with the
    lowest mean over the rows. Of one attack read at several radii, where nothing else is, the one that tells most: the
    radius with the mean nearest to a half.
    """
    if plan.figure is not None and plan.figure.kind == "cost":
        return plan.figure.column
    means = frame[frame["state"] == OK].groupby("column")["accuracy"].mean()
    if unions := [column for column in plan.unions if column in means]:
        return unions[-1]
    kinds = {cell.column: cell for cell in plan.cells if cell.column in means and cell.column_attack != CLEAN}
    kinds = {column: cell for column, cell in kinds.items() if column in plan.shown}
    whole = {column: cell for column, cell in kinds.items() if cell.at is None}
    in_a_norm = [column for column, cell in whole.items() if _norm(plan, cell) != "own"]
    if chosen := in_a_norm or list(whole):
        return min(chosen, key=lambda column: means[column])
    return min(kinds, key=lambda column: abs(means[column] - 0.5), default=None)


def clean_column(plan: Plan) -> str | None:
    """The column without an attack."""
    return next((cell.column for cell in plan.cells if cell.column_attack == CLEAN), None)


def _norm(plan: Plan, cell: Cell) -> str:
    return str(plan.attacks[cell.attack]["settings"].get("threat", {}).get("norm", ""))


def against_clean(plan: Plan, frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Rows with both numbers: network, clean, clean_low, clean_high, robust, robust_low, robust_high, in percent."""
    known = frame[frame["state"] == OK].set_index(["row", "column"])
    clean = clean_column(plan)
    lines = []
    for row in plan.rows:
        if (row, clean) in known.index and (row, column) in known.index:
            line: dict[str, Any] = {"network": row}
            for kind, one in (("clean", known.loc[(row, clean)]), ("robust", known.loc[(row, column)])):
                names = (kind, f"{kind}_low", f"{kind}_high")
                line |= dict(zip(names, (_percent(one[share]) for share in SHARES), strict=True))
            lines.append(line)
    return pd.DataFrame(lines)


def of_figure(plan: Plan, frame: pd.DataFrame, results: Results, kind: str, column: str = "") -> pd.DataFrame:
    """`figures.points` of a plan as if it had a figure of that kind. Raises UserError."""
    figure = Figure(kind, column=column) if kind in ("radius", "cost") else plan.figure  # type: ignore[arg-type]
    return figures.points(replace(plan, figure=figure), frame, results)


def seen(plan: Plan, results: Results) -> Seen:
    """One row of the table at a time: its records may not fit into memory together. Raises UserError."""
    broken: list[dict[str, Any]] = []
    overlaps: list[dict[str, Any]] = []
    confusions: list[pd.DataFrame] = []
    for row in plan.rows:
        records = _records(plan, row, results)
        attacks = [name for name, (cell, _) in records.items() if cell.column_attack != CLEAN and cell.at is None]
        fallen = {name: np.concatenate([_fallen(one) for one in records[name][1]]) for name in attacks}
        right = sum(int(_right(one).sum()) for one in records[attacks[0]][1]) if attacks else 0
        broken += [{"network": row, "right": right} | one for one in _broken(fallen)]
        overlaps += [{"network": row} | one for one in _overlaps(fallen)]
        for name, (_, of_seeds) in records.items():
            confusions.append(_confusion(of_seeds).assign(network=row, attack=name))
    return Seen(
        pd.DataFrame(broken, columns=["network", "attack", "broken", "only", "right"]),
        pd.DataFrame(overlaps, columns=["network", "first", "second", "both", "share"]),
        pd.concat(confusions, ignore_index=True) if confusions else pd.DataFrame(),
    )


def curves(plan: Plan, results: Results) -> pd.DataFrame:
    """A line for each network, epoch and measure: network, epoch, measure, accuracy (percent), loss, lr, mark ("best",
    "last", "best and last" or ""). Of trainings whose epochs were not kept there is none. Raises UserError.
    """
    lines = []
    for name, cell in _networks(plan):
        history = read_history(results, cell.training_id)
        if history is None or not history.epochs or cell.member >= len(history.epochs[0].clean):
            continue
        marks = _marked(results, cell)
        for one in history.epochs:
            about = {"network": name, "epoch": one.epoch, "loss": one.loss, "lr": one.lr}
            about["mark"] = " and ".join(word for word, epoch in marks.items() if epoch == one.epoch)
            for key, measure in MEASURES.items():
                lines.append(about | {"measure": measure, "accuracy": _percent(getattr(one, key)[cell.member])})
    return pd.DataFrame(lines, columns=["network", "epoch", "measure", "accuracy", "loss", "lr", "mark"])


def _networks(plan: Plan) -> Iterator[tuple[str, Cell]]:
    """The networks of the rows, one for each seed, with a cell of each."""
    done = set()
    for cell in plan.cells:
        if (cell.row, cell.seed) not in done:
            done.add((cell.row, cell.seed))
            yield (cell.row if len(plan.seeds) == 1 else f"{cell.row}, seed {cell.seed}"), cell


def _marked(results: Results, cell: Cell) -> dict[str, int]:
    """ "best" and "last" -> the epoch of that checkpoint, where it is on disk."""
    stem = cell.run_id.removesuffix(cell.checkpoint)
    there = {word: f"{stem}{word}" for word in ("best", "last") if results.run(f"{stem}{word}").exists()}
    return {word: read_run(results, run_id).epoch for word, run_id in there.items()}


def _records(plan: Plan, row: str, results: Results) -> dict[str, tuple[Cell, list[EvalRecord]]]:
    """Column -> one of its cells, and the records of all seeds, each in the order of its images; only columns that are
    shown and of which every seed has its record.
    """
    found: dict[str, tuple[Cell, list[EvalRecord]]] = {}
    for cell in (one for one in plan.cells if one.column in plan.shown):
        if cell.row == row and (record := find(plan, cell, results).record) is not None:
            ordered = replace(record, images=record.images.sort_values("image", ignore_index=True))
            found.setdefault(cell.column, (cell, []))[1].append(ordered)
    return {column: one for column, one in found.items() if len(one[1]) == len(plan.seeds)}


def _right(record: EvalRecord) -> np.ndarray:
    return (record.images["clean_prediction"] == record.images["label"]).to_numpy()


def _fallen(record: EvalRecord) -> np.ndarray:
    """[n] bool: right without the attack, and not robust."""
    return _right(record) & ~record.images["robust"].to_numpy()


def _broken(fallen: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    times = sum(one.astype(int) for one in fallen.values())
    for name, one in fallen.items():
        yield {"attack": name, "broken": int(one.sum()), "only": int((one & (times == 1)).sum())}


def _overlaps(fallen: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Of the images that one attack breaks, how many another breaks too."""
    for first, a in fallen.items():
        for second, b in fallen.items() if a.any() else ():
            both = int((a & b).sum())
            yield {"first": first, "second": second, "both": both, "share": round(100 * both / int(a.sum()), 1)}


def _confusion(records: Sequence[EvalRecord]) -> pd.DataFrame:
    """label, predicted, images. Beyond a radius an adversarial image does not count: there the prediction is that of
    the image itself.
    """
    images = pd.concat([record.images for record in records], ignore_index=True)
    past = pd.concat([beyond(record.images, record.norm, record.eps) for record in records], ignore_index=True)
    predicted = images["adversarial_prediction"].where(~past, images["clean_prediction"])
    counts = images.assign(predicted=predicted).groupby(["label", "predicted"]).size().rename("images").reset_index()
    if counts["label"].nunique() <= MOST_CLASSES:
        return counts
    mistakes = counts[counts["label"] != counts["predicted"]]
    return mistakes.sort_values("images", ascending=False, kind="stable").head(MOST_MISTAKES)


def _percent(share: float) -> float:
    return round(100 * float(share), 4)
