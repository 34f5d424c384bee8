"""A table as a command asks for it: its plan, what the plan's names mean here, what is lacking and how long it takes.

Nothing here trains or attacks: that is `bench.running.run`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from attacks.contract import Attack
from bench.ground.config import UserError
from bench.ground.pace import Pace
from bench.ground.stats import foresight
from bench.judge.evaluate import check_transfer
from bench.ledger import planning
from bench.ledger.evals import EvalRecord
from bench.ledger.find import find
from bench.ledger.folder import Results
from bench.ledger.ids import slug, training_of
from bench.ledger.plan import Cell
from bench.ledger.runs import read_run
from bench.ledger.spec import TableSpec, load_spec
from bench.running.clock import Clock, Standing
from bench.running.forecast import MANY, SHARE, SMALLER, Forecast, of_table
from bench.running.train import Training
from bench.subjects import data, models
from bench.subjects.catalog import Catalog, coarse_steps
from bench.subjects.corrupted import as_published
from bench.subjects.device import choose_device
from bench.subjects.own_data import Reading
from bench.subjects.quick import AS_IT_IS, Arrangement
from trainers.contract import is_ensemble


@dataclass(frozen=True)
class Options:
    """What the command line may change about a table or a run."""

    results: Results
    dataset: str | None = None
    arch: str | None = None
    profile: str | None = None
    images: int | None = None
    seeds: tuple[int, ...] | None = None
    device: str = "auto"
    data_dir: Path | None = None
    recipes: Path | None = None
    assignments: tuple[str, ...] = ()
    arrangement: Arrangement = AS_IT_IS
    fast: bool = False
    also: tuple[str, ...] = ()
    last: bool = False
    keep_adversarial: bool = False
    reading: Reading | None = None


class Table:
    """One table and its plan. Raises UserError for names and settings that do not fit.

    recipes, attacks: by the names of the plan. words: what a person should know before it is filled.
    """

    def __init__(self, table: str, options: Options) -> None:
        self.options, self.results = options, options.results
        self.device = choose_device(options.device)
        catalog = Catalog(options.recipes, options.assignments, table)
        spec = load_spec(table)
        spec = spec.without_slow() if options.fast else spec
        spec = spec.of_last_epochs() if options.last else spec
        setting = spec.choose_setting(options.dataset, options.arch, options.profile)
        also = list(dict.fromkeys(map(setting.short, options.also)))
        spec = spec.with_attacks(also) if also else spec
        self.recipes = {
            training: catalog.recipe(setting.recipe(row.method), row.set) for training, row in spec.trainings.items()
        }
        self.attacks = {name: catalog.attack(setting.attack(name)) for name in spec.attacks}
        catalog.check_assignments()
        self.slow = any(column.slow for column in spec.columns)
        self._check_spec(spec)
        self.words = [f"recipes of profile {setting.profile!r}. {setting.note}".rstrip()]
        self.dataset = data.load(options.dataset or setting.dataset, options.data_dir, options.reading)
        self.dataset.check_trainable()
        images = self.dataset.validation if spec.split == "validation" else self.dataset.test
        self.images = images.some(options.images or setting.images or len(images))
        self.attacks = as_published(self.attacks, self.images, self.dataset, options.data_dir)
        measured = planning.Data(
            self.dataset.name,
            self.dataset.train.sha256,
            len(self.images),
            self.images.sha256,
            self.dataset.validation.sha256,
        )
        arch = models.check_name(options.arch or setting.arch)
        meaning = planning.Meaning(
            recipes={name: recipe.resolved(arch) for name, recipe in self.recipes.items()},
            members={name: recipe.trainer.members for name, recipe in self.recipes.items()},
            attacks={name: resolved for name, (_, resolved) in self.attacks.items()},
            options=options.arrangement.identity,
        )
        variant = spec.variant(setting, self.dataset.name, arch) if options.profile else ""
        self.plan = planning.make(
            table,
            spec,
            setting,
            measured,
            meaning,
            arch=arch,
            seeds=options.seeds or setting.seeds,
            variant="-".join([variant, *_varied(options, also)]),
        )
        attacks = {setting.attack(name): attack for name, (attack, _) in self.attacks.items()}
        self.words += coarse_steps(attacks, math.prod(self.dataset.image_shape))
        self.words.append(foresight(self.plan.images, len(self.plan.seeds)))

    def describe(self, jobs: int = 1) -> list[str]:
        """What there is to do, cell by cell, without doing it. jobs: processes that would do it."""
        cells, pace = self.survey(jobs)
        forecast = self.foresee(cells, pace, max(1, torch.get_num_threads() // jobs))
        lines = forecast.warning(pace, self._cuts)
        lines.append(f"{self.plan.title}; {self.dataset.source}; {self.plan.images} {self.plan.split} images")
        lines += self.words
        trained = [f"  train   {one}" for one in self.to_train(self.plan.cells)]
        attacked = [f"  attack  {run_id}  {eval_id}" for run_id, eval_id in cells]
        left = f"; {pace.left()}" if cells else ""
        lines += [*trained, *attacked, *forecast.lines(pace)]
        return [*lines, f"{len(trained)} trainings and {len(attacked)} attacks to do{left}"]

    def lacking(self) -> int:
        """How many trainings, with their attacks, there is something to do for."""
        wanted, _ = self.survey()
        return len({cell.training_id for cell in wanted.values()})

    def archs(self, training: str) -> tuple[str, ...]:
        """The architectures that the user's recipe or command names for a training."""
        return self.recipes[training].archs or (self.plan.arch,)

    def to_train(self, cells: Iterable[Cell]) -> dict[str, Training]:
        """What is missing for these cells, by training id and in the order to do it: teachers, networks to craft on."""
        wanted = dict.fromkeys((run_id, name, cell.seed) for cell in cells for run_id, name in cell.networks.items())
        found: dict[str, Training] = {}
        for run_id, name, seed in wanted:
            training = Training(self.recipes[name], self.dataset, self.plan.arch, seed, self.device)
            assert training.training_id == training_of(run_id), "plan and training must agree on every setting"
            for one in training.to_do(self.results, [run_id]):
                found.setdefault(one.training_id, one)
        return found

    def survey(self, jobs: int = 1) -> tuple[dict[tuple[str, str], Cell], Pace]:
        """The cells without a number by (run id, eval id), and what is known of the time that they take."""
        cells = [cell for group in self.by_training().values() for cell in group]
        found = [find(self.plan, cell, self.results) for cell in cells]
        to_do: dict[Hashable, str] = {
            one: training.recipe.name for one, training in self.to_train(self.plan.cells).items()
        }
        wanted = {(c.run_id, c.eval_id): c for c, one in zip(cells, found, strict=True) if self.lacks(c, one.record)}
        made = {cell.training_id: cell for cell in cells if self.results.run(cell.run_id).exists()}
        took = [(cell.recipe, read_run(self.results, cell.run_id).cost.seconds) for cell in made.values()]
        took += [(c.attack, one.record.cost.seconds) for c, one in zip(cells, found, strict=True) if one.record]
        return wanted, Pace(to_do | {key: cell.attack for key, cell in wanted.items()}, took, jobs)

    def foresee(self, wanted: dict[tuple[str, str], Cell], pace: Pace, threads: int) -> Forecast:
        """What is estimated of all that nobody timed yet; `pace` knows it afterwards. threads: of each process."""
        trainings: dict[Hashable, tuple[str, Training]] = {}
        for row in self.plan.rows:
            for one, training in self.to_train(cell for cell in self.plan.cells if cell.row == row).items():
                trainings.setdefault(one, (row, training))
        attacks: dict[Hashable, tuple[Cell, Attack | None]] = {
            key: (cell, self.attacks[cell.column_attack][0] if cell.column_attack in self.attacks else None)
            for key, cell in wanted.items()
        }
        unknown = {one: given for one, given in trainings.items() if not pace.timed(one)}
        untimed = {
            key: (cell, attack, (self.recipes[cell.training].archs or (self.plan.arch,))[0])
            for key, (cell, attack) in attacks.items()
            if not pace.timed(key)
        }
        clock = Clock(self.dataset, self.device, self.options.arrangement)
        found = of_table(clock, unknown, untimed, len(self.images), self._standing(), threads)
        pace.expected.update(found.expected)
        every: dict[Hashable, tuple[str, str]] = {
            one: (row, training.recipe.name) for one, (row, training) in trainings.items()
        }
        return replace(found, trainings=every, attacks={key: cell for key, (cell, _) in attacks.items()})

    def _standing(self) -> Standing:
        """How the networks of this table do, as far as it has records; else what is assumed."""
        records = [found.record for cell in self.plan.cells if (found := find(self.plan, cell, self.results)).record]
        images = [one.images for one in records if one is not None and one.norm != "none"]
        right = sum(int((table["clean_prediction"] == table["label"]).sum()) for table in images)
        if not right:
            return Standing()
        stand = sum(int(table["robust"].sum()) for table in images)
        return Standing(right / sum(map(len, images)), stand / right, f"as in {len(images)} records of this table")

    def _cuts(self, trained: float, attacked: float) -> list[str]:
        """What would make this table shorter, in words. trained, attacked: shares of the whole."""
        found = []
        if attacked > SHARE and len(self.images) > MANY:
            found.append(f"--images {MANY}")
        if attacked > SHARE and self.slow:
            found.append("--fast")
        if len(self.plan.seeds) > 1:
            found.append("fewer --seeds")
        if trained > SHARE:
            found += [SMALLER, "fewer epochs (--set RECIPE.schedule.epochs=N)"]
        return [*found, f"what `bench tune {self.plan.arch}` finds to be quicker"]

    def lacks(self, cell: Cell, record: EvalRecord | None) -> bool:
        """Whether a cell has no record, or one without the adversarial images that are to be kept."""
        if record is None:
            return True
        attacked = self.attacks[cell.column_attack][0] is not None
        return self.options.keep_adversarial and attacked and record.adversarial_sha256 is None

    def by_training(self) -> dict[str, list[Cell]]:
        """The plan's cells by the training that makes their networks, one for each record."""
        found: dict[str, dict[tuple[str, str], Cell]] = {}
        for cell in self.plan.cells:
            found.setdefault(cell.training_id, {}).setdefault((cell.run_id, cell.eval_id), cell)
        return {training_id: list(cells.values()) for training_id, cells in found.items()}

    def _check_spec(self, spec: TableSpec) -> None:
        """Raises UserError for a method or an attack that cannot do what its row or column asks."""
        for row in spec.rows:
            if row.ensemble and not is_ensemble(self.recipes[row.training].trainer):
                raise UserError(f"row {row.label!r} is an ensemble, but {row.method!r} makes none; at-ensemble does")
        for column in spec.columns:
            attack, _ = self.attacks.get(column.attack, (None, {}))
            if column.source:
                check_transfer(column.attack, attack)
            if column.at is not None and not (attack and attack.closest):
                raise UserError(
                    f"column {column.label!r} reads {column.attack!r} at another radius, but that is no minimal-norm "
                    "attack, whose distances would say; ddn, deepfool and fab-t are some"
                )


def _varied(options: Options, also: list[str]) -> list[str]:
    """What the name of a plan says of a table that is not as its file has it; files of two do not meet."""
    found = ["fast"] if options.fast else []
    found += ["last"] if options.last else []
    return [*found, *(f"also-{slug(name)}" for name in also)]
