"""What can be said while trainings and attacks run: one class for each kind, and docs/progress.md for who reads them.

Whoever works tells events to a `bench.ground.progress.Progress`; listeners decide what becomes of them. The fields are
what `--json` prints. Accuracies are shares in [0, 1]; a pass is one image through one network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Event:
    """kind: its name in `--json`. lines: what a person reads of it, line by line; most say nothing."""

    kind: ClassVar[str]

    def lines(self) -> list[str]:
        """The lines that stay."""
        return []


@dataclass(frozen=True)
class RunBegin(Event):
    """A command begins. cells: of its table (0 without one); kept: of them those that have their record already."""

    kind = "run-begin"
    command: Literal["run", "train"]
    name: str
    dataset: str
    images: int
    cells: int = 0
    kept: int = 0


@dataclass(frozen=True)
class Note(Event):
    """A line for a person."""

    kind = "note"
    text: str

    def lines(self) -> list[str]:
        """The line."""
        return [self.text]


@dataclass(frozen=True)
class Counted(Event):
    """So many of `total` steps of something are done that is neither training nor attack of a table."""

    kind = "counted"
    what: str
    done: int
    total: int


@dataclass(frozen=True)
class TrainBegin(Event):
    """A training begins, or goes on after `epoch` epochs and `step` batches of the next. steps: batches an epoch."""

    kind = "train-begin"
    training: str
    epochs: int
    steps: int
    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class TrainProgress(Event):
    """So many batches of epoch `epoch` are begun. images_per_second: since it was last said."""

    kind = "train-progress"
    training: str
    epoch: int
    epochs: int
    step: int
    steps: int
    images_per_second: float


@dataclass(frozen=True)
class TrainEpoch(Event):
    """An epoch is over. loss: mean over its batches and networks. clean, robust: on validation images, per network.

    Passes are those of training, seconds are with validation. again: an earlier process did it; told as the training
    goes on from its checkpoint.
    """

    kind = "train-epoch"
    training: str
    epoch: int
    epochs: int
    loss: float
    lr: float
    clean: list[float]
    robust: list[float]
    seconds: float
    forward_passes: int
    backward_passes: int
    again: bool = False

    @property
    def figures(self) -> str:
        """Epoch, loss and accuracies in one line."""
        clean, robust = ("/".join(f"{value:.1%}" for value in values) for values in (self.clean, self.robust))
        return f"epoch {self.epoch}/{self.epochs}, loss {self.loss:.3f}, validation clean {clean}, robust {robust}"


@dataclass(frozen=True)
class TrainEnd(Event):
    """A training is over and its networks are registered. health: what is wrong with them. Costs are of all epochs."""

    kind = "train-end"
    training: str
    run_ids: list[str]
    figures: str
    health: list[str]
    seconds: float
    forward_passes: int
    backward_passes: int

    def lines(self) -> list[str]:
        """The last epoch, and a line for everything that is wrong."""
        return [f"trained {self.training}: {self.figures}", *(f"  {words}" for words in self.health)]


@dataclass(frozen=True)
class TrainFailed(Event):
    """A training has no networks, for this reason."""

    kind = "train-failed"
    training: str
    reason: str


@dataclass(frozen=True)
class Cell(Event):
    """What names a cell of a table: its network, its record, its row and column."""

    run_id: str
    eval_id: str
    row: str
    column: str


@dataclass(frozen=True)
class AttackBegin(Cell):
    """An attack begins on so many images."""

    kind = "attack-begin"
    attack: str
    images: int


@dataclass(frozen=True)
class AttackProgress(Cell):
    """Passes that are begun so far. standing: images in the attack's last pass; those that it fooled have left, where
    it lets them. None before the first one, and for an attack of a library. images_per_second: forward passes a second,
    since it was last said.
    """

    kind = "attack-progress"
    forward_passes: int
    backward_passes: int
    standing: int | None
    images_per_second: float


@dataclass(frozen=True)
class AttackEnd(Cell):
    """An attack is over, judged and recorded. clean, robust: accuracies; low, high: the 95 % interval of `robust` over
    images (Wilson). signs: what speaks for a number that is too high. Costs: see `bench.ground.provenance.Cost`.
    """

    kind = "attack-end"
    attack: str
    images: int
    clean: float
    robust: float
    low: float
    high: float
    seconds: float
    forward_passes: int
    backward_passes: int
    signs: list[str]

    def lines(self) -> list[str]:
        """The accuracies and what they cost, and a line for each sign."""
        passes = f"{self.forward_passes} forward, {self.backward_passes} backward passes"
        summary = f"clean {self.clean:.2%}, robust {self.robust:.2%}, {self.seconds:.1f} s, {passes}"
        return [f"{self.row:8} {self.column:8} {summary}", *(f"sign: {words}" for words in self.signs)]


@dataclass(frozen=True)
class CellKept(Cell):
    """Another process made this cell's record meanwhile."""

    kind = "cell-kept"


@dataclass(frozen=True)
class CellFailed(Cell):
    """A cell has no number, for this reason: its attack failed, or its network is not there."""

    kind = "cell-failed"
    reason: str


@dataclass(frozen=True)
class RunEnd(Event):
    """A command ends. outcome: failed where a cell or a training has; stopped by Ctrl-C or SIGTERM. Passes and seconds
    are those of this command, its helpers' with it. wrote: paths of tables and pictures; networks: run ids of `train`.
    """

    kind = "run-end"
    outcome: Literal["done", "failed", "stopped"]
    trained: int
    attacked: int
    kept: int
    failed: int
    seconds: float
    forward_passes: int
    backward_passes: int
    wrote: list[str] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)


KINDS: dict[str, type[Event]] = {
    one.kind: one
    for one in (
        RunBegin, Note, Counted, TrainBegin, TrainProgress, TrainEpoch, TrainEnd, TrainFailed,
        AttackBegin, AttackProgress, AttackEnd, CellKept, CellFailed, RunEnd,
    )
}  # fmt: skip
