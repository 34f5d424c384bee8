"""A training that goes on from loan to loan: the one loop, its checkpoint carried in a folder of small files.

The folder (STATE) holds the checkpoint in pieces, `state.json`, which says how exactly it goes on, and a line for every
epoch (`epochs.jsonl`). The training runs in a results folder as `bench train` does, and its networks are registered
there. Where that folder has a checkpoint that is as far, as on a machine that is still held, that one is taken: nothing
is rounded then.
"""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.ground.config import UserError
from bench.ground.events import Event, TrainEpoch
from bench.ground.files import make_folder
from bench.ground.plain import TEXT, read_plain
from bench.ground.progress import Progress
from bench.ledger.folder import Results
from bench.ledger.runs import read_run
from bench.running.train import Training
from bench.subjects.catalog import Catalog
from bench.subjects.device import choose_device
from benchmarks.gpu import compact, images, pieces
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.device import facts
from trainers.checkpoint import Checkpoint
from trainers.health import EpochReport


class LoanOver(BaseException):
    """The training is to stop; it has written its checkpoint, unless it was just being registered and has one."""


@dataclass(frozen=True)
class Loan:
    """What one loan is for. state, results: folders. seconds: from the start of the command; the last `reserve` of them
    are for checkpoint and pieces. most: bytes of the state. batches: stop after so many, 0 is never.
    """

    recipe: str
    state: Path
    results: Results
    seconds: float
    dataset: str = "cifar10"
    data: Path | None = None
    arch: str = "resnet18"
    seed: int = 0
    device: str = "auto"
    assignments: tuple[str, ...] = ()
    most: int = pieces.TOTAL - pieces.SPARE
    reserve: float = 45.0
    batches: int = 0

    @property
    def command(self) -> str:
        """That goes on."""
        given: dict[str, Any] = {"--arch": self.arch, "--dataset": self.dataset, "--data": self.data}
        given |= {"--state": self.state, "--results": self.results.root, "--seconds": f"{self.seconds:.0f}"}
        given |= {"--seed": self.seed or None, "--most": self.most / 2**20 if self.most != Loan.most else None}
        words = [str(word) for pair in given.items() if pair[1] is not None for word in pair]
        words += [word for assignment in self.assignments for word in ("--set", assignment)]
        return shlex.join(["benchmarks/gpu.sh", "train", self.recipe, *words])


def train(loan: Loan, clock: Clock) -> bool:
    """Goes on until the training or the loan is over; whether the training is. Raises UserError, TrainingError."""
    dataset, missing = images.load(loan.dataset, loan.data)
    catalog = Catalog(assignments=loan.assignments)
    recipe = catalog.recipe(loan.recipe)
    catalog.check_assignments()
    training = Training(recipe, dataset, loan.arch, loan.seed, choose_device(loan.device))
    _check_teacher(training, loan)
    before = State(make_folder(loan.state), training)
    if before.finished(loan.results):
        say(f"trained already: {', '.join(training.run_ids)}")
        return True
    resumed = before.place(loan.results)
    if clock.left < loan.reserve:
        raise UserError(
            f"{clock.left:.0f} of {loan.seconds:.0f} s are left, and {loan.reserve:.0f} are kept for the checkpoint; "
            "give more with --seconds"
        )
    say(f"{training.training_id} on {facts(training.device)['device']}: {resumed}")
    if missing:
        say(f"data: {missing}")
    remarks = tuple(filter(None, [missing, before.remark(resumed)]))
    finished = _run(replace(training, remarks=remarks, watch=before.line), loan, clock)
    for line in before.write(loan, resumed, finished):
        say(line)
    return finished


def say(line: str) -> None:
    print(line, flush=True)


def _check_teacher(training: Training, loan: Loan) -> None:
    """Raises UserError for a teacher that is not there: a loan is one training's."""
    lacking = [] if training.teacher is None else training.teacher[0].to_do(loan.results, [training.teacher[1]])
    if lacking:
        raise UserError(
            f"{loan.recipe} learns from {lacking[-1].recipe.name}, which is not in {loan.results.root}: train it first "
            "with the same options, or bring it there with `benchmarks/gpu.sh join`"
        )


def _run(training: Training, loan: Loan, clock: Clock) -> bool:
    """Whether the training is over; else its checkpoint is written."""
    try:
        with _signals_end_the_loan(), _Watch(loan, clock) as progress:
            training.run(loan.results, progress)
    except LoanOver:
        return False
    return True


class _Watch(Progress):
    """Ends the loan in time."""

    def __init__(self, loan: Loan, clock: Clock) -> None:
        super().__init__()
        self.loan, self.clock, self.batches = loan, clock, 0

    def step(self) -> None:
        self.batches += 1
        if self.batches == self.loan.batches or self.clock.left < self.loan.reserve:
            signal.raise_signal(signal.SIGTERM)  # the loop's own way to stop: after a batch, with its checkpoint

    def tell(self, event: Event) -> None:
        super().tell(event)
        if isinstance(event, TrainEpoch) and not event.again:
            say(f"{event.figures}, {self.clock.left:.0f} s left")


@contextmanager
def _signals_end_the_loan() -> Iterator[None]:
    """Ctrl-C and SIGTERM, from whoever, are LoanOver."""

    def over(number: int, frame: object) -> None:
        raise LoanOver

    before = {one: signal.signal(one, over) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


class State:
    """The folder that travels. Raises UserError for one that is damaged or another training's."""

    def __init__(self, folder: Path, training: Training) -> None:
        self.folder, self.training, self.manifest = folder, training, folder / "state.json"
        self.said = pieces.manifest_of(self.manifest) if self.manifest.exists() else {}
        theirs = self.said.get("training_id", training.training_id)
        if theirs != training.training_id:
            raise UserError(
                f"{folder} is the state of another training, {theirs}; this one is {training.training_id}: give the "
                "recipe, seed, data and settings that it began with, or another --state"
            )

    def finished(self, results: Results) -> bool:
        """Whether nothing is left to do."""
        return bool(self.said.get("finished")) and not self.training.to_do(results)

    def place(self, results: Results) -> str:
        """Puts the state where the loop looks for it, unless what lies there is as far; how exactly it goes on."""
        file = self._checkpoint(results)
        there = file.read()
        if there and (not self.said.get("pieces") or _progress(there) >= tuple(self.said["progress"])):
            self._forget_lines(_progress(there)[0])
            return "from the checkpoint in the results folder, exactly: every bit is kept"
        if not self.said.get("pieces"):
            self._forget_lines(0)
            return "from the beginning"
        file.write(compact.grow(pieces.joined(self.manifest)))
        self._forget_lines(self.said["progress"][0])
        return f"from {self.folder} after epoch {self.said['progress'][0]}, {self.said['resumes']}"

    def remark(self, resumed: str) -> str:
        """For the records: how often it went on from other bits, and the devices where there were several."""
        ways = [one["resumed"] for one in self._loans] + [resumed]
        inexact = [way[way.index(compact.INEXACT) :] for way in ways if compact.INEXACT in way]
        words = [f"stopped and went on {len(inexact)} times {' / '.join(dict.fromkeys(inexact))}"] if inexact else []
        kinds = {f"{one['device']}, torch {one['torch']}" for one in [*self._loans, facts(self.training.device)]}
        return "; ".join(
            words + ([f"on {len(kinds)} devices: {' and '.join(sorted(kinds))}"] if len(kinds) > 1 else [])
        )

    def line(self, report: EpochReport) -> None:
        """Writes the figures of an epoch."""
        self._append(asdict(report))

    def _append(self, report: dict[str, Any]) -> None:
        this = facts(self.training.device)
        content = {"training_id": self.training.training_id, "date": this["date"], "device": this["device"]}
        with open(self._lines, "a") as file:
            file.write(json.dumps(content | report) + "\n")

    def write(self, loan: Loan, resumed: str, finished: bool) -> list[str]:
        """The new state, and what is to be said of it. A finished training keeps the pieces that it had: its networks
        are registered, and until they have travelled nothing is thrown away.
        """
        content = None if finished else self._checkpoint(loan.results).read()
        now = (self.training.recipe.schedule.epochs, 0) if finished else _progress(content) if content else (0, 0)
        said: dict[str, Any] = {key: value for key, value in self.said.items() if key not in ("pieces", "sha256")}
        said |= {"training_id": self.training.training_id, "recipe": loan.recipe, "arch": loan.arch}
        said |= {"data": self.training.dataset.source, "finished": finished}
        said["loans"] = [*self._loans, facts(self.training.device) | {"resumed": resumed, "progress": list(now)}]
        if content is None:
            return self._write_without(loan, said)
        blob, bits = compact.shrink(content, loan.most)
        for report in content["history"][len(self._written) :]:  # an epoch that the loan ended with
            self._append(report)
        said |= {"progress": list(now), "kept": bits._asdict(), "resumes": bits.words}
        pieces.cut(self.folder, "state", blob, said)
        return [
            f"stopped after epoch {now[0]} and {now[1]} batches; {len(blob) / 2**20:.1f} MiB in {self.folder}",
            f"from there it goes on {bits.words}",
            f"go on: {loan.command}",
        ]

    def _write_without(self, loan: Loan, said: dict[str, Any]) -> list[str]:
        """The state of a training that has no checkpoint: it is finished, or has not begun."""
        before = {"pieces": [], "sha256": pieces.sha256(b"")} | self.said
        said |= {key: before[key] for key in ("pieces", "sha256")}
        ids = self.training.run_ids if said["finished"] else []
        said["runs"] = {run_id: read_run(loan.results, run_id).weights_sha256 for run_id in ids}
        pieces.put(self.manifest, json.dumps(said, indent=1).encode())
        if not ids:
            return [f"stopped before the first batch; go on: {loan.command}"]
        carry = ["benchmarks/gpu.sh", "carry", self.training.training_id, "--results", str(loan.results.root)]
        return [
            f"finished; registered {', '.join(ids)}",
            f"to take the networks along: {shlex.join(carry)} --to FOLDER --part 1",
        ]

    def _checkpoint(self, results: Results) -> Checkpoint:
        """The loop's own."""
        path = results.training(self.training.training_id) / "checkpoint.pt"
        return Checkpoint(path, self.training.training_id, minutes=0)

    @property
    def _loans(self) -> list[dict[str, Any]]:
        """Those before."""
        return list(self.said.get("loans", []))

    @property
    def _lines(self) -> Path:
        return self.folder / "epochs.jsonl"

    def _forget_lines(self, epochs: int) -> None:
        """Lines of epochs that will come again."""
        pieces.put(self._lines, "".join(self._written[:epochs]).encode())

    @property
    def _written(self) -> list[str]:
        """The lines so far."""
        return read_plain(self._lines, TEXT).decode().splitlines(keepends=True) if self._lines.exists() else []


def _progress(content: dict[str, Any]) -> tuple[int, int]:
    """Whole epochs, and batches of the next one."""
    return len(content["history"]), int(content["partial"]["batches"])
