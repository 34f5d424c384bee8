"""For each cell of a plan: train or attack what is missing, record what fails, go on.

The plan (the exact ids) is written first. A record that exists is whole and is not made again; one made from other
weights than those registered now counts as missing. A cell that fails leaves an error record with its reason, and the
others are finished.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from bench.ground.config import UserError
from bench.ground.events import CellFailed, CellKept, RunBegin, TrainFailed
from bench.ground.locks import locked
from bench.ground.progress import Progress
from bench.ground.provenance import provenance
from bench.judge.audit import evaluate_audited
from bench.judge.evaluate import Crafted, Verdicts, check_transfer, craft
from bench.ledger import adversarial, plan, planning
from bench.ledger.errors import ErrorRecord, clear_error, read_error, write_error
from bench.ledger.evals import EvalRecord, write_eval
from bench.ledger.find import find
from bench.ledger.folder import Results, Source
from bench.ledger.plan import Cell
from bench.running.table import Options, Table
from bench.running.train import Training
from bench.running.watching import AttackWatch
from bench.subjects import registry
from bench.subjects.device import describe
from bench.subjects.outside import for_record

CRAFTED_KEPT = 8  # sets of images that wait for their next network, in main memory


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


class TableRun(Table):
    """A table, and the way to fill it. Raises UserError for names and settings that do not fit."""

    def __init__(self, table: str, options: Options) -> None:
        super().__init__(table, options)
        self._crafted: dict[tuple[str, str], tuple[Source, Crafted]] = {}

    def execute(self, progress: Progress, jobs: int = 1, helping: bool = False) -> Summary:
        """Do what is missing. Raises UserError when results cannot be written; what is done stays.

        What another process is at comes last: it is waited for, and read. jobs: processes at this table. helping: begin
        at its end, and say only what gets done.
        """
        plan.write_plan(self.results, self.plan)
        groups, (wanted, pace) = self.by_training(), self.survey(jobs)
        progress.pace = pace
        summary = Summary(kept=sum(len(cells) for cells in groups.values()) - len(wanted))
        if not helping:
            cells = sum(map(len, groups.values()))
            progress.tell(RunBegin("run", self.plan.name, self.dataset.name, self.plan.images, cells, summary.kept))
            forecast = self.foresee(wanted, pace, torch.get_num_threads())
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
        for missing, training in self.to_train(cells).items():
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
                if not self.lacks(cell, find(self.plan, cell, self.results).record):
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
        model, run = registry.load(self.results, cell.run_id, self.archs(cell.training))
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
            source, run = registry.load(self.results, source_run_id, self.archs(cell.source))
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

    def _guard(
        self, run_id: str, eval_id: str | None, work: Callable[[], bool | None], what: str, summary: Summary
    ) -> bool | None:
        """Do the work of one cell and return its answer; a failure is recorded with its reason, and is False."""
        try:
            made = work()
        except UserError:
            raise
        except Exception as error:  # whatever breaks in one cell must not cost the others, and is never a number
            summary.failures.append(f"{what}: {record_error(self.results, run_id, eval_id, error, self.device)}")
            return False
        if made is not None:
            clear_error(self.results, run_id, eval_id)
        return made


def _names(cell: Cell) -> tuple[str, str, str, str]:
    """What events call a cell."""
    return cell.run_id, cell.eval_id, cell.row, cell.column


def record_error(results: Results, run_id: str, eval_id: str | None, error: Exception, device: torch.device) -> str:
    """The error on disk with its traceback -> what it says."""
    reason, where = f"{type(error).__name__}: {error}", provenance(describe(device), torch.get_num_threads())
    write_error(results, ErrorRecord(run_id, eval_id, reason, "".join(traceback.format_exception(error)), where))
    return reason
