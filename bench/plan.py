"""A table's TOML -> the exact list of cells and the files that hold them.

An id is readable words and then a hash of everything that can change the result. The plan is written before
anything runs, and tables read only what it names, so a stale record is never averaged in. What the recipes
and attacks resolve to (all defaults included) is an argument: it is known on the other side of the wall,
and is hashed here as plain data.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from bench.config import UserError, choose
from bench.files import read_json, write_json
from bench.records import Results, is_id, training_of
from bench.spec import CLEAN, Column, Figure, Row, Setting, TableSpec

EVAL_SEED = 0  # of the noise of a table's attacks
NAME_SHOWN = 120  # letters; a file name holds 255
MOST_LEVELS = 32  # of 255: larger radii are not written as levels
_NORMS = {"own": "own measure"}


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
class Plan:
    """All that a table will be made of. budgets: column -> such as "Linf 8/255, 100 steps of 0.003".
    recipes, attacks: full name -> resolved settings. options: those of the evaluation. images: how many
    images of `split`. figure: its picture. validation_sha256: of the images that choose checkpoints.
    teachers: training id -> run id of the frozen network it learns from.
    unions, means: column -> the columns it is made of; it has no cells of its own. published: column -> its name in
    the reference file. baseline: the row that the others are tested against, or "". Raises ValueError where its parts
    do not fit each other: a plan is read from a folder that anybody may have written.
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

    def attacked(self, column: str) -> list[str]:
        """The columns with cells that a column is made of, each once: itself, where it has them."""
        parts = self.unions.get(column) or self.means.get(column)
        if parts is None:
            return [column]
        return list(dict.fromkeys(leaf for part in parts for leaf in self.attacked(part)))


def _contradictions(plan: Plan) -> Iterator[str]:
    """What keeps the parts of a plan from being one table."""
    made_of = plan.unions | plan.means
    attacked = [column for column in plan.columns if column not in made_of]
    if not plan.seeds or plan.images < 1:
        yield "it has no seed or no image"
    if any(len(set(names)) < len(names) for names in (plan.rows, plan.columns, plan.seeds)):
        yield "a row, column or seed is there twice"
    if plan.baseline and plan.baseline not in plan.rows:
        yield f"its baseline {plan.baseline!r} is no row"
    if set(plan.budgets) != set(plan.columns) or not set(made_of) <= set(plan.columns):
        yield "its columns and what is said of them differ"
    before: set[str] = set()
    for column in plan.columns:
        parts, both = made_of.get(column), column in plan.unions and column in plan.means
        if parts is not None and (both or not parts or not before.issuperset(parts)):
            yield f"column {column!r} is not made of attacks and unions before it"
        before |= set() if column in plan.means else {column}
    cells = Counter((cell.row, cell.column, cell.seed) for cell in plan.cells)
    if cells != Counter(product(plan.rows, attacked, plan.seeds)):
        yield "its cells are not one for each row, attack and seed"
    nameless = any(cell.attack not in plan.attacks or cell.recipe not in plan.recipes for cell in plan.cells)
    if nameless or not all(map(_is_resolved, [*plan.attacks.values(), *plan.recipes.values()])):
        yield "an attack or a recipe has no settings"
    elif any(cell.at is not None and "threat" not in plan.attacks[cell.attack]["settings"] for cell in plan.cells):
        yield "a cell has a radius that its attack does not have"


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


def digest(*parts: Any) -> str:
    """8 hexadecimal digits of the SHA-256 of the parts as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def training_id(trainer: str, dataset: str, arch: str, seed: int, identity: Mapping[str, Any]) -> str:
    """Such as "mat-cifar10-resnet18-s0-3f9c2a1b". identity: all that can change the result."""
    return f"{_slug(trainer)}-{_slug(dataset)}-{_slug(arch)}-s{seed}-{digest(identity)}"


def run_id(training: str, member: int, members: int, checkpoint: str) -> str:
    """ "<training_id>.best" for one network, "<training_id>.h1-best" for the first of several, "<training_id>.all-best"
    (member = members) for their ensemble.
    """
    if members == 1:
        return f"{training}.{checkpoint}"
    return f"{training}.all-{checkpoint}" if member == members else f"{training}.h{member + 1}-{checkpoint}"


def eval_id(attack: str, images: int, identity: Mapping[str, Any]) -> str:
    """Such as "pgd-100-digits-n450-1a2b3c4d". identity: all that can change the result; of a long name the beginning is
    shown, and all of it is hashed.
    """
    return f"{_slug(attack)[:NAME_SHOWN].rstrip('-_')}-n{images}-{digest(identity)}"


def training_identity(
    recipe: Mapping[str, Any], dataset: str, train_sha256: str, arch: str, seed: int
) -> dict[str, Any]:
    """What a training's hash is taken of: the recipe, the data and, of a frozen teacher, the run id.

    recipe: resolved, {"trainer", "version", "settings"} and, where it has them, "archs" and "teacher".
    """
    own = {key: recipe[key] for key in ("trainer", "version", "settings")}
    identity = {**own, "dataset": dataset, "train_sha256": train_sha256, "arch": arch_of(recipe, arch), "seed": seed}
    teacher = teacher_of(recipe, dataset, train_sha256, arch, seed)
    return identity if teacher is None else identity | {"teacher": teacher}


def arch_of(recipe: Mapping[str, Any], arch: str) -> str:
    """The architecture of a recipe's cohort: `arch`, or those that it names itself, as "cnn-small+resnet8"."""
    return "+".join(recipe.get("archs") or [arch])


def training_of_recipe(recipe: Mapping[str, Any], dataset: str, train_sha256: str, arch: str, seed: int) -> str:
    """The training id of a resolved recipe."""
    identity = training_identity(recipe, dataset, train_sha256, arch, seed)
    return training_id(recipe["trainer"], dataset, arch_of(recipe, arch), seed, identity)


def teacher_of(recipe: Mapping[str, Any], dataset: str, train_sha256: str, arch: str, seed: int) -> str | None:
    """The run id of a resolved recipe's frozen teacher, None where it has none: of the same data and seed."""
    teacher = recipe.get("teacher")
    if teacher is None:
        return None
    training = training_of_recipe(teacher["recipe"], dataset, train_sha256, teacher["arch"] or arch, seed)
    return run_id(training, teacher["member"], teacher["members"], "best")


def eval_identity(
    attack: Mapping[str, Any],
    name: str,
    images_sha256: str,
    seed: int,
    options: Mapping[str, Any],
    source: str | None = None,
) -> dict[str, Any]:
    """What an evaluation's hash is taken of. name is in it because the attack's noise is drawn from it.

    source: the run id of the network that the attack is crafted on, where that is not the one it is judged on.
    """
    identity = {**attack, "name": name, "images_sha256": images_sha256, "seed": seed, "options": dict(options)}
    return identity if source is None else identity | {"source": source}


def make(
    spec: TableSpec,
    setting: Setting,
    *,
    table: str,
    dataset: str,
    arch: str,
    seeds: Sequence[int],
    images: int,
    images_sha256: str,
    train_sha256: str,
    recipes: Mapping[str, dict[str, Any]],
    attacks: Mapping[str, dict[str, Any]],
    members: Mapping[str, int],
    eval_options: Mapping[str, Any],
    validation_sha256: str | None = None,
    variant: str = "",
) -> Plan:
    """The plan of one table.

    recipes, members: by `TableSpec.trainings`; resolved (see `training_identity`), and how many networks it trains.
    attacks: by Column.attack without "clean"; {"attack", "version", "settings"}. variant: what the name ends in where
    the spec is not the table's own. Raises UserError for a row or a source whose network the recipe does not train.
    """
    attacks = {CLEAN: {"attack": CLEAN, "version": 1, "settings": {}}} | dict(attacks)

    def network(row: Row, seed: int) -> str:
        return _run(row, seed, recipes[row.training], members[row.training], dataset, train_sha256, arch)

    def evaluation(column: Column, source: str | None) -> str:
        full, attack = setting.attack(column.attack), attacks[column.attack]
        return eval_id(full, images, eval_identity(attack, full, images_sha256, EVAL_SEED, eval_options, source))

    cells = []
    for row, seed in product(spec.rows, dict.fromkeys(seeds)):
        run = network(row, seed)
        for column in spec.columns:
            if column.attack:
                source = network(_source(column, row), seed) if column.source else None
                cells.append(_cell(setting, row, column, seed, run, evaluation(column, source), source))
    return Plan(
        table=table,
        name=plan_name(table, spec, dataset, arch) + variant,
        title=spec.title,
        source=spec.source,
        note=setting.note,
        reference=spec.reference,
        dataset=dataset,
        arch=arch,
        seeds=tuple(dict.fromkeys(seeds)),
        images=images,
        images_sha256=images_sha256,
        rows=[row.label for row in spec.rows],
        columns=[column.label for column in spec.columns],
        cells=cells,
        budgets={column.label: _words(column, attacks) for column in spec.columns},
        recipes={setting.recipe(training): recipes[training] for training in spec.trainings},
        attacks={setting.attack(attack): attacks[attack] for attack in spec.attacks},
        validation_sha256=validation_sha256,
        options=dict(eval_options) | {"eval_seed": EVAL_SEED, "train_sha256": train_sha256},
        teachers=_teachers(cells, recipes, dataset, train_sha256, arch),
        unions={column.label: list(column.union) for column in spec.columns if column.union},
        means={column.label: list(column.mean) for column in spec.columns if column.mean},
        split=spec.split,
        figure=spec.figure,
        baseline=spec.baseline,
        published={column.label: column.published or column.attack for column in spec.columns},
    )


def _run(
    row: Row, seed: int, recipe: Mapping[str, Any], members: int, dataset: str, train_sha256: str, arch: str
) -> str:
    """The run id of one row and seed."""
    if row.member >= members:
        raise UserError(f"{row.label!r} is network {row.member + 1}, but {row.method!r} trains {members}")
    training = training_of_recipe(recipe, dataset, train_sha256, arch, seed)
    return run_id(training, members if row.ensemble else row.member, members, row.checkpoint)


def _teachers(
    cells: Sequence[Cell], recipes: Mapping[str, dict[str, Any]], dataset: str, train_sha256: str, arch: str
) -> dict[str, str]:
    """Training id -> run id of the frozen network that it learns from, for all networks of the cells."""
    taught = {}
    for cell in cells:
        for run, training in cell.networks.items():
            taught[training_of(run)] = teacher_of(recipes[training], dataset, train_sha256, arch, cell.seed)
    return {training: teacher for training, teacher in taught.items() if teacher is not None}


def _source(column: Column, row: Row) -> Row:
    """The network that a column is crafted on, as if it were a row: of the same checkpoint as the row attacked."""
    return Row(column.label, column.source, column.source_member, row.checkpoint)


def _cell(setting: Setting, row: Row, column: Column, seed: int, run: str, evaluation: str, source: str | None) -> Cell:
    return Cell(
        row=row.label,
        column=column.label,
        seed=seed,
        run_id=run,
        training_id=training_of(run),
        eval_id=evaluation,
        recipe=setting.recipe(row.training),
        attack=setting.attack(column.attack),
        training=row.training,
        column_attack=column.attack,
        member=row.member,
        checkpoint=row.checkpoint,
        source=column.source,
        source_run_id=source,
        at=column.at,
    )


def plan_name(table: str, spec: TableSpec, dataset: str, arch: str) -> str:
    """ "table2-digits"; with the architecture behind it where that is not the first setting's."""
    first = spec.settings[0]
    short = (dataset, arch) == (first.dataset, first.arch)
    return f"{_table_name(table)}-{_slug(dataset)}" + ("" if short else f"-{_slug(arch)}")


def _table_name(table: str) -> str:
    """Of a file the name without its folder, wherever it is given from; with a hash of it where letters are lost."""
    name = Path(table).stem if table.endswith(".toml") else table
    return _slug(name) if name.isascii() else f"{_slug(name)}-{digest({'table': name})}"


def _threats(settings: Mapping[str, Any], at: float | None) -> list[tuple[str, float]]:
    """(norm, radius) of an attack's settings; at: the radius where it is judged, instead of its own."""
    several = [(norm, float(settings[norm.lower()])) for norm in ("Linf", "L2", "L1") if norm.lower() in settings]
    threat = settings.get("threat")
    if several or not threat or threat["norm"] == "own":
        return several
    return [(threat["norm"], float(threat["eps"] if at is None else at))]


def _words(column: Column, attacks: Mapping[str, dict[str, Any]]) -> str:
    """What a column is, for the notes under its table."""
    if column.union:
        return f"worst case image by image of {', '.join(column.union)}"
    if column.mean:
        return f"mean of {', '.join(column.mean)} (interval from its variance over images)"
    words = budget(attacks[column.attack], column.at)
    words += f", crafted on {column.source}" if column.source else ""
    return words if column.at is None else f"{words}, read off the distances of {column.attack}"


def budget(attack: Mapping[str, Any], at: float | None = None) -> str:
    """What an attack may change and spend, in words. at: the radius where a minimal-norm attack is judged."""
    settings = attack["settings"]
    if attack["attack"] == CLEAN:
        return "no attack"
    radii = [f"{norm} {radius(settings[norm.lower()])}" for norm in ("Linf", "L2", "L1") if norm.lower() in settings]
    words = [" or ".join(radii)] if radii else []
    if not radii and (threat := settings.get("threat")):
        words.append(f"{_NORMS.get(threat['norm'], threat['norm'])} {radius(threat['eps'] if at is None else at)}")
    if settings.get("steps"):
        step = f" of {radius(settings['step'])}" if isinstance(settings.get("step"), float) else ""
        words.append(f"{settings['steps']} step{'s' if settings['steps'] != 1 else ''}{step}")
    if (settings.get("restarts") or 1) > 1:
        words.append(f"{settings['restarts']} restarts")
    return ", ".join(words) or "see the attack's settings"


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
    table = _table_name(name)
    return [one for one in list_plans(results) if one == name or one.startswith(f"{table}-")]


def list_plans(results: Results) -> list[str]:
    """Names of the plans on disk."""
    return sorted(path.stem for path in (results.root / "plans").glob("[!.]*.json"))


def _slug(name: str) -> str:
    """`name` as part of an id."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_") or "x"


def radius(value: float) -> str:
    """8/255 as such, other numbers in four digits."""
    levels = value * 255
    whole = round(levels)
    return f"{whole}/255" if 0 < whole <= MOST_LEVELS and abs(levels - whole) < 1e-9 else f"{value:.4g}"
