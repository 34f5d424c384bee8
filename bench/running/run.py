"""For each cell of a plan: train or attack what is missing, record what fails, go on.

The plan (the exact ids) is written first. A record that exists is whole and is not made again; one made from other
weights than those registered now counts as missing. A cell that fails leaves an error record with its reason, and the
others are finished.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Hashable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from attacks.contract import Attack
from attacks.target import ModelError
from bench.ground.config import UserError
from bench.ground.events import CellFailed, CellKept, RunBegin, TrainFailed
from bench.ground.locks import locked
from bench.ground.pace import Pace
from bench.ground.progress import Progress
from bench.ground.provenance import provenance
from bench.ground.stats import foresight
from bench.judge.audit import evaluate_audited
from bench.judge.evaluate import Crafted, Verdicts, check_transfer, craft
from bench.ledger import adversarial, plan, planning
from bench.ledger.errors import ErrorRecord, clear_error, read_error, write_error
from bench.ledger.evals import EvalRecord, write_eval
from bench.ledger.find import find
from bench.ledger.folder import Results, Source
from bench.ledger.ids import training_of
from bench.ledger.plan import Cell
from bench.ledger.runs import read_run
from bench.ledger.spec import TableSpec, load_spec
from bench.running.clock import Clock, Standing
from bench.running.forecast import MANY, SHARE, SMALLER, Forecast, of_table, of_trainings
from bench.running.train import Training
from bench.running.watching import AttackWatch
from bench.subjects import data, models, registry
from bench.subjects.catalog import Catalog, coarse_steps
from bench.subjects.device import choose_device, describe
from bench.subjects.outside import for_record
from bench.subjects.own_data import Reading
from bench.subjects.quick import AS_IT_IS, Arrangement
from trainers.contract import is_ensemble
from trainers.health import TrainingError

ARCHS = {"quick": "cnn-a", "paper-wrn": "wrn-34-10"}  # what a profile is made for, where that is not ResNet-18
CRAFTED_KEPT = 8  # sets of images that wait for their next network, in main memory


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
    last: bool = False
    keep_adversarial: bool = False
    reading: Reading | None = None


@dataclass
class Summary:
    """What a run did: counts, and one line per failure."""

    trained: int = 0
    attacked: int = 0
    kept: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, helper: Summary) -> None:
        """Count what a helper did meanwhile: its cells were found here as kept, and what failed there failed here."""
        self.trained += helper.trained
        self.attacked += helper.attacked
        self.kept -= helper.attacked


@dataclass
class _Shift:
    """The state of one `TableRun.execute`. wanted: cells without a number; tried: trainings that are over and done
    with. wait: whether to wait for what another process is at, or to leave it for later. helping: see `execute`.
    """

    wanted: dict[tuple[str, str], Cell]
    progress: Progress
    summary: Summary
    helping: bool = False
    wait: bool = False
    tried: set[str] = field(default_factory=set)


class TableRun:
    """One table: its plan, and the way to fill it. Raises UserError for names and settings that do not fit."""

    def __init__(self, table: str, options: Options) -> None:
        self.options, self.results = options, options.results
        self.device = choose_device(options.device)
        catalog = Catalog(options.recipes, options.assignments, table)
        spec = load_spec(table)
        spec = spec.without_slow() if options.fast else spec
        spec = spec.of_last_epochs() if options.last else spec
        setting = spec.choose_setting(options.dataset, options.arch, options.profile)
        self.recipes = {
            training: catalog.recipe(setting.recipe(row.method), row.set) for training, row in spec.trainings.items()
        }
        self.attacks = {name: catalog.attack(setting.attack(name)) for name in spec.attacks}
        catalog.check_assignments()
        self.slow = any(column.slow for column in spec.columns)
        self._crafted: dict[tuple[str, str], tuple[Source, Crafted]] = {}
        self._check_spec(spec)
        self.words = [f"recipes of profile {setting.profile!r}. {setting.note}".rstrip()]
        self.dataset = data.load(options.dataset or setting.dataset, options.data_dir, options.reading)
        self.dataset.check_trainable()
        images = self.dataset.validation if spec.split == "validation" else self.dataset.test
        self.images = images.head(options.images or setting.images or len(images))
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
        arch = models.check_name(options.arch or setting.arch)
        variant = spec.variant(setting, self.dataset.name, arch) if options.profile else ""
        self.plan = planning.make(
            table,
            spec,
            setting,
            measured,
            meaning,
            arch=arch,
            seeds=options.seeds or setting.seeds,
            variant=variant + ("-fast" if options.fast else "") + ("-last" if options.last else ""),
        )
        attacks = {setting.attack(name): attack for name, (attack, _) in self.attacks.items()}
        self.words += coarse_steps(attacks, math.prod(self.dataset.image_shape))
        self.words.append(foresight(self.plan.images, len(self.plan.seeds)))

    def describe(self, jobs: int = 1) -> list[str]:
        """What there is to do, cell by cell, without doing it. jobs: processes that would do it."""
        cells, pace = self._survey(jobs)
        forecast = self._foresee(cells, pace, max(1, torch.get_num_threads() // jobs))
        lines = forecast.warning(pace, self._cuts)
        lines.append(f"{self.plan.title}; {self.dataset.source}; {self.plan.images} {self.plan.split} images")
        lines += self.words
        trained = [f"  train   {one}" for one in self._to_train(self.plan.cells)]
        attacked = [f"  attack  {run_id}  {eval_id}" for run_id, eval_id in cells]
        left = f"; {pace.left()}" if cells else ""
        lines += [*trained, *attacked, *forecast.lines(pace)]
        return [*lines, f"{len(trained)} trainings and {len(attacked)} attacks to do{left}"]

    def lacking(self) -> int:
        """How many trainings, with their attacks, there is something to do for."""
        wanted, _ = self._survey()
        return len({cell.training_id for cell in wanted.values()})

    def execute(self, progress: Progress, jobs: int = 1, helping: bool = False) -> Summary:
        """Do what is missing. Raises UserError when results cannot be written; what is done stays.

        What another process is at comes last: it is waited for, and read. jobs: processes at this table. helping: begin
        at its end, and say only what gets done.
        """
        plan.write_plan(self.results, self.plan)
        groups, (wanted, pace) = self._attacks(), self._survey(jobs)
        progress.pace = pace
        summary = Summary(kept=sum(len(cells) for cells in groups.values()) - len(wanted))
        if not helping:
            cells = sum(map(len, groups.values()))
            progress.tell(RunBegin("run", self.plan.name, self.dataset.name, self.plan.images, cells, summary.kept))
            forecast = self._foresee(wanted, pace, torch.get_num_threads())
            for words in forecast.warning(pace, self._cuts):
                progress.say(words)
            progress.say(f"{self.plan.name}: {self.dataset.source}; {self.plan.images} {self.plan.split} images")
            for words in self.words:
                progress.say(words)
        shift = _Shift(wanted, progress, summary, helping)
        for shift.wait in (False, True):
            for training_id in reversed(groups) if helping else groups:
                left = [cell for cell in groups[training_id] if (cell.run_id, cell.eval_id) in wanted]
                if left:
                    self._fill(training_id, left, shift)
        return summary

    def _fill(self, training_id: str, cells: list[Cell], shift: _Shift) -> None:
        """The missing cells of one training, and what has to be trained for them."""
        if not shift.wait and not shift.helping and (words := shift.progress.pace.left()):
            shift.progress.say(words)
        for missing, training in self._to_train(cells).items():
            if missing not in shift.tried:
                started = time.perf_counter()
                made = self._train(training, shift)
                if made is not None:
                    shift.tried.add(missing)
                    shift.progress.done(missing, time.perf_counter() - started)
                shift.summary.trained += made is True
                if made is None:
                    return  # what comes after may need it
        for cell in cells:
            if lacking := [run_id for run_id in cell.networks if not self.results.run(run_id).exists()]:
                shift.progress.tell(CellFailed(*_names(cell), f"its network {lacking[0]} is not there"))
            else:
                started = time.perf_counter()
                made = self._attack(cell, shift)
                if made is not None:
                    del shift.wanted[cell.run_id, cell.eval_id]
                    shift.progress.done((cell.run_id, cell.eval_id), time.perf_counter() - started)
                shift.summary.attacked += made is True

    def _to_train(self, cells: Iterable[Cell]) -> dict[str, Training]:
        """What is missing for these cells, by training id and in the order to do it: teachers, networks to craft on."""
        wanted = dict.fromkeys((run_id, name, cell.seed) for cell in cells for run_id, name in cell.networks.items())
        found: dict[str, Training] = {}
        for run_id, name, seed in wanted:
            training = Training(self.recipes[name], self.dataset, self.plan.arch, seed, self.device)
            assert training.training_id == training_of(run_id), "plan and training must agree on every setting"
            for one in training.to_do(self.results, [run_id]):
                found.setdefault(one.training_id, one)
        return found

    def _survey(self, jobs: int = 1) -> tuple[dict[tuple[str, str], Cell], Pace]:
        """The cells without a number by (run id, eval id), and what is known of the time that they take."""
        cells = [cell for group in self._attacks().values() for cell in group]
        found = [find(self.plan, cell, self.results) for cell in cells]
        to_do: dict[Hashable, str] = {
            one: training.recipe.name for one, training in self._to_train(self.plan.cells).items()
        }
        wanted = {(c.run_id, c.eval_id): c for c, one in zip(cells, found, strict=True) if self._lacking(c, one.record)}
        made = {cell.training_id: cell for cell in cells if self.results.run(cell.run_id).exists()}
        took = [(cell.recipe, read_run(self.results, cell.run_id).cost.seconds) for cell in made.values()]
        took += [(c.attack, one.record.cost.seconds) for c, one in zip(cells, found, strict=True) if one.record]
        return wanted, Pace(to_do | {key: cell.attack for key, cell in wanted.items()}, took, jobs)

    def _foresee(self, wanted: dict[tuple[str, str], Cell], pace: Pace, threads: int) -> Forecast:
        """What is estimated of all that nobody timed yet; `pace` knows it afterwards. threads: of each process."""
        trainings: dict[Hashable, tuple[str, Training]] = {}
        for row in self.plan.rows:
            for one, training in self._to_train(cell for cell in self.plan.cells if cell.row == row).items():
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

    def _lacking(self, cell: Cell, record: EvalRecord | None) -> bool:
        """Whether a cell has no record, or one without the adversarial images that are to be kept."""
        if record is None:
            return True
        attacked = self.attacks[cell.column_attack][0] is not None
        return self.options.keep_adversarial and attacked and record.adversarial_sha256 is None

    def _attacks(self) -> dict[str, list[Cell]]:
        """The plan's cells by the training that makes their networks, one for each record."""
        found: dict[str, dict[tuple[str, str], Cell]] = {}
        for cell in self.plan.cells:
            found.setdefault(cell.training_id, {}).setdefault((cell.run_id, cell.eval_id), cell)
        return {training_id: list(cells.values()) for training_id, cells in found.items()}

    def _train(self, training: Training, shift: _Shift) -> bool | None:
        def work() -> bool | None:
            return training.run(self.results, shift.progress, shift.wait)

        made = self._guard(training.run_ids[0], None, work, f"training {training.training_id}", shift.summary)
        if made is False and (error := read_error(self.results, training.run_ids[0], None)):
            shift.progress.tell(TrainFailed(training.training_id, error.reason))
        return made

    def _attack(self, cell: Cell, shift: _Shift) -> bool | None:
        """True: done, False: failed or done by another process meanwhile, None: another process is at it."""

        def work() -> bool | None:
            with locked(self.results.eval(cell.run_id, cell.eval_id).with_suffix(".lock"), shift.wait) as ours:
                if not ours:
                    return None
                if not self._lacking(cell, find(self.plan, cell, self.results).record):
                    shift.summary.kept += 1
                    shift.progress.tell(CellKept(*_names(cell)))
                    return False
                self._judge(cell, shift.progress)
                return True

        made = self._guard(cell.run_id, cell.eval_id, work, f"{cell.row} / {cell.column}", shift.summary)
        if made is False and (error := read_error(self.results, cell.run_id, cell.eval_id)):
            shift.progress.tell(CellFailed(*_names(cell), error.reason))
        return made

    def _judge(self, cell: Cell, progress: Progress) -> None:
        """Attack, write the record, and say what came out."""
        named = cell.column if cell.at is None else cell.attack  # what is said is at the attack's own radius
        watch = AttackWatch(cell, named, len(self.images))
        progress.tell(watch.begin())
        with progress.watching(watch.look):
            verdicts = self._evaluate(cell, watch)
        progress.tell(watch.end(verdicts))

    def _evaluate(self, cell: Cell, watch: AttackWatch) -> Verdicts:
        """Attack and write the record."""
        model, run = registry.load(self.results, cell.run_id, self._archs(cell.training))
        attack, _ = self.attacks[cell.column_attack]
        source, crafted = (None, None) if cell.source_run_id is None else self._craft(cell.source_run_id, cell, watch)
        verdicts = evaluate_audited(
            model.to(self.device),
            attack,
            self.images,
            self.dataset.classes,
            name=cell.attack,
            run=self.options.arrangement,
            crafted=crafted,
            on_target=watch.see,
        )
        write_eval(self.results, self._record(cell, verdicts, run.weights_sha256, source))
        return verdicts

    def _craft(self, source_run_id: str, cell: Cell, watch: AttackWatch) -> tuple[Source, Crafted]:
        """The cell's attack on another network: done once, kept for the other networks that it is judged on."""
        key = (source_run_id, cell.column_attack)
        if key not in self._crafted:
            source, run = registry.load(self.results, source_run_id, self._archs(cell.source))
            crafted = craft(
                source.to(self.device),
                check_transfer(cell.attack, self.attacks[cell.column_attack][0]),
                self.images,
                self.dataset.classes,
                name=cell.attack,
                run=self.options.arrangement,
                on_target=watch.see,
            )
            while len(self._crafted) >= CRAFTED_KEPT:
                del self._crafted[next(iter(self._crafted))]
            self._crafted[key] = Source(source_run_id, run.weights_sha256), crafted
        return self._crafted[key]

    def _archs(self, training: str) -> tuple[str, ...]:
        """The architectures that the user's recipe or command names for a training."""
        return self.recipes[training].archs or (self.plan.arch,)

    def _record(self, cell: Cell, verdicts: Verdicts, weights_sha256: str, source: Source | None) -> EvalRecord:
        attack, resolved = self.attacks[cell.column_attack]
        kept = None
        if self.options.keep_adversarial and attack is not None:
            x_adv, x = verdicts.x_adv.cpu().numpy(), self.images.x.cpu().numpy()
            kept = adversarial.keep(self.results, cell.run_id, cell.eval_id, verdicts.table, x_adv, x)
        return EvalRecord(
            run_id=cell.run_id,
            eval_id=cell.eval_id,
            attack=cell.attack,
            settings=resolved["settings"],
            norm=attack.threat.norm if attack else "none",
            eps=attack.threat.eps if attack else 0.0,
            seed=planning.EVAL_SEED,
            dataset=self.dataset.name,
            weights_sha256=weights_sha256,
            images_sha256=self.images.sha256,
            cost=verdicts.cost,
            provenance=provenance(describe(self.device), torch.get_num_threads()),
            images=verdicts.table,
            source=source,
            adversarial_sha256=kept,
            signs=list(verdicts.signs),
            reading=self.dataset.reading,
            outside=for_record(resolved),
            audit=verdicts.audit,
        )

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

    def _guard(
        self, run_id: str, eval_id: str | None, work: Callable[[], bool | None], what: str, summary: Summary
    ) -> bool | None:
        """Do the work of one cell and return its answer; a failure is recorded with its reason, and is False."""
        try:
            made = work()
        except UserError:
            raise
        except Exception as error:  # whatever breaks in one cell must not cost the others, and is never a number
            summary.failures.append(f"{what}: {_record_error(self.results, run_id, eval_id, error, self.device)}")
            return False
        if made is not None:
            clear_error(self.results, run_id, eval_id)
        return made


def _names(cell: Cell) -> tuple[str, str, str, str]:
    """What events call a cell."""
    return cell.run_id, cell.eval_id, cell.row, cell.column


def _record_error(results: Results, run_id: str, eval_id: str | None, error: Exception, device: torch.device) -> str:
    """The error on disk with its traceback -> what it says."""
    reason, where = f"{type(error).__name__}: {error}", provenance(describe(device), torch.get_num_threads())
    write_error(results, ErrorRecord(run_id, eval_id, reason, "".join(traceback.format_exception(error)), where))
    return reason


def _train(training: Training, results: Results, progress: Progress) -> None:
    """Raises UserError, and TrainingError whatever breaks; a traceback is kept with the training, as by `bench run`."""
    run_id = training.run_ids[0]
    try:
        training.run(results, progress)
    except ModelError as error:
        raise UserError(str(error)) from error
    except (UserError, TrainingError):
        raise
    except Exception as error:
        reason = _record_error(results, run_id, None, error, training.device)
        raise TrainingError(f"{reason} (traceback: {results.error(run_id, None)})") from error
    clear_error(results, run_id, None)


def train_recipe(name: str, options: Options, progress: Progress | None = None) -> list[str]:
    """Train one recipe with every seed asked for, its teacher first; returns the run ids.

    progress: open already, in place of one of its own. Raises UserError, TrainingError.
    """
    catalog = Catalog(options.recipes, options.assignments)
    recipe = catalog.recipe(name)
    catalog.check_assignments()
    if options.dataset is None and not name.endswith("-digits"):
        known = ", ".join(data.DATASETS)
        raise UserError(f"say what {name!r} is to be trained on, as in --dataset cifar10; known: {known}")
    dataset = data.load(options.dataset or "digits", options.data_dir, options.reading)
    dataset.check_trainable()
    fitting = [arch for profile, arch in ARCHS.items() if name.endswith(f"-{profile}")]
    arch = options.arch or ("cnn-small" if dataset.name == "digits" else [*fitting, "resnet18"][0])
    device, run_ids = choose_device(options.device), []
    every = [Training(recipe, dataset, arch, seed, device) for seed in options.seeds or (0,)]
    with Progress() if progress is None else nullcontext(progress) as progress:
        progress.tell(RunBegin("train", name, dataset.name, len(dataset.train)))
        for words in of_trainings(one for training in every for one in training.to_do(options.results)):
            progress.say(words)
        for training in every:
            for one in training.to_do(options.results):
                try:
                    _train(one, options.results, progress)
                except TrainingError as error:
                    progress.tell(TrainFailed(one.training_id, str(error)))
                    raise
            run_ids += training.run_ids
        progress.networks += run_ids
    return run_ids
