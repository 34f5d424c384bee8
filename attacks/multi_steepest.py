"""MSD, multi steepest descent: Maini, Wong, Kolter 2020, https://arxiv.org/abs/1909.04068, algorithm 1.

One perturbation for several norms at once: each step tries the steepest step of every norm and keeps, image by image,
the one with the largest loss. The perturbation ends in one of the balls, not in all.

Differs from the released code: the number of pixels of an L1 step is drawn per image, values at 0 and 1 can be attacked
(see `attacks.norms`), and as an attack it leaves an image at its first success.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks import norms
from attacks.contract import Budget, ThreatModel
from attacks.losses import LOSSES, Loss, cross_entropy
from attacks.noise import Noise
from attacks.target import Target

NORMS = ("L1", "L2", "Linf")  # the order of the released code; of equal losses the later one is kept


@dataclass(frozen=True)
class MSD:
    """Multi steepest descent over Linf, L2 and L1.

    threat: norm "own": eps is not used, the three radii are linf, l2 and l1, with one step length each, in image units;
    each x_adv lies in one of the three balls.
    steps: each costs one backward and four forward passes. stop: "first" leaves an image when it is fooled, "last"
    returns the iterate with the largest loss. l1_pixels, loss: as in PGD. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    linf: float = 0.03
    l2: float = 0.5
    l1: float = 12.0
    linf_step: float = 0.003
    l2_step: float = 0.05
    l1_step: float = 1.0
    steps: int = 50
    l1_pixels: tuple[int, int] = (5, 20)
    stop: str = "first"
    loss: Literal["ce", "margin", "bce"] = "ce"
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm != "own":
            raise ValueError(
                f"MSD bounds itself in three norms at once: threat.norm is 'own', not {self.threat.norm!r}"
            )
        sizes = {name: getattr(self, name) for name in ("linf", "l2", "l1", "linf_step", "l2_step", "l1_step")}
        if self.steps < 1 or self.linf > 1 or not all(0 <= size < math.inf for size in sizes.values()):
            got = ", ".join(f"{name} = {size:g}" for name, size in sizes.items())
            raise ValueError(
                f"MSD needs steps >= 1, radii and step lengths >= 0, linf <= 1; got steps = {self.steps}, {got}"
            )
        if self.stop not in ("first", "last"):
            raise ValueError(f"stop = {self.stop!r} is not one of 'first', 'last'")

    @property
    def balls(self) -> tuple[ThreatModel, ...]:
        """See `attacks.contract.balls_of`."""
        return ThreatModel("Linf", self.linf), ThreatModel("L2", self.l2), ThreatModel("L1", self.l1)

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget((1 + len(NORMS)) * self.steps, self.steps, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        target = target.following(len(x))
        best, standing = x.clone(), torch.arange(len(x), device=x.device)
        x_adv, largest = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
        for step in range(self.steps):
            if len(standing) == 0:
                break
            here, labels = target[standing], y[standing]
            moved, value, logits = self.step(
                here, x[standing], x_adv[standing], labels, noise[standing], step, LOSSES[self.loss]
            )
            x_adv[standing] = moved
            grows = standing[value >= largest[standing]]
            largest[standing] = torch.maximum(value.to(largest), largest[standing])
            best[grows] = x_adv[grows]
            if self.stop == "first":
                fooled = logits.argmax(1) != labels
                best[standing[fooled]] = moved[fooled]
                standing = standing[~fooled]
        return best

    def step(
        self, target: Target, x: Tensor, x_adv: Tensor, y: Tensor, noise: Noise, step: int, loss: Loss = cross_entropy
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The steepest step of each norm from the same x_adv -> (that of the largest loss, that loss, its logits)."""
        _, grad, logits = target.loss_grad(x_adv, y, loss)
        pixels = noise.fork("pixels", step).integers(*self.l1_pixels)
        l1 = norms.l1_inside(self.l1, x)
        moves = {
            "L1": norms.project_l1(x_adv + norms.l1_ascent(grad, x_adv, self.l1_step, pixels) - x, l1),
            "L2": norms.project_l2(x_adv + norms.l2_ascent(grad, x_adv, self.l2_step) - x, self.l2),
            "Linf": (x_adv + self.linf_step * grad.sign() - x).clamp(-self.linf, self.linf),
        }
        result, value = x_adv, torch.full((len(x),), -torch.inf, device=x.device)
        for norm in NORMS:
            trial = (x + moves[norm]).clamp(0, 1)
            answers = target.logits(trial)
            reached = loss(answers, y).to(value)
            better = reached >= value
            result = torch.where(norms.per_image(better, x), trial, result)
            logits = torch.where(better[:, None], answers, logits)
            value = torch.where(better, reached, value)
        return result, value, logits
