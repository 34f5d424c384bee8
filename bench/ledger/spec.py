"""What a table holds, from its TOML: rows, columns and where it can be run. Names only, no code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from bench.ground import packages
from bench.ground.config import UserError, build, choose, read_toml

CLEAN = "clean"  # the column without an attack
SEVERITIES = 5  # of a corruption
SECTIONS = ("schedules", "recipes", "methods", "profiles", "attacks", "suites")  # a table may bring some of its own


@dataclass(frozen=True)
class Row:
    """One network of a table. member: which network of the cohort, from 0. ensemble: the mean of the cohort's networks
    instead of one of them. set: what the row changes of its method's recipe, such as { alpha = 0.2 } or
    { inner = { start = "gaussian" } }.
    """

    label: str
    method: str
    member: int = 0
    checkpoint: Literal["best", "last"] = "best"
    ensemble: bool = False
    set: dict[str, Any] = field(default_factory=dict)

    @property
    def training(self) -> str:
        """The method, and what is changed of its recipe: "mat", "mat alpha=0.2"."""
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.set.items())])


@dataclass(frozen=True)
class Column:
    """One attack of a table, or what is made of the columns before it: of attack, union, mean, error and certified it
    has one.

    attack: by the name it has without a profile; "clean" is none. source, source_member: the attack is crafted on
    this method's network (member as in Row; the row's seed and checkpoint) and judged on the row's. at: the verdict
    is read at this radius, in the norm's image units, off the distances in the record of a minimal-norm attack,
    which is not run again. union: labels of columns; an image counts if it counts in each. mean: labels of columns;
    their plain mean, of means of as many columns
    each too. error: label of a column; 100 % minus it. hidden: it is in the CSV of a report, and not in the table.
    certified: the label of an attack's column: the share of images that `bench certify` proves within
    the threat model of that one; smoothing: not of the network but of the classifier that it is when smoothed with this
    sigma. published: the column's name in the reference file, where that is not the attack's; only of what the paper
    measured too. slow: `--fast` leaves it out. Raises ValueError.
    """

    label: str
    attack: str = ""
    source: str = ""
    source_member: int = 0
    at: float | None = None
    union: tuple[str, ...] = ()
    mean: tuple[str, ...] = ()
    error: str = ""
    certified: str = ""
    smoothing: float | None = None
    published: str = ""
    slow: bool = False
    hidden: bool = False

    def __post_init__(self) -> None:
        if sum(bool(kind) for kind in (self.attack, self.union, self.mean, self.error, self.certified)) != 1:
            raise ValueError(f"column {self.label!r} needs one of attack, union, mean, error and certified")
        if self.smoothing is not None and (not self.certified or self.smoothing <= 0):
            raise ValueError(f"column {self.label!r}: smoothing is a sigma above 0, and goes with certified")
        if (self.source or self.at is not None) and self.attack in ("", CLEAN):
            raise ValueError(f"column {self.label!r}: source and at go with an attack")
        if self.source_member < 0 or (self.source_member and not self.source):
            raise ValueError(f"column {self.label!r}: source_member is a network of a source, from 0")
        if self.at is not None and self.at < 0:
            raise ValueError(f"column {self.label!r}: at = {self.at:g} is no radius")
        if len(self.parts) == 1 or len(set(self.parts)) < len(self.parts):
            raise ValueError(f"column {self.label!r} is made of at least two columns, each once")

    @property
    def parts(self) -> tuple[str, ...]:
        """Labels of the columns that this one is made of."""
        return self.union or self.mean


@dataclass(frozen=True)
class Figure:
    """The picture of a table, see `bench.tables.figures`.

    kind: "bars", a bar for each row and column; "radius", lines of the rows against the radii of columns with `at` (no
    attack is radius 0); "sweep", lines against the setting `over` that the rows change; "cost", the rows in `column`
    against what their training took; "overlap", which images each two of `rows` get right and wrong, on the same
    images: those of `column`, or of every column with a source.
    """

    kind: Literal["bars", "radius", "sweep", "cost", "overlap"]
    column: str = ""
    rows: tuple[str, ...] = ()
    over: str = ""

    def __post_init__(self) -> None:
        if self.kind != "overlap" and (self.kind == "cost") != bool(self.column):
            raise ValueError(f"a figure of kind {self.kind!r} {'has no' if self.column else 'names its'} column")
        fitting = len(set(self.rows)) == len(self.rows) >= 2 if self.kind == "overlap" else not self.rows
        if not fitting:
            raise ValueError("a figure of kind 'overlap' names two rows or more, and no other kind names rows")
        if (self.kind == "sweep") != bool(self.over):
            raise ValueError("a figure of kind 'sweep' names the setting it is over, and no other kind does")


@dataclass(frozen=True)
class Setting:
    """Where a table can be run. profile: suffix of the names of recipes, and of attacks unless
    attack_profile says another ("" is none); it can be asked for. dataset, arch: what is used unless the user asks for
    others that the patterns match. images: the first so many test images, None is all. note: printed under the
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

    def recipe(self, training: str) -> str:
        """ "mat" -> "mat-digits", "mat alpha=0.2" -> "mat-digits alpha=0.2"."""
        method, *changes = training.split(" ", 1)
        return " ".join([f"{method}-{self.profile}", *changes])

    def attack(self, attack: str) -> str:
        """ "pgd-100" -> "pgd-100-digits"; "clean" stays."""
        suffix = self.profile if self.attack_profile is None else self.attack_profile
        return f"{attack}-{suffix}" if suffix and attack != CLEAN else attack

    def short(self, attack: str) -> str:
        """ "pgd-100-digits" -> "pgd-100", as tables name attacks; what has no such end stays."""
        return attack.removesuffix(self.attack(""))

    def fits(self, dataset: str | None, arch: str | None) -> bool:
        """Whether the patterns match; None matches."""
        return _any(dataset, self.datasets) and _any(arch, self.archs)


@dataclass(frozen=True)
class TableSpec:
    """What a table holds: names only. reference: file and table number of the published values, or "". split: the
    images it is measured on; "validation" is for tables that something is chosen by. figure: its picture. baseline:
    label of the row that the others are tested against, or "".
    """

    title: str
    source: str
    reference: str
    rows: list[Row]
    columns: list[Column]
    settings: list[Setting]
    split: Literal["test", "validation"] = "test"
    figure: Figure | None = None
    baseline: str = ""

    def __post_init__(self) -> None:
        for what, items in (("row", self.rows), ("column", self.columns)):
            labels = [item.label for item in items]
            if not labels or len(set(labels)) < len(labels):
                raise ValueError(f"a table needs {what}s, each with a label of its own")
        if not self.settings or not all(s.seeds for s in self.settings):
            raise ValueError("a table needs at least one setting, and each setting a seed")
        if self.baseline and self.baseline not in [row.label for row in self.rows]:
            raise ValueError(f"the baseline is {self.baseline!r}, which is no row of the table")
        self._check_figure()
        before, attacks, means = set[str](), set[str](), dict[str, int]()
        for column in self.columns:
            allowed = before | means.keys() if column.mean or column.error else before
            if unknown := [part for part in (column.error, *column.parts) if part and part not in allowed]:
                raise ValueError(
                    f"column {column.label!r} is made of {unknown[0]!r}, which is no union and no attack before it"
                )
            if len(sizes := {means.get(part, 1) for part in column.mean}) > 1:
                raise ValueError(f"column {column.label!r} is a mean of means of {min(sizes)} and {max(sizes)} columns")
            means |= {column.label: len(column.mean) * means.get(column.mean[0], 1)} if column.mean else {}
            if column.certified and column.certified not in attacks:
                raise ValueError(f"column {column.label!r} is certified as {column.certified!r}, no attack before it")
            before |= set() if column.mean or column.error or column.certified else {column.label}
            attacks |= {column.label} if column.attack not in ("", CLEAN) else set()

    def _check_figure(self) -> None:
        """Raises ValueError for a figure of a row or column that the table lacks."""
        drawn = self.figure
        if drawn is None:
            return
        if drawn.column and drawn.column not in [column.label for column in self.columns]:
            raise ValueError(f"the figure is of column {drawn.column!r}, which the table lacks")
        if unknown := set(drawn.rows) - {row.label for row in self.rows}:
            raise ValueError(f"the figure is of row {min(unknown)!r}, which the table lacks")
        if drawn.over and not any(drawn.over in row.set for row in self.rows):
            raise ValueError(f"the figure is over {drawn.over!r}, which no row sets")
        if drawn.kind == "overlap":
            self._check_overlap(drawn)

    def _check_overlap(self, drawn: Figure) -> None:
        """Raises ValueError where the rows' predictions would be on different images."""
        if not drawn.column and not self.transfers:
            raise ValueError("the figure compares rows on the same images, but the table has no column with a source")
        if len({row.checkpoint for row in self.rows if row.label in drawn.rows}) > 1:
            raise ValueError(
                "the figure is of rows of several checkpoints; a source has that of the row, so images differ"
            )
        column = next((one for one in self.columns if one.label == drawn.column), None)
        if column is None or column.attack == CLEAN or column in self.transfers:
            return
        reason = "has other images for every row; name one with a source"
        reason = "is made of others; name an attack" if column.parts else reason
        reason = "is read at a radius; name one that is not" if column.source else reason
        raise ValueError(f"the figure compares predictions on the same images, but column {drawn.column!r} {reason}")

    @property
    def transfers(self) -> list[Column]:
        """The columns whose images are crafted on one network for all rows, judged as they are."""
        return [column for column in self.columns if column.source and column.at is None]

    @property
    def trainings(self) -> dict[str, Row]:
        """Every training whose networks the table needs, as its rows or to craft on, and a row that says which."""
        sources = [Row(column.label, column.source) for column in self.columns if column.source]
        return {row.training: row for row in [*self.rows, *sources]}

    @property
    def attacks(self) -> list[str]:
        """Every attack that the table needs."""
        return list(dict.fromkeys(column.attack for column in self.columns if column.attack))

    def without_slow(self) -> TableSpec:
        """Without its slow columns and what is made or drawn of them; the title says which. A union that lacks attacks
        is not the published one. Raises UserError.
        """
        slow = [column.label for column in self.columns if column.slow]
        if not slow:
            raise UserError(f"{self.title!r} has no slow columns to leave out; run it without --fast")
        touched, kept = set(slow), []
        try:
            for column in (one for one in self.columns if not one.slow and not {one.certified, one.error} & {*slow}):
                if touched.intersection(column.parts):
                    touched.add(column.label)
                    union, mean = _others(column.union, slow), _others(column.mean, slow)
                    column = replace(column, union=union, mean=mean, published="")
                kept.append(column)
        except ValueError as error:
            raise UserError(f"{self.title!r} cannot be without its slow columns: {error}") from error
        title = f"{self.title} (fast: without {', '.join(slow)})"
        return replace(self, title=title, columns=kept, figure=self._drawn_of({column.label for column in kept}))

    def _drawn_of(self, labels: set[str]) -> Figure | None:
        """The figure, where these columns are enough for it."""
        figure = self.figure
        if figure is None or (figure.kind == "overlap" and not figure.column):
            return figure if labels.intersection(column.label for column in self.transfers) else None
        return figure if not figure.column or figure.column in labels else None

    def of_last_epochs(self) -> TableSpec:
        """The table of every training's last epoch in place of its best one; the title says so."""
        rows = [replace(row, checkpoint="last") for row in self.rows]
        return replace(self, title=f"{self.title} (last epochs)", rows=rows)

    def with_attacks(self, names: Sequence[str]) -> TableSpec:
        """With a column for each of these attacks, behind its own; the title says which. Raises UserError."""
        for name in names:
            if has := [column.label for column in self.columns if name in (column.label, column.attack)]:
                raise UserError(f"{self.title!r} has {name} already, as column {has[0]!r}; leave out --also {name}")
        columns = [*self.columns, *(Column(name, name) for name in names)]
        return replace(self, title=f"{self.title} (also {', '.join(names)})", columns=columns)

    def choose_setting(
        self, dataset: str | None = None, arch: str | None = None, profile: str | None = None
    ) -> Setting:
        """The first setting that fits, or of those with this profile. Raises UserError."""
        if profile is not None:
            choose(profile, {setting.profile for setting in self.settings}, "profile")
        offered = [setting for setting in self.settings if profile in (None, setting.profile)]
        for setting in offered:
            if setting.fits(dataset, arch):
                return setting
        known = "; ".join(f"{s.profile}: {' '.join(s.datasets)} with {' '.join(s.archs)}" for s in offered)
        asked = f"data set {dataset or 'any'!r} and architecture {arch or 'any'!r}"
        asked += "" if profile is None else f" in profile {profile!r}"
        raise UserError(f"{self.title!r} has no setting for {asked}; it has {known}")

    def variant(self, setting: Setting, dataset: str, arch: str) -> str:
        """What the name of a plan ends in where its setting is not the one that is taken unasked: "-paper"."""
        return "" if setting == self.choose_setting(dataset, arch) else f"-{setting.profile}"


def list_specs() -> list[str]:
    """Names of the tables that come with the package."""
    return sorted(path.stem for path in _specs().glob("*.toml"))


def load_spec(name: str) -> TableSpec:
    """A table by name, of ours or of an installed package, or by the path of a TOML file. Raises UserError."""
    path = table_path(name)
    about = {key: value for key, value in read_toml(path).items() if key not in SECTIONS}
    if isinstance(about.get("columns"), list):
        about["columns"] = [one for column in about["columns"] for one in _severities(column)]
    return build(TableSpec, about, str(path.name))


def sections_of(path: Path) -> dict[str, Any]:
    """The recipes, attacks and suites that a table's TOML brings of its own, by section. Raises UserError."""
    return {key: value for key, value in read_toml(path).items() if key in SECTIONS}


def table_path(name: str) -> Path:
    """Where the TOML of a table lies. Raises UserError."""
    if name.endswith(".toml"):
        return Path(name)
    if name in list_specs():
        packages.say_hidden("table", name)
        return _specs() / f"{name}.toml"
    entry = packages.find("table", name)
    if entry is None:
        choose(name, {*list_specs(), *packages.entries("table")}, "table")
    assert entry is not None
    packages.use(entry)
    return packages.table_file(entry)


def _severities(column: Any) -> list[Any]:
    """A column `{ label = "Fog", severities = "c-fog" }` is the mean of the attacks c-fog-1 to c-fog-5, each a hidden
    column; any other is itself.
    """
    if not isinstance(column, dict) or not isinstance(of := column.get("severities"), str):
        return [column]
    label, more = column.get("label"), {key: value for key, value in column.items() if key != "severities"}
    each = [{"label": f"{label} {n}", "attack": f"{of}-{n}", "hidden": True} for n in range(1, SEVERITIES + 1)]
    return [*each, more | {"mean": [one["label"] for one in each]}]


def _specs() -> Path:
    return Path(str(files("bench.ledger") / "specs"))


def _others(labels: tuple[str, ...], dropped: list[str]) -> tuple[str, ...]:
    return tuple(label for label in labels if label not in dropped)


def _any(name: str | None, patterns: Iterable[str]) -> bool:
    return name is None or any(fnmatchcase(name, pattern) for pattern in patterns)
