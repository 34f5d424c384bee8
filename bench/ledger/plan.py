"""A plan: the exact list of a table's cells and of the records that hold them.

It is written before anything runs, and tables read only what it names, so a stale record is never averaged in.
`planning.py` makes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from bench.ground.config import UserError, choose
from bench.ground.files import read_json, write_json
from bench.ledger.folder import Results
from bench.ledger.ids import digest, is_id, slug
from bench.ledger.spec import Figure


@dataclass(frozen=True)
class Cell:
    """One number for one seed, and the records that hold it. recipe, attack: full names ("mat-digits");
    training, column_attack: the names in the table's TOML (`Row.training`, "pgd-100"). source, source_run_id: the
    method and the network that the attack is crafted on, where that is not the row's. at: the radius where the
    verdict is read off the record's distances, None is the attack's own.
    """

    row: str
    column: str
    seed: int
    run_id: str
    training_id: str
    eval_id: str
    recipe: str
    attack: str
    training: str
    column_attack: str
    member: int
    checkpoint: Literal["best", "last"]
    source: str = ""
    source_run_id: str | None = None
    at: float | None = None

    @property
    def networks(self) -> dict[str, str]:
        """Run id -> training of every network it takes, the one to craft on first."""
        crafted_on = {} if self.source_run_id is None else {self.source_run_id: self.source}
        return crafted_on | {self.run_id: self.training}


@dataclass(frozen=True)
class Certified:
    """What a column is the proven share of. column: the attack's column whose threat model it is; sigma: of the
    smoothed classifier, None is the network itself.
    """

    column: str
    norm: Literal["Linf", "L2"]
    eps: float
    sigma: float | None = None


@dataclass(frozen=True)
class Plan:
    """All that a table will be made of. budgets: column -> such as "Linf 8/255, 100 steps of 0.003".
    recipes, attacks: full name -> resolved settings. options: those of the evaluation. images: how many
    images of `split`. figure: its picture. validation_sha256: of the images that choose checkpoints.
    teachers: training id -> run id of the frozen network it learns from.
    unions, means: column -> the columns it is made of; it has no cells of its own. errors: column -> the one that it
    is 100 % minus of, None where no column is. hidden: columns that only a CSV has. published: column -> its name in
    the reference file. certified: column -> what it is the proven share of, None where no column is. baseline: the row
    that the others are tested against, or "". Raises ValueError where its parts do not fit each other: a plan is read
    from a folder that anybody may have written.
    """

    table: str
    name: str
    title: str
    source: str
    note: str
    reference: str
    dataset: str
    arch: str
    seeds: tuple[int, ...]
    images: int
    images_sha256: str
    rows: list[str]
    columns: list[str]
    cells: list[Cell]
    budgets: dict[str, str]
    recipes: dict[str, dict[str, Any]]
    attacks: dict[str, dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    teachers: dict[str, str] = field(default_factory=dict)
    unions: dict[str, list[str]] = field(default_factory=dict)
    means: dict[str, list[str]] = field(default_factory=dict)
    published: dict[str, str] = field(default_factory=dict)
    validation_sha256: str | None = None
    split: Literal["test", "validation"] = "test"
    figure: Figure | None = None
    baseline: str = ""
    certified: dict[str, Certified] | None = field(default=None, metadata={"since": 2})
    errors: dict[str, str] | None = field(default=None, metadata={"since": 3})
    hidden: list[str] | None = field(default=None, metadata={"since": 3})

    def __post_init__(self) -> None:
        for problem in _contradictions(self):
            raise ValueError(problem)

    def against(self, baseline: str) -> Plan:
        """The same table with its rows tested against another row. Raises UserError."""
        return replace(self, baseline=choose(baseline, self.rows, f"row of {self.name}"))

    @property
    def threats(self) -> set[tuple[str, float]]:
        """(norm, radius) of its attacks, all of those that have several; what is no distance is left out."""
        found = {(cell.attack, cell.at) for cell in self.cells}
        return {threat for name, at in found for threat in _threats(self.attacks[name]["settings"], at)}

    @property
    def proofs(self) -> dict[str, Certified]:
        """The columns that are proven shares."""
        return self.certified or {}

    @property
    def wrong(self) -> dict[str, str]:
        """The columns that are errors, of which less is better, and what each is the error of."""
        return self.errors or {}

    @property
    def shown(self) -> list[str]:
        """The columns that stand in a table."""
        return [column for column in self.columns if column not in (self.hidden or [])]

    def leaves(self, column: str) -> list[str]:
        """The attacks and unions whose plain mean a column is, or whose mean it is the error of; itself otherwise."""
        column = self.wrong.get(column, column)
        return [leaf for part in self.means.get(column, []) for leaf in self.leaves(part)] or [column]

    def attacked(self, column: str) -> list[str]:
        """The columns with cells that a column is made of, each once: itself, where it has them; of a proven share the
        one whose threat model it is.
        """
        if column in self.proofs:
            return [self.proofs[column].column]
        if column in self.wrong:
            return self.attacked(self.wrong[column])
        parts = self.unions.get(column) or self.means.get(column)
        if parts is None:
            return [column]
        return list(dict.fromkeys(leaf for part in parts for leaf in self.attacked(part)))


def _contradictions(plan: Plan) -> Iterator[str]:
    """What keeps the parts of a plan from being one table."""
    made_of = plan.unions | plan.means | {column: [how.column] for column, how in plan.proofs.items()}
    made_of |= {column: [of] for column, of in plan.wrong.items()}
    attacked = [column for column in plan.columns if column not in made_of]
    if not plan.seeds or plan.images < 1:
        yield "it has no seed or no image"
    if any(len(set(names)) < len(names) for names in (plan.rows, plan.columns, plan.seeds)):
        yield "a row, column or seed is there twice"
    if plan.baseline and plan.baseline not in plan.rows:
        yield f"its baseline {plan.baseline!r} is no row"
    if set(plan.budgets) != set(plan.columns) or not set(made_of) <= set(plan.columns):
        yield "its columns and what is said of them differ"
    if not {*(plan.hidden or [])} <= {*plan.columns} or not plan.shown:
        yield "what it hides is no column, or all"
    several = Counter(name for kind in (plan.unions, plan.means, plan.wrong) for name in kind)
    if any(how.column not in attacked or name in several for name, how in plan.proofs.items()):
        yield "a column is certified as one that is no attack"
    before, means = set[str](), set[str]()
    for column in plan.columns:
        parts = made_of.get(column)
        allowed = before | means if column in plan.means or column in plan.wrong else before
        if parts is not None and (several[column] > 1 or not parts or not allowed.issuperset(parts)):
            yield f"column {column!r} is not made of attacks and unions before it"
        elif len({len(plan.leaves(part)) for part in plan.means.get(column, [])}) > 1:
            yield f"column {column!r} is a mean of means of several sizes"
        means |= {column} & plan.means.keys()
        before |= set() if column in plan.means or column in plan.wrong or column in plan.proofs else {column}
    cells = Counter((cell.row, cell.column, cell.seed) for cell in plan.cells)
    if cells != Counter(product(plan.rows, attacked, plan.seeds)):
        yield "its cells are not one for each row, attack and seed"
    nameless = any(cell.attack not in plan.attacks or cell.recipe not in plan.recipes for cell in plan.cells)
    kinds = [(kind, "attack") for kind in plan.attacks.values()] + [(kind, "trainer") for kind in plan.recipes.values()]
    if nameless or not all(isinstance(kind.get(name), str) and _is_resolved(kind) for kind, name in kinds):
        yield "an attack or a recipe has no settings"
    elif any(cell.at is not None and "threat" not in plan.attacks[cell.attack]["settings"] for cell in plan.cells):
        yield "a cell has a radius that its attack does not have"
    if not all(cell.at is None or 0 <= cell.at < float("inf") for cell in plan.cells):
        yield "the radius of a cell is none"


def _is_resolved(kind: Mapping[str, Any]) -> bool:
    """Whether a resolved recipe or attack has the form that reports read."""
    settings, teacher = kind.get("settings"), kind.get("teacher", {"name": ""})
    if not isinstance(settings, dict) or not isinstance(teacher, dict) or "name" not in teacher:
        return False
    threat = settings.get("threat", {"norm": "", "eps": 0.0})
    if not isinstance(settings.get("schedule", {}), dict) or not isinstance(threat, dict):
        return False
    if not isinstance(threat.get("norm"), str):
        return False
    radii = [threat.get("eps"), *(settings[norm] for norm in ("linf", "l2", "l1") if norm in settings)]
    return all(isinstance(eps, int | float) for eps in radii)


def table_name(table: str) -> str:
    """Of a file the name without its folder, wherever it is given from; with a hash of it where letters are lost."""
    name = Path(table).stem if table.endswith(".toml") else table
    return slug(name) if name.isascii() else f"{slug(name)}-{digest({'table': name})}"


def _threats(settings: Mapping[str, Any], at: float | None) -> list[tuple[str, float]]:
    """(norm, radius) of an attack's settings; at: the radius where it is judged, instead of its own."""
    several = [(norm, float(settings[norm.lower()])) for norm in ("Linf", "L2", "L1") if norm.lower() in settings]
    threat = settings.get("threat")
    if several or not threat or threat["norm"] == "own":
        return several
    return [(threat["norm"], float(threat["eps"] if at is None else at))]


def write_plan(results: Results, plan: Plan) -> Path:
    """Writes atomically; returns the path. Raises UserError."""
    return write_json(results.plan(plan.name), plan)


def read_plan(results: Results, name: str) -> Plan:
    """Raises UserError when it is missing or broken."""
    choose(name, list_plans(results), f"planned table in {results.root}")
    if not is_id(name):  # such as a copy with (1) behind its name
        raise UserError(
            f"{results.root / 'plans' / name}.json: {name!r} is no name of a plan; delete it, or move it away"
        )
    plan = read_json(results.plan(name), Plan)
    if plan.name != name:
        path = results.plan(name)
        raise UserError(f"{path}: its name is {plan.name!r}, not {name!r}; delete it and run again")
    return plan


def plans_of(name: str, results: Results) -> list[str]:
    """Those on disk that are meant: `table2`, or the file of a table, is every plan of it; `table2-digits` is one."""
    table = table_name(name)
    return [one for one in list_plans(results) if one == name or one.startswith(f"{table}-")]


def meant(names: Sequence[str], results: Results) -> list[Plan]:
    """The plans on disk that are meant, each once: `table2` is every plan of that table, `table2-digits` is one; all
    where no name is given. Raises UserError.
    """
    known = list_plans(results)
    if not known:
        raise UserError(f"no table has been run in {results.root}; start with `bench run table2`")
    chosen: list[str] = []
    for name in names or known:
        chosen += plans_of(name, results) or [choose(name, known, "planned table")]
    return [read_plan(results, name) for name in dict.fromkeys(chosen)]


def list_plans(results: Results) -> list[str]:
    """Names of the plans on disk."""
    return sorted(path.stem for path in (results.root / "plans").glob("[!.]*.json"))
