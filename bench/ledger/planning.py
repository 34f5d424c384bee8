"""A table's TOML -> its plan: every cell with the ids of its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from bench.ground.config import UserError
from bench.ledger.budgets import budget, radius
from bench.ledger.ids import eval_id, eval_identity, run_id, slug, teacher_of, training_of, training_of_recipe
from bench.ledger.plan import Cell, Certified, Plan, table_name
from bench.ledger.spec import CLEAN, Column, Row, Setting, TableSpec

EVAL_SEED = 0  # of the noise of a table's attacks


@dataclass(frozen=True)
class Data:
    """What a table is trained and measured on. images: how many of its split, with images_sha256; validation_sha256: of
    the images that choose checkpoints.
    """

    dataset: str
    train_sha256: str
    images: int
    images_sha256: str
    validation_sha256: str | None = None


@dataclass(frozen=True)
class Meaning:
    """What the names in a table stand for.

    recipes, members: by `TableSpec.trainings`; resolved (see `ids.training_identity`), and how many networks it trains.
    attacks: by Column.attack without "clean"; {"attack", "version", "settings"}. options: of the evaluation.
    """

    recipes: Mapping[str, dict[str, Any]]
    members: Mapping[str, int]
    attacks: Mapping[str, dict[str, Any]]
    options: Mapping[str, Any]


def make(
    table: str,
    spec: TableSpec,
    setting: Setting,
    data: Data,
    meaning: Meaning,
    *,
    arch: str,
    seeds: Sequence[int],
    variant: str = "",
) -> Plan:
    """The plan of one table, with all seeds. variant: what its name ends in where the spec is not the table's own.

    Raises UserError for a row or a source whose network the recipe does not train.
    """
    unattacked = {CLEAN: {"attack": CLEAN, "version": 1, "settings": {}}}
    meaning = replace(meaning, attacks=unattacked | dict(meaning.attacks))
    several = tuple(dict.fromkeys(seeds))
    names = _Names(setting, data, meaning, arch)
    proofs = _proofs(spec, meaning.attacks)
    cells = [names.cell(*one) for one in product(spec.rows, several, spec.columns) if one[2].attack]
    return Plan(
        table=table,
        name=plan_name(table, spec, data.dataset, arch) + variant,
        title=spec.title,
        source=spec.source,
        note=setting.note,
        reference=spec.reference,
        dataset=data.dataset,
        arch=arch,
        seeds=several,
        images=data.images,
        images_sha256=data.images_sha256,
        rows=[row.label for row in spec.rows],
        columns=[column.label for column in spec.columns],
        cells=cells,
        budgets={column.label: _words(column, spec, meaning.attacks, proofs) for column in spec.columns},
        recipes={setting.recipe(training): meaning.recipes[training] for training in spec.trainings},
        attacks={setting.attack(attack): meaning.attacks[attack] for attack in spec.attacks},
        validation_sha256=data.validation_sha256,
        options=dict(meaning.options) | {"eval_seed": EVAL_SEED, "train_sha256": data.train_sha256},
        teachers=names.teachers(cells),
        unions={column.label: list(column.union) for column in spec.columns if column.union},
        means={column.label: list(column.mean) for column in spec.columns if column.mean},
        errors={column.label: column.error for column in spec.columns if column.error} or None,
        hidden=[column.label for column in spec.columns if column.hidden] or None,
        split=spec.split,
        figure=spec.figure,
        baseline=spec.baseline,
        certified=proofs or None,
        published={column.label: column.published or column.attack for column in spec.columns},
    )


@dataclass(frozen=True)
class _Names:
    """The ids of a table's networks and records."""

    setting: Setting
    data: Data
    meaning: Meaning
    arch: str

    def network(self, row: Row, seed: int) -> str:
        """The run id of one row and seed. Raises UserError."""
        recipe, members = self.meaning.recipes[row.training], self.meaning.members[row.training]
        if row.member >= members:
            raise UserError(f"{row.label!r} is network {row.member + 1}, but {row.method!r} trains {members}")
        training = training_of_recipe(recipe, self.data.dataset, self.data.train_sha256, self.arch, seed)
        return run_id(training, members if row.ensemble else row.member, members, row.checkpoint)

    def evaluation(self, column: Column, source: str | None) -> str:
        """The eval id of one column. source: the run that it is crafted on."""
        full, attack = self.setting.attack(column.attack), self.meaning.attacks[column.attack]
        identity = eval_identity(attack, full, self.data.images_sha256, EVAL_SEED, self.meaning.options, source)
        return eval_id(full, self.data.images, identity)

    def cell(self, row: Row, seed: int, column: Column) -> Cell:
        """One number for one seed."""
        run = self.network(row, seed)
        crafted_on = Row(column.label, column.source, column.source_member, row.checkpoint)  # as if it were a row
        source = self.network(crafted_on, seed) if column.source else None
        return Cell(
            row=row.label,
            column=column.label,
            seed=seed,
            run_id=run,
            training_id=training_of(run),
            eval_id=self.evaluation(column, source),
            recipe=self.setting.recipe(row.training),
            attack=self.setting.attack(column.attack),
            training=row.training,
            column_attack=column.attack,
            member=row.member,
            checkpoint=row.checkpoint,
            source=column.source,
            source_run_id=source,
            at=column.at,
        )

    def teachers(self, cells: Sequence[Cell]) -> dict[str, str]:
        """Training id -> run id of the frozen network that it learns from, for all networks of the cells."""
        data, taught = self.data, {}
        for cell in cells:
            for run, training in cell.networks.items():
                recipe = self.meaning.recipes[training]
                taught[training_of(run)] = teacher_of(recipe, data.dataset, data.train_sha256, self.arch, cell.seed)
        return {training: teacher for training, teacher in taught.items() if teacher is not None}


def plan_name(table: str, spec: TableSpec, dataset: str, arch: str) -> str:
    """ "table2-digits"; with the architecture behind it where that is not the first setting's."""
    first = spec.settings[0]
    short = (dataset, arch) == (first.dataset, first.arch)
    return f"{table_name(table)}-{slug(dataset)}" + ("" if short else f"-{slug(arch)}")


def _proofs(spec: TableSpec, attacks: Mapping[str, dict[str, Any]]) -> dict[str, Certified]:
    """What the columns `certified` are the proven share of. Raises UserError where nothing can be proven."""
    by_label, found = {column.label: column for column in spec.columns}, {}
    for column in (one for one in spec.columns if one.certified):
        prover = "bounds" if column.smoothing is None else "smoothing"
        of = by_label[column.certified]
        threat = attacks[of.attack]["settings"].get("threat", {"norm": "own", "eps": 0.0})
        norm, eps = threat["norm"], threat["eps"] if of.at is None else of.at
        known = ("Linf", "L2") if column.smoothing is None else ("L2",)
        if norm not in known or eps <= 0:
            raise UserError(
                f"column {column.label!r} is certified as {of.label!r}, which is of {norm} {eps:g}; "
                f"{prover} can prove in {' and '.join(known)}, at a radius above 0"
            )
        found[column.label] = Certified(of.label, norm, eps, column.smoothing)
    return found


def _words(
    column: Column, spec: TableSpec, attacks: Mapping[str, dict[str, Any]], proofs: Mapping[str, Certified]
) -> str:
    """What a column is, for the notes under its table."""
    if column.label in proofs:
        how = proofs[column.label]
        within = f"proven within {how.norm} {radius(how.eps)} by `bench certify`"
        if how.sigma is None:
            return f"share {within}: robust accuracy is at least this"
        return f"share {within} of the network smoothed with sigma {how.sigma:g}, which is another classifier"
    if column.union:
        return f"worst case image by image of {', '.join(column.union)}"
    if column.mean:
        hidden = {one.label for one in spec.columns if one.hidden}
        several = f"{column.mean[0]} to {column.mean[-1]}" if hidden.issuperset(column.mean) else ", ".join(column.mean)
        return f"mean of {several} (interval from its variance over images)"
    if column.error:
        return f"100 % minus {column.error}, so less is better"
    words = budget(attacks[column.attack], column.at)
    words += f", crafted on {column.source}" if column.source else ""
    return words if column.at is None else f"{words}, read off the distances of {column.attack}"
