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
from trainers.network import Beside, Mode, called, in_mode, masked_words, masks
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

    inner: the attack, also for validation. Four members are optional: `against(n)`, where networks of the cohort are
    trained against other things than `inner` (see `perturbations`), `rounds`, where a batch is more than one step of
    the optimisers (see `rounds_of`), `teachers`, where a frozen network teaches (see `teachers_of`), and `ensemble`,
    where the networks also count as one (see `is_ensemble`).
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
    networks that the method learns from. passes: how they are run.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        precision: Precision = "float32",
        label_smoothing: float = 0.0,
        teachers: Sequence[nn.Module] = (),
        passes: Passes | None = None,
    ) -> None:
        self.networks, self.teachers = list(networks), list(teachers)
        self.passes = passes or Passes()
        self.precision: Precision = precision
        self.label_smoothing = label_smoothing
        self.noise = Noise(0, torch.arange(0))  # the loop sets each batch's own
        self.round = 0  # counted by the loop where a method has several `rounds`
        self.progress = 1.0  # epoch / epochs, in (0, 1]: set by the loop
        self.forward_passes = 0
        self.backward_passes = 0
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

        def make() -> Tensor:
            pair, noise = [self.networks[n], self._teacher], self.noise_of(n)
            with in_mode(pair[0], inner.bn), in_mode(pair[1], "eval"):
                quick = Beside([self.passes.frozen(network) for network in pair])
                target = Target(Beside(pair), len(x), self.precision, allow_training=True, quick=quick)
                x_adv = ascend(
                    inner.pgd(inner.steps),
                    target,
                    x,
                    noise.ids,
                    lambda logits, _: loss(*logits.chunk(2, 1)),
                    noise.ids,
                    noise,
                )[0]
            self.forward_passes += len(pair) * target.forward_passes
            self.backward_passes += len(pair) * target.backward_passes
            return x_adv

        return self.once(make)

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
