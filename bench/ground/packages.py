"""What installed packages bring, by their entry points: found without importing anything, so that a broken package
costs nobody anything who does not ask for it.

A package names its things in five groups; the value of an attack, a method, a model and a data set is `module:name`,
that of a table the package that `NAME.toml` lies in.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from bench.ground import terminal
from bench.ground.config import UserError

Kind = Literal["attack", "trainer", "model", "dataset", "table"]
GROUPS: dict[Kind, str] = {
    "attack": "bench.attacks",
    "trainer": "bench.trainers",
    "model": "bench.models",
    "dataset": "bench.datasets",
    "table": "bench.tables",
}
_used: dict[str, str] = {}


@dataclass(frozen=True)
class Entry:
    """One thing of one package. value: where in the package it is."""

    kind: Kind
    name: str
    value: str
    package: str
    version: str

    @property
    def origin(self) -> str:
        """The package and its version, as in "toy-robust 0.1"."""
        return f"{self.package} {self.version}"

    @property
    def words(self) -> str:
        """As sentences call it."""
        return f"{self.kind} {self.name!r} of {self.origin} ({self.value})"


def entries(kind: Kind) -> Mapping[str, tuple[Entry, ...]]:
    """Name -> who has one of that name, of all packages that are installed here."""
    return _entries(kind, tuple(sys.path))


@lru_cache(maxsize=32)
def _entries(kind: Kind, path: tuple[str, ...]) -> Mapping[str, tuple[Entry, ...]]:
    found: dict[str, tuple[Entry, ...]] = {}
    for point in entry_points(group=GROUPS[kind]):
        package = ("unknown", "") if point.dist is None else (point.dist.name, point.dist.version)
        found[point.name] = (*found.get(point.name, ()), Entry(kind, point.name, point.value, *package))
    return {name: tuple(sorted(several, key=lambda one: one.package)) for name, several in found.items()}


def find(kind: Kind, name: str) -> Entry | None:
    """The one of that name; None where no package has it. Raises UserError where several have."""
    found = entries(kind).get(name, ())
    if len(found) > 1:
        raise UserError(
            f"{kind} {name!r} is in {' and in '.join(one.origin for one in found)}; uninstall one of them"
            + ("" if kind == "table" else f", or say which is meant by its code, {found[0].value}")
        )
    return found[0] if found else None


def say_hidden(kind: Kind, name: str) -> None:
    """Says where a package has a name that is ours, and so is not what is taken."""
    for one in entries(kind).get(name, ()):
        means = "" if kind == "table" else f"; theirs is {one.value}"
        terminal.warn_once(
            f"{kind} {name!r} is the suite's own and not that of {one.origin}, which has the same name{means}"
        )


def use(entry: Entry) -> None:
    """Says that a record made from now on rests on this package."""
    _used[entry.package] = entry.version


def used() -> dict[str, str]:
    """The packages that were asked for something in this process, and their versions."""
    return dict(_used)


def table_file(entry: Entry) -> Path:
    """The TOML of a table, which lies in a package that is not imported. Raises UserError."""
    top, *below = entry.value.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        spec = None
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder, *below, f"{entry.name}.toml")
        if path.is_file():
            return path
    raise UserError(
        f"{entry.words}: there is no file {entry.name}.toml in the package {entry.value}; as package data it is "
        "installed with it (docs/extend.md)"
    )
