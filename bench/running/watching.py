"""How far a training or an attack is: what is told of it, from numbers that its loop has anyway."""

from __future__ import annotations

import time
from collections.abc import Sequence

from attacks.target import Target
from bench.ground import events
from bench.ground.progress import Progress
from bench.ground.stats import wilson
from bench.judge.evaluate import Verdicts
from bench.ledger.plan import Cell
from bench.ledger.runs import RunRecord
from trainers.health import EpochReport


class Rate:
    """How many a second, since it was last asked."""

    def __init__(self) -> None:
        self._done, self._at = 0, time.monotonic()

    def now(self, done: int) -> float:
        """done: so many since the beginning."""
        now, before = time.monotonic(), (self._done, self._at)
        self._done, self._at = done, now
        return max(0, done - before[0]) / max(now - before[1], 1e-9)


class TrainingWatch:
    """One training, to `progress`. steps: batches an epoch, of `batch` images."""

    def __init__(self, progress: Progress, training: str, epochs: int, steps: int, batch: int) -> None:
        self.progress, self.training, self.epochs, self.steps, self.batch = progress, training, epochs, steps, batch
        self.begun, self.first, self.rate = 0, 0, Rate()

    def begin(self, history: Sequence[EpochReport], batches: int) -> None:
        """The loop begins after these epochs and so many batches of the next."""
        self.first = self.begun = len(history) * self.steps + batches
        begun = events.TrainBegin(self.training, self.epochs, self.steps, len(history), batches)
        self.progress.tell(begun)
        for report in history:
            self.progress.tell(self.said(report, again=True))

    def step(self) -> None:
        """A batch is done. Only counts."""
        self.begun += 1
        self.progress.step()

    def said(self, report: EpochReport, again: bool = False) -> events.TrainEpoch:
        """An epoch, as it is told."""
        return events.TrainEpoch(
            self.training,
            report.epoch,
            self.epochs,
            report.loss,
            report.lr,
            report.clean,
            report.robust,
            report.seconds,
            report.forward_passes,
            report.backward_passes,
            again,
        )

    def look(self) -> events.TrainProgress | None:
        """How far it is; None before its first batch, and between two epochs, whose end says it all."""
        epoch, step = divmod(self.begun, self.steps)
        if self.begun == self.first or step == 0:
            return None
        rate = self.rate.now((self.begun - self.first) * self.batch)
        return events.TrainProgress(self.training, epoch + 1, self.epochs, step, self.steps, rate)

    def end(self, records: Sequence[RunRecord], last: EpochReport, health: Sequence[Sequence[str]]) -> events.TrainEnd:
        """What is told when its networks are registered."""
        cost, sick = records[0].cost, [f"network {n} {one}" for n, words in enumerate(health, 1) for one in words]
        run_ids, figures = [record.run_id for record in records], self.said(last).figures
        passes = (cost.forward_passes, cost.backward_passes)
        return events.TrainEnd(self.training, run_ids, figures, sick, cost.seconds, *passes)


class AttackWatch:
    """One attack of a table."""

    def __init__(self, cell: Cell, column: str, images: int) -> None:
        self.cell, self.images, self.rate = cell, images, Rate()
        self.names = (cell.run_id, cell.eval_id, cell.row, column)
        self.target: Target | None = None

    def see(self, target: Target) -> None:
        """The target that it is at from now on."""
        self.target, self.rate = target, Rate()

    def begin(self) -> events.AttackBegin:
        """What is told first."""
        return events.AttackBegin(*self.names, self.cell.attack, self.images)

    def look(self) -> events.AttackProgress | None:
        """How far it is; None before its network is there."""
        if self.target is None:
            return None
        forward, backward, standing = self.target.forward_passes, self.target.backward_passes, self.target.at_work
        return events.AttackProgress(*self.names, forward, backward, standing, self.rate.now(forward))

    def end(self, verdicts: Verdicts) -> events.AttackEnd:
        """What came out."""
        table, cost = verdicts.table, verdicts.cost
        low, high = wilson(int(table["robust"].sum()), len(table))
        return events.AttackEnd(
            *self.names,
            self.cell.attack,
            len(table),
            verdicts.clean_accuracy,
            verdicts.robust_accuracy,
            low,
            high,
            cost.seconds,
            cost.forward_passes,
            cost.backward_passes,
            list(verdicts.signs),
        )
