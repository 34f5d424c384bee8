"""Labels as people store them -> class numbers from 0, int64; or one sentence where that would be a guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bench.ground.config import UserError

MOST = 1000  # classes, or as many as there are images: more are believed only if --classes says so
MANY = "give --classes N if that is so"


class Labelled(NamedTuple):
    """y: part of the data set -> [N] int64 in 0..classes - 1. names: of the classes, in their order; () is unknown."""

    y: dict[str, np.ndarray]
    classes: int
    names: tuple[str, ...]


def read_labels(
    raw: Mapping[str, np.ndarray], where: str, classes: int | None = None, names: tuple[str, ...] = ()
) -> Labelled:
    """raw: part -> labels as they were found: whole numbers from 0 (also as floats, or in a column), rows with a single
    1, or texts, whose classes are counted in the order of the texts. names: of the classes, where they are known.

    classes: how many there are; None is as many as the labels show. Raises UserError.
    """
    plain = {part: _one_each(np.asarray(values), f"{where}, labels") for part, values in raw.items()}
    texts = [values.dtype.kind in "US" for values in plain.values()]
    if any(texts) and not all(texts):
        raise UserError(f"{where}: labels are text in one part and numbers in another")
    if any(texts):
        names = tuple(sorted({str(value) for values in plain.values() for value in np.unique(values)}))
        plain = {part: np.searchsorted(names, values.astype(str)) for part, values in plain.items()}
    shown = _shown(plain, where, classes, bool(names))
    found = classes or len(names) or shown
    if shown > found:
        raise UserError(f"{where}: label {shown - 1} is beyond the {found} classes; they are counted from 0")
    if found < 2:
        raise UserError(f"{where}: there is one class only, so nothing can be told apart; give --classes N if not so")
    return Labelled({part: values.astype(np.int64) for part, values in plain.items()}, found, names)


def _one_each(values: np.ndarray, where: str) -> np.ndarray:
    """One label for each image, as whole numbers or texts [N]. Raises UserError."""
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values.ravel()):
        values = values.astype(str)
    if values.ndim == 2 and values.shape[1] == 1:  # as MedMNIST stores them
        values = values[:, 0]
    if values.dtype.kind in "US" and values.ndim == 1:
        return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
    if values.dtype.kind not in "biuf" or values.ndim not in (1, 2):
        raise UserError(f"{where}: {values.dtype} of shape {values.shape} is not one whole number or text an image")
    if not np.isfinite(values).all() or (values != np.floor(values.astype(float))).any():
        odd = values[~(np.isfinite(values) & (values == np.floor(values.astype(float))))].ravel()[0]
        raise UserError(f"{where}: {odd:g} is no class; labels are whole numbers from 0")
    if values.ndim == 2:
        one_hot = (values.sum(1) == 1).all() and values.min() >= 0
        if not one_hot:
            raise UserError(
                f"{where}: shape {values.shape}, and not a single 1 in each row; one label an image is needed"
            )
        return values.argmax(1)
    return values


def _shown(plain: Mapping[str, np.ndarray], where: str, classes: int | None, named: bool) -> int:
    """How many classes the numbers show. Raises UserError for numbers that are no classes counted from 0."""
    filled = [values for values in plain.values() if len(values)]
    if not filled:
        raise UserError(f"{where}: there is no image")
    low, high = min(int(values.min()) for values in filled), max(int(values.max()) for values in filled)
    if low < 0:
        raise UserError(f"{where}: label {low} is below 0; an image without a class has to be left out")
    if low == 1 and not named and (classes is None or high == classes):
        raise UserError(
            f"{where}: labels run from 1 to {high}, and classes are counted from 0; subtract 1, or give --classes N "
            f"with N above {high} if only images of class 0 are missing"
        )
    images = sum(len(values) for values in filled)
    if classes is None and not named and high >= max(MOST, images):
        raise UserError(f"{where}: labels reach {high}, so there would be {high + 1} classes; {MANY}")
    return high + 1
