"""Adaptive restarts, after A3: Liu et al. 2022, https://arxiv.org/abs/2203.05154, in Linf and L2.

A round starts where a few steps along a random direction of the logits lead, which is away from the label and towards
one class (Tashiro et al. 2020, https://arxiv.org/abs/2003.06878), and ascends the margin in steps that fall from eps to
0 along a cosine. Later rounds are for images whose margin earlier ones brought near 0.

Differs from A3 where images see each other there. It goes on with the share of images that have the least margins;
here an image goes on to round r of R if at most 1 - r / R of the margin that it has without an attack is left. It
learns the direction of the start from images that fell; here the sign of its label is given, and which class it leads
to is learned from how near the image's own earlier rounds came to each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.contract import Budget, ThreatModel
from attacks.losses import margin
from attacks.noise import Noise
from attacks.pgd import PGD, ascend, judge_last
from attacks.target import Target

START = 7  # steps along the direction, of length eps
CLASSES = 3  # that rounds start towards in turn


@dataclass(frozen=True)
class A3:
    """Rounds of restarts on the images that are nearly fooled.

    steps: gradients of a round after the START ones that lead to where it begins. rounds: R. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    steps: int = 25
    rounds: int = 10
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm not in ("Linf", "L2"):
            raise ValueError(f"A3 works in Linf and L2, not in {self.threat.norm}")
        if self.steps < 1 or self.rounds < 1:
            raise ValueError(f"A3 needs steps and rounds >= 1; got steps = {self.steps}, rounds = {self.rounds}")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`; an image whose margin stays where it was is given up after the first round."""
        gradients = START + self.steps
        return Budget(1 + self.rounds * (gradients + 1), self.rounds * gradients)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        x_adv = x.clone()
        if len(x) == 0:
            return x_adv
        target = target.following(len(x))
        ahead = _ahead(target.logits(x), y)  # of each class: its logit minus the label's, the most that was reached
        alone, fooled = ahead.amax(1), torch.zeros_like(y, dtype=torch.bool)
        for number in range(self.rounds):
            near = ahead.amax(1) >= (1 - number / self.rounds) * alone
            rows = (near & ~fooled).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            stream = noise[rows].fork("round", number)
            found, down, reached = self._round(number, target[rows], x[rows], y[rows], ahead[rows], stream)
            better = down | (reached.amax(1) > ahead[rows].amax(1))
            x_adv[rows[better]], fooled[rows] = found[better], down
            ahead[rows] = torch.maximum(ahead[rows], reached)
        return x_adv

    def _round(
        self, number: int, target: Target, x: Tensor, y: Tensor, ahead: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One round -> (x_adv like x, fooled [n] bool, how far each class got ahead of the label [n, K])."""
        direction = _direction(number, y, ahead, noise.fork("direction"))
        start = PGD(self.threat, START, self.threat.eps)
        found, fooled = ascend(start, target, x, y, _along, direction, noise.fork("start"))
        left, reached = (~fooled).nonzero().squeeze(1), torch.full_like(ahead, -torch.inf)
        climb = PGD(self.threat, self.steps, self.threat.eps, step_schedule="cosine")
        found[left], fooled[left] = ascend(
            climb, target[left], x[left], y[left], margin, y[left], noise[left], found[left]
        )
        left = left[~fooled[left]]
        reached[left] = _ahead(judge_last(target, found, y, fooled).to(reached), y[left])
        return found, fooled, reached


def _ahead(logits: Tensor, y: Tensor) -> Tensor:
    """logits [N, K] -> each minus the label's, whose own is -inf."""
    return (logits - logits.gather(1, y[:, None])).scatter(1, y[:, None], -torch.inf)


def _direction(number: int, y: Tensor, ahead: Tensor, noise: Noise) -> Tensor:
    """[N, K]: uniform in [-1, 1] but for the label, which is -1, and one class that came near it, which is 1."""
    direction = 2 * noise.uniform(ahead.shape[1]).to(ahead) - 1
    rank = number % min(CLASSES, ahead.shape[1] - 1)
    near = ahead.argsort(dim=1, descending=True, stable=True)[:, rank]
    return direction.scatter(1, near[:, None], 1.0).scatter(1, y[:, None], -1.0)


def _along(logits: Tensor, direction: Tensor) -> Tensor:
    """The component of the logits along direction [B, K]."""
    return (logits * direction).sum(1)
