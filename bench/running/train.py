"""Recipe + data + seed -> trained networks in the registry: what the one loop needs, put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attacks.model import ModelError
from attacks.noise import derive_seed
from attacks.target import Target
from bench.ground.config import UserError
from bench.ground.locks import locked
from bench.ground.progress import Progress
from bench.ground.provenance import TrainingCost, provenance
from bench.judge.evaluate import check_logits
from bench.ledger import ids
from bench.ledger.folder import Results, Source
from bench.ledger.histories import Epoch, HistoryRecord, read_history, write_history
from bench.ledger.runs import RunRecord
from bench.running.tune import start_up
from bench.running.watching import TrainingWatch
from bench.subjects import data, models, registry
from bench.subjects.catalog import Recipe
from bench.subjects.data import Dataset, Images
from bench.subjects.device import describe
from trainers.contract import is_ensemble
from trainers.health import EpochReport, TrainingError
from trainers.loop import Fit, Snapshot, fit
from trainers.network import masked_words, masks
from trainers.passes import EAGER, passes_for
from trainers.validation import Split

JUDGED_FIRST = 16  # validation images that a network is tried on before it is trained


class _Network(NamedTuple):
    """What a training made at one checkpoint: one network of the cohort, or (member = their number) their ensemble."""

    member: int
    arch: str
    snapshot: Snapshot
    health: list[str]


@dataclass(frozen=True)
class Training:
    """One training of one cohort: recipe, data, architecture (unless the recipe names its own), seed and device.

    remarks: what its records say beside how the networks were run. watch: sees the report of every epoch.
    """

    recipe: Recipe
    dataset: Dataset
    arch: str
    seed: int
    device: torch.device
    remarks: tuple[str, ...] = ()
    watch: Callable[[EpochReport], None] | None = None

    @property
    def training_id(self) -> str:
        """Names the folder of all it makes, with a hash of all that can change it."""
        resolved, sha256 = self.recipe.resolved(self.arch), self.dataset.train.sha256
        return ids.training_of_recipe(resolved, self.dataset.name, sha256, self.arch, self.seed)

    @property
    def archs(self) -> tuple[str, ...]:
        """The architecture of each network."""
        return self.recipe.archs or (self.arch,) * self.recipe.trainer.members

    @property
    def teacher(self) -> tuple[Training, str] | None:
        """The training that the frozen teacher comes from, and its run id; of the same data and seed."""
        taught, sha256 = self.recipe.teacher, self.dataset.train.sha256
        run_id = ids.teacher_of(self.recipe.resolved(self.arch), self.dataset.name, sha256, self.arch, self.seed)
        if taught is None or run_id is None:
            return None
        return replace(self, recipe=taught.recipe, arch=taught.arch or self.arch), run_id

    def to_do(self, results: Results, run_ids: Iterable[str] = ()) -> list[Training]:
        """What is still to train for these of its networks (none named: for all), the teacher first.

        A training with a checkpoint was stopped, if only between two of its records: it goes on from there.
        """
        whole = not self._checkpoint(results).exists()
        if whole and all(results.run(run_id).exists() for run_id in run_ids or self.run_ids):
            return []
        before = [] if self.teacher is None else self.teacher[0].to_do(results, [self.teacher[1]])
        return [*before, self]

    @property
    def run_ids(self) -> list[str]:
        """Every network at every checkpoint, best first; an ensemble after its networks."""
        members = self.recipe.trainer.members
        return [
            ids.run_id(self.training_id, member, members, checkpoint)
            for checkpoint in ("best", "last")
            for member in range(members + is_ensemble(self.recipe.trainer))
        ]

    def run(self, results: Results, progress: Progress, wait: bool = True) -> bool | None:
        """Train from the last checkpoint on, and register every network: True. Raises UserError, TrainingError, and
        ModelError for a network that cannot be trained or judged.

        False: another process trained it meanwhile. None, without `wait`: another process is at it. A teacher must be
        registered: see `to_do`.
        """
        lock = results.training(self.training_id) / "lock"
        with locked(lock, wait=False) as ours:
            if ours:
                return self._run(results, progress)
        if not wait:
            return None
        progress.say(f"waiting for another process, which trains {self.training_id}")
        with locked(lock):
            return self._run(results, progress)

    def _run(self, results: Results, progress: Progress) -> bool:
        """`run`, locked."""
        if not self.to_do(results):
            return False
        schedule, folder = self.recipe.schedule, results.training(self.training_id)
        teachers, source = self._load_teacher(results)
        steps = -(-len(self.dataset.train) // schedule.batch_size)
        train = _split(self.dataset.train, self.device, in_bytes=True)
        validation = _split(self.dataset.validation, self.device)
        networks = self.networks()
        for n, network in enumerate(networks, 1):
            _check_judgeable(network, f"network {n}", validation.x[:JUDGED_FIRST], self.dataset.classes)
        if schedule.compile == "auto":
            run_as = passes_for(schedule.compile, schedule.batch_size, self.device)[1]
            progress.say(f"{self.training_id}: networks run {run_as}")
            if not run_as.startswith(EAGER):
                progress.say(
                    start_up(self.archs[0], self.dataset.name, networks[0], validation.x[:1], schedule.batch_size)
                )
        watch = TrainingWatch(progress, self.training_id, schedule.epochs, steps, schedule.batch_size)

        def on_epoch(report: EpochReport) -> None:
            progress.tell(watch.said(report))
            if self.watch is not None:
                self.watch(report)

        try:
            with progress.watching(watch.look):
                result = fit(
                    self.recipe.trainer,
                    networks,
                    train,
                    validation,
                    schedule,
                    self.seed,
                    teachers=teachers,
                    augment=data.augment,
                    flip=self.dataset.flip,
                    checkpoint=self._checkpoint(results),
                    identity=self.training_id,
                    on_begin=watch.begin,
                    on_epoch=on_epoch,
                    on_step=watch.step,
                )
        except OSError as error:
            raise UserError(
                f"cannot write to {folder}: {error.strerror or error}; what its checkpoint holds is kept"
            ) from error
        records = self._register(results, result, source, validation)
        progress.tell(watch.end(records, result.history[-1], result.health))
        self._checkpoint(results).unlink(missing_ok=True)
        return True

    def _checkpoint(self, results: Results) -> Path:
        """What a stopped training goes on from; it is there until all records are."""
        return results.training(self.training_id) / "checkpoint.pt"

    def networks(self) -> list[nn.Module]:
        """The cohort, each network with initial weights of its own; a teacher of the same seed had those before."""
        shape, classes, taken = self.dataset.image_shape, self.dataset.classes, 0 if self.recipe.teacher is None else 1
        return [
            models.create(arch, shape, classes, derive_seed("init", self.seed, taken + n)).to(self.device)
            for n, arch in enumerate(self.archs)
        ]

    def _load_teacher(self, results: Results) -> tuple[list[nn.Module], Source | None]:
        """The frozen teacher (none or one) and what the record says of it."""
        if self.teacher is None:
            return [], None
        run_id = self.teacher[1]
        if not results.run(run_id).exists():
            raise TrainingError(f"its teacher {run_id} is not there: the training of that one failed")
        network, record = registry.load(results, run_id, self.teacher[0].archs)
        return [network.to(self.device)], Source(run_id, record.weights_sha256)

    def _register(self, results: Results, result: Fit, teacher: Source | None, validation: Split) -> list[RunRecord]:
        """The records. validation: what the checkpoints were chosen with; the records say so, and tables look at it."""
        run_as = "; ".join(filter(None, [result.run_as, *self.remarks]))
        cost, chosen_with = self._cost(result), Images(*(part.cpu() for part in validation)).sha256
        shown = [Epoch(**{one.name: getattr(report, one.name) for one in fields(Epoch)}) for report in result.history]
        history = HistoryRecord(self.training_id, shown)
        if read_history(results, self.training_id) != history:
            write_history(results, history)
        networks = [*self._networks(result.best, result.health), *self._networks(result.last, result.health)]
        records = []
        for run_id, network in zip(self.run_ids, networks, strict=True):
            record = self._record(run_id, network, cost, teacher)
            record = replace(record, validation_sha256=chosen_with, run_as=run_as)
            records.append(record)
            registry.register(results, network.snapshot.state, record)
        return records

    def _networks(self, snapshots: list[Snapshot], health: list[list[str]]) -> list[_Network]:
        """The cohort at one checkpoint and, where it is an ensemble, all as one: nothing chose that one's epoch."""
        kinds = zip(self.archs, snapshots, health, strict=True)
        alone = [_Network(member, arch, snapshot, words) for member, (arch, snapshot, words) in enumerate(kinds)]
        if not is_ensemble(self.recipe.trainer):
            return alone
        state = models.ensemble_state([one.snapshot.state for one in alone])
        whole = Snapshot(max(one.snapshot.epoch for one in alone), math.nan, math.nan, state)
        sick = [f"network {one.member + 1} {words}" for one in alone for words in one.health]
        return [*alone, _Network(len(alone), "+".join(self.archs), whole, sick)]

    def _cost(self, result: Fit) -> TrainingCost:
        history = result.history
        training_seconds = sum(report.training_seconds for report in history)
        return TrainingCost(
            seconds=sum(report.seconds for report in history),
            forward_passes=sum(report.forward_passes for report in history),
            backward_passes=sum(report.backward_passes for report in history),
            images_per_second=len(history) * len(self.dataset.train) / training_seconds,
            peak_memory_bytes=max(report.peak_memory_bytes for report in history),
        )

    def _record(self, run_id: str, network: _Network, cost: TrainingCost, teacher: Source | None) -> RunRecord:
        label, chosen = run_id.rpartition(".")[2], network.snapshot
        figures = {"clean": chosen.clean, "robust": chosen.robust}
        return RunRecord(
            run_id=run_id,
            training_id=self.training_id,
            trainer=self.recipe.trainer_name,
            recipe=self.recipe.name,
            settings=self.recipe.resolved(self.arch)["settings"],
            dataset=self.dataset.name,
            images_sha256=self.dataset.train.sha256,
            arch=network.arch,
            image_shape=list(self.dataset.image_shape),
            classes=self.dataset.classes,
            seed=self.seed,
            member=network.member,
            checkpoint="best" if label.endswith("best") else "last",
            epoch=chosen.epoch,
            validation={name: value for name, value in figures.items() if math.isfinite(value)},
            weights_sha256="",
            weights_file=f"{label}.safetensors",
            health=network.health,
            cost=cost,
            provenance=provenance(describe(self.device), torch.get_num_threads()),
            teacher=teacher,
            reading=self.dataset.reading,
            outside=self.recipe.outside(self.arch),
        )


def _check_judgeable(network: nn.Module, who: str, x: Tensor, classes: int) -> None:
    """Raises ModelError for a network that could not be judged after its training, whatever it learns."""
    try:
        logits = Target(network).logits(x)
        if masks(logits):
            raise ModelError(masked_words("it"))
        check_logits(logits, classes)
    except ModelError as error:
        raise ModelError(f"{who}: {error}") from error


def _split(images: Images, device: torch.device, in_bytes: bool = False) -> Split:
    """in_bytes: where they are multiples of 1/255, see `Images.compact`."""
    x = images.compact if in_bytes else images.x
    return Split(x.to(device), images.y.to(device), images.ids.to(device))
