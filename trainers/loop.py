"""The one epoch loop: N networks, schedule, precision, validation, checkpoints and exact resume.

Every random number comes from (seed, epoch, image id), so the state of a training is weights, momenta, and the number
of epochs done: a run that is killed and started again ends in the same bits. `best` is chosen by PGD accuracy on
validation images (see `trainers.contract.perturbations`); test images never come near this file.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from attacks.contract import ThreatModel
from attacks.noise import Noise, derive_seed
from attacks.pgd import PGD
from attacks.target import Precision, Target
from trainers.contract import Cohort, Trainer, perturbations, rounds_of, teachers_of

State = dict[str, Tensor]
Augment = Callable[[Tensor, Tensor, Tensor], Tensor]


class TrainingError(RuntimeError):
    """The training broke down: its loss is no number any more."""


class Split(NamedTuple):
    """Images [N, C, H, W] in [0, 1], labels [N] int64, image ids [N] int64."""

    x: Tensor
    y: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: SGD with momentum. Epochs count from 1.

    lr: peak learning rate. kind: "steps" multiplies by `decay` from each epoch in `milestones` on; "cosine" falls to 0
    over all steps; "cyclic" rises linearly to lr over the first 40 % and falls to 0. augment: pad-4 crop, and flip
    where the data set allows it. precision: of the passes ("bfloat16" is mixed precision; losses stay float32).
    validation_steps: of PGD on the validation images after each epoch, with the inner attack's radius and step. The
    last batch of an epoch may be smaller. Raises ValueError.
    """

    epochs: int
    batch_size: int = 128
    lr: float = 0.1
    kind: Literal["steps", "cosine", "cyclic"] = "steps"
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    augment: bool = True
    precision: Precision = "float32"
    validation_steps: int = 10

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.validation_steps) < 1 or not self.lr >= 0:
            raise ValueError(
                f"a schedule needs epochs, batch_size, validation_steps >= 1 and lr >= 0; got epochs = {self.epochs}, "
                f"batch_size = {self.batch_size}, validation_steps = {self.validation_steps}, lr = {self.lr:g}"
            )

    def lr_at(self, epoch: int, step: int, steps: int) -> float:
        """Learning rate of a step: epoch from 1, step from 0 of `steps` in this epoch."""
        if self.kind == "steps":
            return self.lr * self.decay ** sum(epoch >= milestone for milestone in self.milestones)
        done = (epoch - 1 + step / steps) / self.epochs
        if self.kind == "cosine":
            return self.lr * (1 + math.cos(math.pi * done)) / 2
        return self.lr * min(done / 0.4, (1 - done) / 0.6)


@dataclass(frozen=True)
class EpochReport:
    """One epoch: mean loss over networks, validation accuracies in [0, 1] per network, cost in images and seconds."""

    epoch: int
    loss: float
    lr: float
    clean: list[float]
    robust: list[float]
    seconds: float
    forward_passes: int
    backward_passes: int


@dataclass
class Snapshot:
    """One network at the end of one epoch."""

    epoch: int
    clean: float
    robust: float
    state: State


@dataclass
class Fit:
    """A finished training: per network its best and last snapshot.

    best: by validation PGD accuracy, or by clean accuracy for a naturally trained network; the earlier of equals.
    """

    best: list[Snapshot]
    last: list[Snapshot]
    history: list[EpochReport] = field(default_factory=list)


def fit(
    trainer: Trainer,
    networks: Sequence[nn.Module],
    train: Split,
    validation: Split,
    schedule: Schedule,
    seed: int,
    *,
    teachers: Sequence[nn.Module] = (),
    augment: Augment | None = None,
    flip: bool = False,
    checkpoint: Path | None = None,
    identity: str = "",
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_step: Callable[[], None] | None = None,
) -> Fit:
    """Train the networks in place and return their best and last states.

    train, validation: on the networks' device. teachers: frozen networks, as many as the method has. augment: (x,
    offsets, flips) -> x, see `bench.data.augment`. checkpoint: file that is written whole after every epoch and
    continued from; identity: what training it belongs to. Raises ValueError for a cohort or checkpoint that does not
    fit, TrainingError when the loss is no number.
    """
    _check_cohort(trainer, networks, teachers)
    run = _Run(trainer, networks, teachers, train, schedule, seed, augment if schedule.augment else None, flip)
    state = _load(checkpoint, identity, run) if checkpoint is not None and checkpoint.exists() else Fit([], [])
    for epoch in range(len(state.history) + 1, schedule.epochs + 1):
        report = run.epoch(epoch, validation, on_step)
        _remember(state, report, run)
        if checkpoint is not None:
            _save(checkpoint, identity, state, run)
        if on_epoch:
            on_epoch(report)
    return state


class _Run:
    """Networks and optimisers of one training."""

    def __init__(
        self,
        trainer: Trainer,
        networks: Sequence[nn.Module],
        teachers: Sequence[nn.Module],
        train: Split,
        schedule: Schedule,
        seed: int,
        augment: Augment | None,
        flip: bool,
    ) -> None:
        self.trainer, self.networks, self.train, self.schedule = trainer, list(networks), train, schedule
        self.teachers, self.seed, self.augment, self.flip = teachers, seed, augment, flip
        self.optimizers = [
            torch.optim.SGD(
                network.parameters(),
                lr=schedule.lr,
                momentum=schedule.momentum,
                nesterov=schedule.nesterov,
                weight_decay=schedule.weight_decay,
                fused=True,
            )
            for network in networks
        ]

    def epoch(self, epoch: int, validation: Split, on_step: Callable[[], None] | None) -> EpochReport:
        """One pass over the training images, then validation."""
        started = time.perf_counter()
        cohort = Cohort(self.networks, self.schedule.precision, self.teachers)
        generator = torch.Generator().manual_seed(derive_seed("order", self.seed, epoch))
        order = torch.randperm(len(self.train.x), generator=generator).to(self.train.x.device)
        batches = order.split(self.schedule.batch_size)
        total = torch.zeros((), device=self.train.x.device)
        for network in self.networks:
            network.train()
        with torch.random.fork_rng(devices=_cuda(self.train.x)):  # a user's dropout draws from the global state
            torch.manual_seed(derive_seed("epoch", self.seed, epoch))
            for step, rows in enumerate(batches):
                lr = self.schedule.lr_at(epoch, step, len(batches))
                total += self._step(cohort, rows, epoch, lr)
                if on_step:
                    on_step()
        loss = float(total) / len(batches)
        if not math.isfinite(loss):
            raise TrainingError(f"the loss became {loss} in epoch {epoch}; a lower learning rate may help")
        for network in self.networks:
            network.eval()
        accuracies = [self._validate(n, validation) for n in range(len(self.networks))]
        return EpochReport(
            epoch,
            loss,
            lr,
            [clean for clean, _ in accuracies],
            [robust for _, robust in accuracies],
            time.perf_counter() - started,
            cohort.forward_passes,
            cohort.backward_passes,
        )

    def _step(self, cohort: Cohort, rows: Tensor, epoch: int, lr: float) -> Tensor:
        """One batch -> mean loss. Each round: all losses, one backward pass, all optimisers from the same values."""
        x, y = self.train.x[rows], self.train.y[rows]
        cohort.noise = Noise(derive_seed("train", self.seed, epoch), self.train.ids[rows])
        if self.augment is not None:
            flips = cohort.noise.fork("flip").uniform() < (0.5 if self.flip else 0.0)
            x = self.augment(x, cohort.noise.fork("crop").integers(0, 8, 2), flips)
        total = torch.zeros((), device=x.device)
        for cohort.round in range(rounds_of(self.trainer)):
            loss = torch.stack(self.trainer.batch_loss(cohort, x, y)).sum()
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = lr
                optimizer.step()
            total += loss.detach()
        return total / len(self.networks) / rounds_of(self.trainer)

    def _validate(self, n: int, validation: Split) -> tuple[float, float]:
        """Clean accuracy, and accuracy under PGD of every type that network n is trained against.

        The noise is the same in every epoch, so epochs are compared on equal terms.
        """
        target = Target(self.networks[n], gradient_precision=self.schedule.precision)
        standing = target.logits(validation.x).argmax(1) == validation.y
        clean = float(standing.float().mean())
        for inner in perturbations(self.trainer, n) or (self.trainer.inner,):
            pgd = PGD(ThreatModel(inner.norm, inner.eps), self.schedule.validation_steps, inner.step)
            x, y = validation.x[standing], validation.y[standing]
            noise = Noise(derive_seed("validation", self.seed), validation.ids[standing])
            if len(x):
                standing[standing.clone()] = target.logits(pgd(target, x, y, noise)).argmax(1) == y
        return clean, float(standing.sum()) / len(validation.y)


def _check_cohort(trainer: Trainer, networks: Sequence[nn.Module], teachers: Sequence[nn.Module]) -> None:
    if len(networks) != trainer.members:
        raise ValueError(f"{type(trainer).__name__} trains {trainer.members} network(s); got {len(networks)}")
    if len(teachers) != teachers_of(trainer):
        raise ValueError(f"{type(trainer).__name__} has {teachers_of(trainer)} frozen teacher(s); got {len(teachers)}")
    states = [torch.cat([p.detach().flatten().cpu() for p in network.parameters()]) for network in networks]
    for i, first in enumerate(states):
        if any(torch.equal(first, other) for other in states[i + 1 :]):
            raise ValueError("networks of a cohort start from equal weights, so they would teach each other nothing")


def _remember(state: Fit, report: EpochReport, run: _Run) -> None:
    """Append the epoch; copy the weights of each network's last and, where it is better, best snapshot."""
    state.history.append(report)
    copies = [{name: value.detach().cpu().clone() for name, value in n.state_dict().items()} for n in run.networks]
    figures = zip(report.clean, report.robust, copies, strict=True)
    state.last = [Snapshot(report.epoch, clean, robust, copy) for clean, robust, copy in figures]
    if not state.best:
        state.best = list(state.last)
    for n, (old, new) in enumerate(zip(state.best, state.last, strict=True)):
        robust = perturbations(run.trainer, n) != ()
        better = new.robust > old.robust if robust else new.clean > old.clean
        state.best[n] = new if better else old


def _save(path: Path, identity: str, state: Fit, run: _Run) -> None:
    """Tensors and plain types only, written beside and renamed: a checkpoint that exists is whole."""
    content = {
        "identity": identity,
        "best": [vars(snapshot) for snapshot in state.best],
        "last": [vars(snapshot) for snapshot in state.last],
        "history": [asdict(report) for report in state.history],
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _load(path: Path, identity: str, run: _Run) -> Fit:
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if content["identity"] != identity:
        raise ValueError(f"{path} belongs to another training ({content['identity']}); delete it and train again")
    state = Fit(
        [Snapshot(**one) for one in content["best"]],
        [Snapshot(**one) for one in content["last"]],
        [EpochReport(**one) for one in content["history"]],
    )
    for network, snapshot in zip(run.networks, state.last, strict=True):
        network.load_state_dict(snapshot.state)
    for optimizer, saved in zip(run.optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state


def _cuda(x: Tensor) -> list[torch.device]:
    return [x.device] if x.device.type == "cuda" else []
