"""What a table holds, from its TOML: rows, columns and where it can be run. Names only, no code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Literal

from bench.config import UserError, build, choose, read_toml

CLEAN = "clean"  # the column without an attack


@dataclass(frozen=True)
class Row:
    """One network of a table. member: which network of the cohort, from 0."""

    label: str
    method: str
    member: int = 0
    checkpoint: Literal["best", "last"] = "best"


@dataclass(frozen=True)
class Column:
    """One attack of a table, by the name it has without a profile; "clean" is none."""

    label: str
    attack: str


@dataclass(frozen=True)
class Setting:
    """Where a table can be run. profile: suffix of the names of recipes, and of attacks unless
    attack_profile says another ("" is none). dataset, arch: what is used unless the user asks for others
    that the patterns match. images: the first so many test images, None is all. note: printed under the
    table.
    """

    profile: str
    arch: str
    dataset: str
    datasets: tuple[str, ...]
    archs: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    images: int | None = None
    note: str = ""
    attack_profile: str | None = None

    def recipe(self, method: str) -> str:
        """ "mat" -> "mat-digits"."""
        return f"{method}-{self.profile}"

    def attack(self, attack: str) -> str:
        """ "pgd-100" -> "pgd-100-digits"; "clean" stays."""
        suffix = self.profile if self.attack_profile is None else self.attack_profile
        return f"{attack}-{suffix}" if suffix and attack != CLEAN else attack

    def fits(self, dataset: str | None, arch: str | None) -> bool:
        """Whether the patterns match; None matches."""
        return _any(dataset, self.datasets) and _any(arch, self.archs)


@dataclass(frozen=True)
class TableSpec:
    """What a table holds: names only. reference: file and table number of the published values, or ""."""

    title: str
    source: str
    reference: str
    rows: list[Row]
    columns: list[Column]
    settings: list[Setting]

    def __post_init__(self) -> None:
        for what, items in (("row", self.rows), ("column", self.columns)):
            labels = [item.label for item in items]
            if not labels or len(set(labels)) < len(labels):
                raise ValueError(f"a table needs {what}s, each with a label of its own")
        if not self.settings or not all(s.seeds for s in self.settings):
            raise ValueError("a table needs at least one setting, and each setting a seed")

    def choose_setting(self, dataset: str | None = None, arch: str | None = None) -> Setting:
        """The first setting that fits. Raises UserError."""
        for setting in self.settings:
            if setting.fits(dataset, arch):
                return setting
        known = "; ".join(f"{' '.join(s.datasets)} with {' '.join(s.archs)}" for s in self.settings)
        asked = f"data set {dataset or 'any'!r} and architecture {arch or 'any'!r}"
        raise UserError(f"{self.title!r} has no setting for {asked}; it has {known}")


def list_specs() -> list[str]:
    """Names of the tables that come with the package."""
    return sorted(path.stem for path in _specs().glob("*.toml"))


def load_spec(name: str) -> TableSpec:
    """A table by name, or by the path of a TOML file. Raises UserError."""
    path = Path(name) if name.endswith(".toml") else _specs() / f"{choose(name, list_specs(), 'table')}.toml"
    return build(TableSpec, read_toml(path), str(path.name))


def _specs() -> Path:
    return Path(str(files("bench") / "specs"))


def _any(name: str | None, patterns: Iterable[str]) -> bool:
    return name is None or any(fnmatchcase(name, pattern) for pattern in patterns)
