"""Rows of a table against each other, image by image: each against the baseline, and each against the best of a column.

Two families of tests, each corrected by Holm over all columns of the table: every row against the baseline; and every
row against every other, because which one is best is known only after looking, so any two may be compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.ground.stats import LEVEL, compare, holm, p_equal

COLUMNS = ["difference", "difference_low", "difference_high", "p_baseline", "p_best", "best"]


class Robust(NamedTuple):
    """A cell image by image. images [n]: their ids, sorted. robust: [seeds, n, columns] bool, see `ground.stats`; of an
    error what is not.
    """

    images: NDArray[np.int64]
    robust: NDArray[np.bool_]


def between_rows(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], Robust],
    baseline: str = "",
    errors: Collection[str] = (),
) -> dict[tuple[str, str], dict[str, Any]]:
    """Cell (row, column) -> those of COLUMNS that it has. cells: those with a number, all on the same images.

    difference, difference_low, difference_high: row - baseline, a share, its interval not corrected. p_baseline,
    p_best: adjusted; p_best is against the best of the column, and the best itself has none. errors: columns whose best
    is the lowest. best: whether the cell is the best of its column or cannot be told apart from it; absent where a
    column has one number only.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {cell: {} for cell in cells}
    for cell, told in _against(baseline, rows, columns, cells).items():
        found[cell] |= told
    for cell, told in _best(rows, columns, cells, errors).items():
        found[cell] |= told
    return found


def pairs(rows: Sequence[str], column: str, cells: Mapping[tuple[str, str], Robust]) -> list[tuple[str, str]]:
    """Every two rows with a number in a column."""
    return list(combinations([row for row in rows if (row, column) in cells], 2))


def _against(
    baseline: str, rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[str, str], Robust]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Every row against the baseline."""
    found = {}
    for column in columns:
        for row in rows:
            if row != baseline and (row, column) in cells and (baseline, column) in cells:
                found[row, column] = compare(cells[row, column].robust, cells[baseline, column].robust)
    adjusted = holm([one.p for one in found.values()])
    return {
        cell: {"difference": one.value, "difference_low": one.low, "difference_high": one.high, "p_baseline": p}
        for (cell, one), p in zip(found.items(), adjusted, strict=True)
    }


def _best(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], Robust],
    errors: Collection[str],
) -> dict[tuple[str, str], dict[str, Any]]:
    """Every row against the best of its column; of equal ones the first is the best."""
    tests = {(column, *two): 1.0 for column in columns for two in pairs(rows, column, cells)}
    for column, first, second in tests:
        tests[column, first, second] = p_equal(cells[first, column].robust, cells[second, column].robust)
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for column in dict.fromkeys(column for column, _, _ in tests):
        numbers = {row: cells[row, column].robust.mean() for row in rows if (row, column) in cells}
        best = (min if column in errors else max)(numbers, key=lambda row: numbers[row])  # the first of equals
        for row in numbers:
            p = adjusted.get((column, row, best), adjusted.get((column, best, row)))
            found[row, column] = {"best": True} if p is None else {"p_best": p, "best": p > 1 - LEVEL}
    return found
