"""The one epoch loop: N networks, schedule, precision, validation, checkpoints and exact resume.

Every random number comes from (seed, epoch, image id), but for a user's dropout, which draws from the global generator.
So the state of a training is weights, momenta, averages, the place in the epoch and that generator: a run that is
killed and started again ends in the same bits. `best` is chosen by PGD accuracy on validation images (see
`trainers.contract.perturbations`); test images never come near this file.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks.model import ModelError, in_words
from attacks.noise import Noise, derive_seed
from trainers import awp, ema
from trainers.checkpoint import Checkpoint
from trainers.contract import Cohort, Trainer, perturbations, rounds_of, teachers_of
from trainers.health import EpochReport, TrainingError, health
from trainers.network import check_last_batch, check_trainable, copied
from trainers.passes import EAGER, passes_for
from trainers.schedule import Schedule
from trainers.validation import Measured, Split, images_of, measure

State = dict[str, Tensor]
Augment = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class Snapshot:
    """One network at the end of one epoch; with EMA its average."""

    epoch: int
    clean: float
    robust: float
    state: State


@dataclass
class Fit:
    """A finished training: per network its best and last snapshot, and what is wrong with it.

    best: by validation PGD accuracy, or by clean accuracy for a naturally trained network; the earlier of equals.
    health: see `trainers.health`. run_as: how the networks were run, where not as they
    are; see `trainers.passes`.
    """

    best: list[Snapshot]
    last: list[Snapshot]
    history: list[EpochReport] = field(default_factory=list)
    health: list[list[str]] = field(default_factory=list)
    run_as: str = ""


@dataclass
class Partial:
    """How far an epoch is: batches done, the sum of their losses, seconds and passes they took, and the states of the
    global random generators to go on with ([] where the epoch begins).
    """

    batches: int = 0
    loss: Tensor | float = 0.0
    seconds: float = 0.0
    forward_passes: int = 0
    backward_passes: int = 0
    random: list[Tensor] = field(default_factory=list)


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
    minutes: float = 10.0,
    on_begin: Callable[[Sequence[EpochReport], int], None] | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_step: Callable[[], None] | None = None,
) -> Fit:
    """Train the networks in place and return their best and last states.

    train, validation: on the networks' device. teachers: frozen networks, as many as the method has. augment: (x,
    offsets, flips) -> x, see `data.augment`. checkpoint: file that is written whole after every epoch, and within
    an epoch when it is `minutes` old, and continued from; identity: what training it belongs to. on_begin: told once
    which epochs, and how many batches of the next, the checkpoint holds. SIGINT and SIGTERM
    wait for the end of the batch (or of the validation) and its checkpoint. Raises ValueError for a cohort that
    does not fit, ModelError (which is one) for a network that cannot be trained, TrainingError when loss or logits are
    no numbers and for a checkpoint that is damaged or another training's, OSError when the checkpoint cannot be
    written.
    """
    _check_cohort(trainer, networks, teachers)
    check_last_batch(networks, train.x, schedule.batch_size)
    if train.x.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(train.x.device)
    run = _Run(trainer, networks, teachers, train, schedule, seed, augment if schedule.augment else None, flip)
    file = Checkpoint(checkpoint, identity, minutes)
    content = file.read()
    state, partial = (Fit([], []), Partial()) if content is None else run.load(content)

    def step_done(partial: Partial) -> None:
        if file.due:
            file.write(run.content(state, partial))
            file.stop_if_asked()
        if on_step:
            on_step()

    if on_begin:
        on_begin(state.history, partial.batches)
    with file.stopping_between_batches():
        for epoch in range(len(state.history) + 1, schedule.epochs + 1):
            if _out_of_patience(state, schedule.patience):
                break
            report = run.epoch(epoch, partial, validation, step_done)
            _remember(state, report, run)
            partial = Partial()
            file.write(run.content(state, partial))
            file.stop_if_asked()
            if on_epoch:
                on_epoch(report)
    chance = 1 / (1 + int(train.y.max()))
    natural = [perturbations(trainer, n) == () for n in range(trainer.members)]
    state.run_as = "" if run.run_as == EAGER else run.run_as
    state.health = [health(state.history, n, chance, natural[n]) for n in range(trainer.members)]
    return state


def peak_memory(device: torch.device) -> int:
    """Bytes. CUDA: the most that torch has had allocated on the device. CPU: the most this process has ever held, with
    Python, torch and whatever it did before; so a training's own peak is at most this.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class _Run:
    """Networks, optimisers and averages of one training."""

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
        self.passes, self.run_as = passes_for(schedule.compile, schedule.batch_size, train.x.device)
        self.passes.arrange([*networks, *teachers])
        who = [f"network {n}" for n in range(1, len(networks) + 1)]
        self.decay, self.memory = ema.decay_of(trainer, schedule), dict[str, Tensor]()
        self.averages = [copied(*one) for one in zip(networks, who, strict=True)] if self.decay else []
        self.optimizers = [_optimizer(*one, schedule) for one in zip(networks, who, strict=True)]

    @property
    def judged(self) -> list[nn.Module]:
        """The networks that are validated and kept: with `schedule.ema` the averages."""
        return self.averages if self.schedule.ema else self.networks

    def epoch(
        self, epoch: int, partial: Partial, validation: Split, step_done: Callable[[Partial], None]
    ) -> EpochReport:
        """What is left of one pass over the training images, then validation."""
        self._train(epoch, partial, step_done)
        loss = float(partial.loss) / partial.batches
        if not math.isfinite(loss):
            raise TrainingError(f"the loss became {loss} in epoch {epoch}; a lower learning rate may help")
        started = time.perf_counter()
        for network in [*self.networks, *self.averages]:
            network.eval()
        measured = [self._measure(n, epoch, validation) for n in range(len(self.networks))]
        return EpochReport(
            epoch=epoch,
            loss=loss,
            lr=self.schedule.lr_at(epoch, partial.batches - 1, partial.batches),
            clean=[one.clean for one in measured],
            robust=[one.robust for one in measured],
            single_step=[one.single_step for one in measured],
            constant=[one.constant for one in measured],
            seconds=partial.seconds + time.perf_counter() - started,
            training_seconds=partial.seconds,
            forward_passes=partial.forward_passes,
            backward_passes=partial.backward_passes,
            peak_memory_bytes=peak_memory(self.train.x.device),
        )

    def _train(self, epoch: int, partial: Partial, step_done: Callable[[Partial], None]) -> None:
        """The batches of an epoch that are not done yet; `partial` is kept up to date."""
        schedule = self.schedule
        about = schedule.precision, schedule.label_smoothing, self.teachers, self.passes, self.averages
        cohort = Cohort(self.networks, *about)
        cohort.progress, cohort.memory = epoch / schedule.epochs, self.memory
        cohort.forward_passes, cohort.backward_passes = partial.forward_passes, partial.backward_passes
        generator = torch.Generator().manual_seed(derive_seed("order", self.seed, epoch))
        order = torch.randperm(len(self.train.x), generator=generator).to(self.train.x.device)
        batches = order.split(self.schedule.batch_size)
        started = time.perf_counter() - partial.seconds
        for network in self.networks:
            network.train()
        with torch.random.fork_rng(devices=_cuda(self.train.x)):  # a user's dropout draws from the global state
            torch.manual_seed(derive_seed("epoch", self.seed, epoch))
            _set_random_states(partial.random, self.train.x)
            for step in range(partial.batches, len(batches)):
                partial.loss += self._step(cohort, batches[step], epoch, self.schedule.lr_at(epoch, step, len(batches)))
                if step in (0, len(batches) - 1):
                    cohort.check_masks()
                if epoch == 1 and step == 0 and rounds_of(self.trainer) == 1:
                    self._check_first(float(partial.loss))
                decay = ema.decay_at(self.decay, (epoch - 1) * len(batches) + step)
                for average, network in zip(self.averages, self.networks, strict=False):
                    ema.update(average, network, decay)
                partial.batches = step + 1
                partial.forward_passes, partial.backward_passes = cohort.forward_passes, cohort.backward_passes
                partial.seconds = time.perf_counter() - started
                step_done(partial)
        partial.loss = float(partial.loss)  # waits for the device
        partial.seconds = time.perf_counter() - started

    def _step(self, cohort: Cohort, rows: Tensor, epoch: int, lr: float) -> Tensor:
        """One batch -> mean loss. Each round: all losses, one backward pass, all optimisers from the same values."""
        x, y = images_of(self.train.x[rows]), self.train.y[rows]
        cohort.noise = Noise(derive_seed("train", self.seed, epoch), self.train.ids[rows])
        if self.augment is not None:
            flips = cohort.noise.fork("flip").uniform() < (0.5 if self.flip else 0.0)
            x = self.augment(x, cohort.noise.fork("crop").integers(0, 8, 2), flips)
        x = self.passes.arranged(x)
        total = torch.zeros((), device=x.device)
        for round in range(rounds_of(self.trainer)):
            cohort.begin(round)
            if self.schedule.awp and epoch > self.schedule.awp_after:
                with awp.buffers_kept(self.networks):
                    self._differentiate(cohort, x, y)
                cohort.again()
                with awp.perturbed(self.networks, self.schedule.awp):
                    total += self._differentiate(cohort, x, y)
            else:
                total += self._differentiate(cohort, x, y)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = lr
                with in_words("a step of the optimiser fails"):
                    optimizer.step()
        cohort.remember()
        return total / len(self.networks) / rounds_of(self.trainer)

    def _differentiate(self, cohort: Cohort, x: Tensor, y: Tensor) -> Tensor:
        """The sum of all losses, and its gradient in every network."""
        loss = torch.stack(self.trainer.batch_loss(cohort, x, y)).sum()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:
            with in_words("the backward pass of the training fails"):
                loss.backward()
        for n, network in enumerate(self.networks, 1):
            if all(parameter.grad is None for parameter in network.parameters()):
                raise ModelError(
                    f"no gradient reaches the weights of network {n}: its forward pass in training mode runs under "
                    "no_grad, or detaches what it computes"
                )
        return loss.detach()

    def _check_first(self, loss: float) -> None:
        """After the first batch of all, whose numbers owe nothing to the learning rate. Raises ModelError."""
        if not math.isfinite(loss):
            raise ModelError(
                f"the loss of the first batch is {loss}, before any weight has moved: no learning rate helps; look for "
                "NaN, infinity or huge numbers in what the network computes in training mode"
            )
        grads = [p.grad for network in self.networks for p in network.parameters() if p.grad is not None]
        if not all(torch.isfinite(grad).all() for grad in grads):
            raise ModelError(
                f"the gradient of the first batch is no number, though its loss is {loss:.3g}: no learning rate helps; "
                "look for a square root or a norm of 0 in what the network computes in training mode"
            )

    def _measure(self, n: int, epoch: int, validation: Split) -> Measured:
        """Network n on the validation images, against everything that it is trained against."""
        types = perturbations(self.trainer, n) or (self.trainer.inner,)
        steps, seed = self.schedule.validation_steps, derive_seed("validation", self.seed)
        try:
            return measure(self.judged[n], validation, types, steps, seed, self.schedule.precision)
        except TrainingError as error:
            raise TrainingError(f"network {n + 1} after epoch {epoch}: {error}") from error

    def content(self, state: Fit, partial: Partial) -> dict[str, Any]:
        """Everything that a training goes on from, for the checkpoint."""
        random = _random_states(self.train.x) if partial.batches else []
        return {
            "networks": [network.state_dict() for network in self.networks],
            "averages": [average.state_dict() for average in self.averages],
            "memory": dict(self.memory),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "best": [vars(snapshot) for snapshot in state.best],
            "last": [vars(snapshot) for snapshot in state.last],
            "history": [asdict(report) for report in state.history],
            "partial": vars(partial) | {"random": random},
            "run_as": self.run_as,
        }

    def load(self, content: dict[str, Any]) -> tuple[Fit, Partial]:
        """The reverse of `content`. Raises TrainingError where the networks were run otherwise then."""
        if (before := content.get("run_as", EAGER)) != self.run_as:
            raise TrainingError(
                f"its checkpoint was made with networks run {before}, here they are run {self.run_as}, which rounds "
                "otherwise; go on where it began, or delete the checkpoint and train again"
            )
        for name in ("networks", "averages", "optimizers"):
            for part, saved in zip(getattr(self, name), content[name], strict=True):
                part.load_state_dict(saved)
        self.memory = {name: value.to(self.train.x.device) for name, value in content.get("memory", {}).items()}
        best, last = ([Snapshot(**one) for one in content[name]] for name in ("best", "last"))
        return Fit(best, last, [EpochReport(**one) for one in content["history"]]), Partial(**content["partial"])


def _check_cohort(trainer: Trainer, networks: Sequence[nn.Module], teachers: Sequence[nn.Module]) -> None:
    if len(networks) != trainer.members:
        raise ValueError(f"{type(trainer).__name__} trains {trainer.members} network(s); got {len(networks)}")
    if len(teachers) != teachers_of(trainer):
        raise ValueError(f"{type(trainer).__name__} has {teachers_of(trainer)} frozen teacher(s); got {len(teachers)}")
    for n, network in enumerate(networks, 1):
        check_trainable(network, f"network {n}")
    states = [torch.cat([p.detach().flatten().cpu() for p in network.parameters()]) for network in networks]
    for i, first in enumerate(states):
        if any(torch.equal(first, other) for other in states[i + 1 :]):
            raise ModelError("networks of a cohort start from equal weights, so they would teach each other nothing")


def _optimizer(network: nn.Module, who: str, schedule: Schedule) -> torch.optim.SGD:
    """Raises ModelError for weights that it does not take, such as complex ones."""
    with in_words(f"{who} has weights that cannot be trained"):
        return torch.optim.SGD(
            network.parameters(),
            lr=schedule.lr,
            momentum=schedule.momentum,
            nesterov=schedule.nesterov,
            weight_decay=schedule.weight_decay,
            fused=True,
        )


def _remember(state: Fit, report: EpochReport, run: _Run) -> None:
    """Append the epoch; copy the weights of each network's last and, where it is better, best snapshot."""
    state.history.append(report)
    copies = [{name: value.detach().cpu().clone() for name, value in n.state_dict().items()} for n in run.judged]
    figures = zip(report.clean, report.robust, copies, strict=True)
    state.last = [Snapshot(report.epoch, clean, robust, copy) for clean, robust, copy in figures]
    if not state.best:
        state.best = list(state.last)
    for n, (old, new) in enumerate(zip(state.best, state.last, strict=True)):
        robust = perturbations(run.trainer, n) != ()
        better = new.robust > old.robust if robust else new.clean > old.clean
        state.best[n] = new if better else old


def _out_of_patience(state: Fit, patience: int) -> bool:
    """Whether no network had a new best epoch in the last `patience`; 0 is endless."""
    return bool(patience and state.best) and len(state.history) - max(one.epoch for one in state.best) >= patience


def _random_states(x: Tensor) -> list[Tensor]:
    """Of torch's global generators that passes on x's device may draw from."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in _cuda(x))]


def _set_random_states(states: Sequence[Tensor], x: Tensor) -> None:
    """The reverse; [] changes nothing."""
    if states:
        torch.set_rng_state(states[0])
    for state, device in zip(states[1:], _cuda(x), strict=False):
        torch.cuda.set_rng_state(state, device)


def _cuda(x: Tensor) -> list[torch.device]:
    return [x.device] if x.device.type == "cuda" else []
