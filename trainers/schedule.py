"""How long and how fast a training runs, and the modules that every method can be trained with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from attacks.target import Precision
from trainers.passes import Compile


@dataclass(frozen=True)
class Schedule:
    """SGD with momentum. Epochs count from 1.

    lr: peak learning rate. kind: "steps" multiplies by `decay` from each epoch in `milestones` on; "cosine" falls to 0
    over all steps; "cyclic" rises linearly to lr over the first 40 % and falls to 0. augment: pad-4 crop, and flip
    where the data set allows it. precision: of the passes ("bfloat16" is mixed precision; losses stay float32).
    validation_steps: of PGD on the validation images after each epoch, with the inner attack's radius and step. The
    last batch of an epoch may be smaller. compile: "auto" runs channels last and compiled where a compiler is, which
    rounds otherwise (`trainers.passes`).

    Modules, off by default, for every method:
    ema: decay of averaged weights (`trainers.ema`); the average is then what is validated, chosen and kept.
    awp: gamma of adversarial weight perturbation (`trainers.awp`; the paper's 0.01 with AT, 0.005 with TRADES), from
    epoch awp_after + 1 on. label_smoothing: s, mass that the label gives to all K classes alike, in the cross-entropy
    with the label of every training loss, that inside BCE (MART, MAT, MAT-MP) included. It enters no attack, no KL, no
    margin term, no squared error; ALP smooths both of its cross-entropies, RegMix on top of its target_mass.
    patience: the training ends when for so many epochs no network had a new best one. The learning rate keeps to the
    schedule of all epochs. Raises ValueError.
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
    ema: float = 0.0
    awp: float = 0.0
    awp_after: int = 0
    label_smoothing: float = 0.0
    patience: int = 0
    compile: Compile = field(default="off", metadata={"since": 2})

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.validation_steps) < 1 or not self.lr >= 0:
            raise ValueError(
                f"a schedule needs epochs, batch_size, validation_steps >= 1 and lr >= 0; got epochs = {self.epochs}, "
                f"batch_size = {self.batch_size}, validation_steps = {self.validation_steps}, lr = {self.lr:g}"
            )
        if not (
            0 <= self.ema < 1 and 0 <= self.label_smoothing < 1 and min(self.awp, self.awp_after, self.patience) >= 0
        ):
            raise ValueError(
                "a schedule needs ema and label_smoothing in [0, 1) and awp, awp_after, patience >= 0 (0 is off); got "
                f"ema = {self.ema:g}, label_smoothing = {self.label_smoothing:g}, awp = {self.awp:g}, "
                f"awp_after = {self.awp_after}, patience = {self.patience}"
            )

    def lr_at(self, epoch: int, step: int, steps: int) -> float:
        """Learning rate of a step: epoch from 1, step from 0 of `steps` in this epoch."""
        if self.kind == "steps":
            return self.lr * self.decay ** sum(epoch >= milestone for milestone in self.milestones)
        done = (epoch - 1 + step / steps) / self.epochs
        if self.kind == "cosine":
            return self.lr * (1 + math.cos(math.pi * done)) / 2
        return self.lr * min(done / 0.4, (1 - done) / 0.6)
