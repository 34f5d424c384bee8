"""`--labels FILE`: which places of a network's head stand for the classes of the data set.

As text a line for each class, in the data set's order, with the number of its logit, or several numbers of which the
largest logit counts; what follows a # is a comment. As JSON a list of the same, or an object from the class to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.ground.config import UserError, check_depth
from bench.ground.plain import TEXT, read_plain
from bench.subjects.outputs import Labels

HOW = "write a line for each class of the data set, in its order, with the number of its logit"


def read_labels(path: Path, classes: int) -> Labels:
    """For each class the places in the head, each of one class alone. Raises UserError."""
    try:
        text = read_plain(path, TEXT).decode()
        rows = _json(text) if path.suffix == ".json" else _lines(text)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"cannot read labels from {path} ({type(error).__name__}: {error}); {HOW}") from error
    if len(rows) != classes:
        raise UserError(f"{path} has labels for {len(rows)} classes, and the data set has {classes}; {HOW}")
    empty = next((k for k, places in enumerate(rows) if not places), None)
    if empty is not None:
        raise UserError(f"{path}: class {empty} has no number; {HOW}")
    seen: dict[int, int] = {}
    for k, places in enumerate(rows):
        for place in places:
            if place < 0:
                raise UserError(f"{path}: {place} of class {k} is no place in a head, which count from 0")
            if place in seen:
                raise UserError(f"{path}: logit {place} stands for class {seen[place]} and for class {k}")
            seen[place] = k
    return rows


def _lines(text: str) -> list[list[int]]:
    lines = [line.partition("#")[0].replace(",", " ").split() for line in text.splitlines() if line.strip()]
    return [[int(word) for word in words] for words in lines if words]


def _json(text: str) -> list[list[int]]:
    content = json.loads(text)
    check_depth(content)
    if isinstance(content, dict):
        content = [content[str(k)] for k in range(len(content))]
    return [[_place(one) for one in (places if isinstance(places, list) else [places])] for places in content]


def _place(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value
