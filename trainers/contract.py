"""What a training method is: a loss over a cohort of networks that see the same batch.

A method is a frozen dataclass of settings with `batch_loss`; the one loop (`trainers.loop`) owns everything else. The
Cohort is what a method sees of a batch: which network attacks which image with what, and forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from attacks.contract import ThreatModel
from attacks.losses import Loss
from attacks.model import ModelError
from attacks.noise import Noise
from attacks.pgd import PGD, Start, ascend, start_point
from attacks.target import Precision, Target
from trainers.network import Beside, Mode, Shown, called, in_mode, masked_words, masks
from trainers.passes import Passes

T = TypeVar("T")


@dataclass(frozen=True)
class Inner:
    """The inner maximisation: PGD of `steps` steps, last iterate.

    eps, step: in image units, in `norm`. start: "uniform" in the ball (Madry), "gaussian" 0.001 N(0, 1) (TRADES, MART)
    or "none". bn: mode of batch norm during the attack; published code differs, and "eval" is the default here
    because the attack then sees the network that is judged. Raises ValueError.
    """

    eps: float
    norm: Literal["Linf", "L2", "L1"] = "Linf"
    steps: int = 10
    step: float = 0.007
    start: Start = "uniform"
    bn: Mode = "eval"

    def __post_init__(self) -> None:
        self.pgd(self.steps)

    def pgd(self, steps: int) -> PGD:
        """PGD with these settings; the last iterate counts."""
        return PGD(ThreatModel(self.norm, self.eps), steps, self.step, start=self.start, stop="last")


class Trainer(Protocol):
    """Settings of a method. `version` goes up when a change of the code changes its results.

    inner: the attack, also for validation. Five members are optional: `against(n)`, where networks of the cohort are
    trained against other things than `inner` (see `perturbations`), `rounds`, where a batch is more than one step of
    the optimisers (see `rounds_of`), `teachers`, where a frozen network teaches (see `teachers_of`), `average`, where
    averaged weights teach (see `average_of`), and `ensemble`, where the networks also count as one (see `is_ensemble`).
    """

    inner: Inner
    version: int

    @property
    def members(self) -> int:
        """How many networks are trained."""
        ...

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """x [B, C, H, W] (augmented), y [B] -> one scalar loss per network; the loop differentiates their sum."""
        ...


def perturbations(trainer: Trainer, n: int) -> tuple[Inner, ...]:
    """What network n is trained to withstand; () is natural training.

    A network is robust on an image that withstands all of it, and its best epoch is the one with most such images; the
    best epoch of a naturally trained network is that of the highest clean accuracy.
    """
    found: tuple[Inner, ...] = trainer.against(n) if hasattr(trainer, "against") else (trainer.inner,)
    return found


def rounds_of(trainer: Trainer) -> int:
    """How often the loop asks for `batch_loss` and steps per batch; `cohort.round` counts them from 0."""
    return int(getattr(trainer, "rounds", 1))


def teachers_of(trainer: Trainer) -> int:
    """How many frozen networks the method learns from (`Cohort.taught`): none or one."""
    return int(getattr(trainer, "teachers", 0))


def average_of(trainer: Trainer) -> float:
    """The decay of the averaged weights that the method learns from (`Cohort.averaged`); 0 is none."""
    return float(getattr(trainer, "average", 0.0))


def is_ensemble(trainer: Trainer) -> bool:
    """Whether the mean of all its networks is a network of the registry too."""
    return bool(getattr(trainer, "ensemble", False))


class Alone(NamedTuple):
    """What a method for a single network makes of a batch: the scalar loss, x_adv and the logits [B, K] on x_adv."""

    loss: Tensor
    x_adv: Tensor
    logits: Tensor


class Cohort:
    """The networks, and what one batch may do with them. Passes are counted in images.

    label_smoothing: what a method hands to the cross-entropy of its loss, never to that of its attack. teachers: frozen
    networks that the method learns from. passes: how they are run. averages: of the networks' weights; () where none
    are kept.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        precision: Precision = "float32",
        label_smoothing: float = 0.0,
        teachers: Sequence[nn.Module] = (),
        passes: Passes | None = None,
        averages: Sequence[nn.Module] = (),
    ) -> None:
        self.networks, self.teachers, self.averages = list(networks), list(teachers), list(averages)
        self.passes = passes or Passes()
        self.precision: Precision = precision
        self.label_smoothing = label_smoothing
        self.noise = Noise(0, torch.arange(0))  # the loop sets each batch's own
        self.round = 0  # counted by the loop where a method has several `rounds`
        self.progress = 1.0  # epoch / epochs, in (0, 1]: set by the loop
        self.memory: dict[str, Tensor] = {}  # of the batches before: see `note`
        self.forward_passes = 0
        self.backward_passes = 0
        self._noted: dict[str, Tensor] = {}
        self._masked: dict[str, Tensor] = {}  # who -> bool on the device: no GPU is waited for before it is read
        self._made: list[Any] = []
        self._kept: Iterator[Any] | None = None

    def begin(self, round: int = 0) -> None:
        """A new batch, or a new round on it: nothing is made yet."""
        self.round, self._made, self._kept = round, [], None

    def again(self) -> None:
        """The same batch once more: `once` gives what it has made."""
        self._kept = iter(self._made)

    def once(self, make: Callable[[], T]) -> T:
        """What `make` returns; where the loop asks for the loss of a batch again (AWP), what it returned before.

        A method asks for the same things in the same order each time.
        """
        if self._kept is not None:
            kept: T = next(self._kept)
            return kept
        made = make()
        self._made.append(made)
        return made

    def note(self, name: str, value: Tensor) -> None:
        """Keeps a constant for the batches that follow, by a name: statistics that a method runs over a training.

        Seen by `recall` when the batch is done, so that the loss of a batch that is asked for again is the same; what
        is noted last counts. The loop keeps it in its checkpoints.
        """
        self._noted[name] = value.detach()

    def recall(self, name: str) -> Tensor | None:
        """What a batch before this one has noted last; None where none has."""
        return self.memory.get(name)

    def remember(self) -> None:
        """The batch is done."""
        self.memory.update(self._noted)
        self._noted = {}

    def attack(self, n: int, x: Tensor, y: Tensor, inner: Inner, loss: Loss) -> Tensor:
        """x_adv [B, C, H, W] against network n: ascends `loss(logits, y)`; y is whatever the loss compares with.

        No parameter gradient is filled, and the network's mode is what it was afterwards.
        """

        def ascent(target: Target) -> Tensor:
            return ascend(inner.pgd(inner.steps), target, x, y, loss, y, self.noise_of(n))[0]

        return self.craft(n, len(x), inner.bn, ascent)

    def attack_beside_teacher(self, n: int, x: Tensor, inner: Inner, loss: Loss) -> Tensor:
        """x_adv [B, C, H, W] against network n and the frozen teacher, both asked on it: ascends `loss(logits of n,
        logits of the teacher)`, differentiated through both. The rest as in `attack`.
        """

        ids = self.noise.ids
        return self.once(
            lambda: self._beside(n, self._teacher, x, ids, inner, lambda out, _: loss(*out.chunk(2, 1)), asked=2)
        )

    def attack_seeing(
        self, n: int, x: Tensor, goal: Tensor, inner: Inner, loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """x_adv [B, C, H, W] against network n: ascends `loss(logits, images, goal)`, which sees the images on which
        the network is asked too, as rows [B, C H W], and is differentiated through both. The rest as in `attack`.
        """
        pixels = x[0].numel()

        def split(out: Tensor, goal: Tensor) -> Tensor:
            logits, images, zero = out.split([out.shape[1] - pixels - 1, pixels, 1], 1)
            return loss(logits, images - zero, goal)

        return self.once(lambda: self._beside(n, Shown(), x, goal, inner, split, asked=1))

    def _beside(
        self, n: int, other: nn.Module, x: Tensor, goal: Tensor, inner: Inner, loss: Loss, *, asked: int
    ) -> Tensor:
        """An attack on network n and what stands beside it, in one row. asked: how many of the two are networks."""
        pair = [self.networks[n], other]
        with in_mode(pair[0], inner.bn), in_mode(other, "eval"):
            quick = Beside([self.passes.frozen(pair[0]), self.passes.frozen(other) if asked == 2 else other])
            target = Target(Beside(pair), len(x), self.precision, allow_training=True, quick=quick)
            x_adv = ascend(inner.pgd(inner.steps), target, x, self.noise.ids, loss, goal, self.noise_of(n))[0]
        self.forward_passes += asked * target.forward_passes
        self.backward_passes += asked * target.backward_passes
        return x_adv

    def craft(self, n: int, batch: int, mode: Mode, attack: Callable[[Target], Tensor]) -> Tensor:
        """What an attack makes of network n in that mode, in batches of that many images; passes are counted."""

        def make() -> Tensor:
            with in_mode(self.networks[n], mode):
                network = self.networks[n]
                quick = self.passes.frozen(network)
                target = Target(network, batch, self.precision, allow_training=True, quick=quick)
                x_adv = attack(target)
            self.forward_passes += target.forward_passes
            self.backward_passes += target.backward_passes
            return x_adv

        return self.once(make)

    def start(self, n: int, x: Tensor, inner: Inner) -> Tensor:
        """Where `attack` on network n begins, like x."""
        return start_point(inner.pgd(inner.steps), x, self.noise_of(n))

    def noise_of(self, n: int) -> Noise:
        """The batch's noise for attacks on network n."""
        return self.noise.fork("network", n)

    def logits(self, n: int, x: Tensor, mode: Mode = "train", grad: bool = True) -> Tensor:
        """Network n on x [B, C, H, W], of which it sees a copy -> logits [B, K] float32 (float64 where it makes these);
        with grad=False a constant. Raises ModelError for whatever else comes of it.
        """
        return self._forward(self.networks[n], f"network {n + 1}", x, mode, grad)

    def taught(self, x: Tensor) -> Tensor:
        """The frozen teacher on x [B, C, H, W], in evaluation mode -> logits [B, K] float32, a constant."""
        return self._forward(self._teacher, "the teacher", x, "eval", grad=False)

    def taught_slope(self, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The frozen teacher's logits [B, K] on x and the gradient, like x, of `loss(logits, y)` in the image:
        constants, from one pass forward and one back.
        """

        def make() -> tuple[Tensor, Tensor]:
            with in_mode(self._teacher, "eval"):
                target = Target(self._teacher, len(x), self.precision, quick=self.passes.frozen(self._teacher))
                _, slope, logits = target.loss_grad(x, y, loss)
            self.forward_passes += target.forward_passes
            self.backward_passes += target.backward_passes
            return logits, slope

        return self.once(make)

    def averaged(self, n: int, x: Tensor) -> Tensor:
        """The average of network n's weights on x [B, C, H, W], in evaluation mode -> logits [B, K] float32, a
        constant. Where no average is kept it is the network itself, as an average is where it begins.
        """
        return self._forward((self.averages or self.networks)[n], f"the average of network {n + 1}", x, "eval", False)

    @property
    def _teacher(self) -> nn.Module:
        (teacher,) = self.teachers
        return teacher

    def check_masks(self) -> None:
        """Raises ModelError where a network, so far, has returned -inf for a class: see `trainers.network.masks`."""
        for who, found in self._masked.items():
            if found:
                raise ModelError(masked_words(who))

    def _forward(self, network: nn.Module, who: str, x: Tensor, mode: Mode, grad: bool) -> Tensor:
        autocast = nullcontext() if self.precision == "float32" else torch.autocast(x.device.type, torch.bfloat16)
        with in_mode(network, mode), torch.set_grad_enabled(grad), autocast:
            out = called(network, x, who, self.passes)
        self._masked[who] = self._masked.get(who, False) | masks(out)
        self.forward_passes += len(x)
        self.backward_passes += len(x) if grad else 0
        return out.float() if self.precision == "bfloat16" else out
