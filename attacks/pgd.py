"""FGSM, PGD-K and MIM in Linf, L2 and L1: one loop.

FGSM: Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572. PGD: Madry et al. 2018,
https://arxiv.org/abs/1706.06083. MIM: Dong et al. 2018, https://arxiv.org/abs/1710.06081, algorithm 1.
Targets by rank: the multi-targeted attack of Gowal et al. 2019, https://arxiv.org/abs/1910.09338.

L2 and L1 steps are the steepest inside the box: a pixel stops at 0 or 1 and the others take its share.

Differs from the usual code: all images are attacked at once and an image leaves the loop at its first success
(`stop = "first"`; "last" judges the last iterate only, as the papers do), its noise is its own, and a zero gradient
moves nothing instead of giving NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks import norms
from attacks.contract import Budget, ThreatModel
from attacks.losses import Loss, targeted_margin
from attacks.noise import Noise
from attacks.survivors import Goal, Order, goal_count, goal_passes, goals, on_survivors, packer
from attacks.target import Target

Start = Literal["uniform", "gaussian", "none"]
Stop = Literal["first", "last"]
GAUSSIAN_START = 0.001  # standard deviation of TRADES' and MART's start, in image units


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on a loss.

    step: length of one step in the threat model's norm, in image units. steps: K. start: "uniform" in the ball,
    "gaussian" (0.001 N(0, 1), TRADES and MART), "none". restarts: independent starts, each on the images that still
    stand. stop: "first" returns an image as soon as it is fooled, "last" judges and returns the last iterate.
    loss: "ce", "margin" or "bce". targets: 0 is untargeted; n runs the margin towards each of the n classes that the
    model finds likeliest after the true one (loss is then not used). decay: momentum of MIM, 0 is plain PGD.
    l1_pixels: (low, high), in L1 a step is spread over k values, k drawn per image and step. step_schedule:
    "linear" and "cosine" let the step fall to 0 over the run, which settles closer to a maximum. order: which classes
    the targets are, see `attacks.survivors.goals`. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    steps: int = 10
    step: float = 2 / 255
    start: Start = "uniform"
    restarts: int = 1
    stop: Stop = "first"
    loss: Literal["ce", "margin", "bce"] = "ce"
    targets: int = 0
    decay: float = 0.0
    l1_pixels: tuple[int, int] = (5, 20)
    step_schedule: Literal["constant", "linear", "cosine"] = "constant"
    order: Order = field(default="logits", metadata={"since": 2})
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm not in ("Linf", "L2", "L1"):
            raise ValueError(f"PGD works in Linf, L2 and L1, not in {self.threat.norm}")
        if self.steps < 1 or self.restarts < 1 or self.targets < 0 or self.step < 0:
            raise ValueError(
                f"PGD needs steps >= 1, restarts >= 1, targets >= 0, step >= 0; got steps = {self.steps}, "
                f"restarts = {self.restarts}, targets = {self.targets}, step = {self.step:g}"
            )
        if not 1 <= self.l1_pixels[0] <= self.l1_pixels[1]:
            raise ValueError(f"l1_pixels must be (low, high) with 1 <= low <= high; got {self.l1_pixels}")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        starts = self.restarts * goal_count(self.targets, classes)
        forward, backward = goal_passes(self.targets, classes, self.order)
        forward, backward = forward + starts * (self.steps + 1), backward + starts * self.steps
        return Budget(forward, backward, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        target = target.following(len(x))
        aims = goals(target, x, y, self.loss, targeted_margin, self.targets, self.order)
        pairs = [(restart, rank) for restart in range(self.restarts) for rank in range(len(aims))]
        return on_survivors([partial(self._start, aims, *pair) for pair in pairs], target, x, y, noise)

    def _start(
        self,
        aims: list[Goal],
        restart: int,
        rank: int,
        target: Target,
        x: Tensor,
        y: Tensor,
        noise: Noise,
        rows: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One start towards one goal: a trial of `on_survivors`."""
        loss, goal = aims[rank]
        found, fooled = ascend(self, target, x, y, loss, goal[rows], noise.fork("restart", restart, rank))
        judge_last(target, found, y, fooled)
        return found, fooled

    def length(self, step: int) -> float:
        """Length of a step, counted from 0."""
        done = step / self.steps
        falls = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return self.step * falls[self.step_schedule]


def ascend(
    pgd: PGD,
    target: Target,
    x: Tensor,
    y: Tensor,
    loss: Loss | Sequence[Loss],
    goal: Tensor,
    noise: Noise,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One start: `pgd.steps` steps up `loss(logits, goal)` -> (x_adv like x, dropped [N] bool).

    loss: several are ascended one after the other, each for an equal share of the steps. start: like x, where to begin
    instead of where `pgd.start` says. dropped: the images that were fooled on the way and left (`stop = "first"`); the
    others end at their last iterate, which the caller judges. Training methods call this directly: they need no
    verdict.
    """
    losses = [loss] if callable(loss) else loss
    result, dropped = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    work = _Work(pgd, x, y, goal, noise, start)
    for step in range(pgd.steps):
        down = torch.zeros(len(work.place), dtype=torch.bool, device=x.device)
        running, now = target[work.place], losses[step * len(losses) // pgd.steps]
        for rows, _, grad, logits in running.gradients(work.x_adv, work.goal, now):
            if pgd.stop == "first":
                suspects = logits.argmax(1) != work.y[rows]
                down[rows] = running[rows].confirm(suspects, work.x_adv[rows], work.y[rows])
                hit = down[rows].nonzero().squeeze(1)
                result[work.place[rows][hit]] = work.x_adv[rows][hit]
            work.move(rows, grad, step)
        if pgd.stop == "first" and down.any():  # otherwise no GPU has to be waited for
            dropped[work.place[down]] = True
            work.keep(~down)
        if len(work.place) == 0:
            break
    result[work.place] = work.x_adv
    return result, dropped


def judge_last(target: Target, x_adv: Tensor, y: Tensor, fooled: Tensor) -> Tensor:
    """One pass over the images that are not `fooled` yet ([N] bool, changed in place) -> their logits [n, K]."""
    last = ~fooled
    logits = target[last].logits(x_adv[last])
    fooled[last] = logits.argmax(1) != y[last]
    return logits


def start_point(pgd: PGD, x: Tensor, noise: Noise) -> Tensor:
    """Where `ascend` with this noise begins, like x: for methods whose loss also looks at that point."""
    return _Work(pgd, x, noise.ids, noise.ids, noise).x_adv


class _Work:
    """The images that still stand: their iterates, and what a step needs. `place` is where they stood in x."""

    def __init__(self, pgd: PGD, x: Tensor, y: Tensor, goal: Tensor, noise: Noise, start: Tensor | None = None) -> None:
        self.pgd, self.noise = pgd, noise
        self.place = torch.arange(len(x), device=x.device)
        self.y, self.goal = y.clone(), goal.clone()
        self.momentum = torch.zeros_like(x) if pgd.decay else None
        if pgd.threat.norm == "Linf":  # ball and box together are a box: one clamp a step
            self.bounds = [(x - pgd.threat.eps).clamp_min_(0), (x + pgd.threat.eps).clamp_max_(1)]
        else:
            self.bounds = [x.clone()]
        self.x_adv = self._start(x) if start is None else self._project(start.clone(), slice(0, len(x)))

    def _start(self, x: Tensor) -> Tensor:
        if self.pgd.start == "none":
            return x.clone()
        stream = self.noise.fork("start")
        if self.pgd.start == "gaussian":
            delta = GAUSSIAN_START * stream.normal(*x.shape[1:])
        else:
            delta = norms.random_in_ball(self.pgd.threat.norm, self.pgd.threat.eps, x, stream)
        return self._project(x + delta, slice(0, len(x)))

    def move(self, rows: slice, grad: Tensor, step: int) -> None:
        """One step up the gradient of x_adv[rows], projected; in place, while the rows are in the cache."""
        if self.momentum is not None:
            mean = grad.flatten(1).abs().mean(1).clamp_min(norms.TINY)
            grad = self.momentum[rows].mul_(self.pgd.decay).add_(grad / norms.per_image(mean, grad)).clone()
        x_adv, length = self.x_adv[rows], self.pgd.length(step)
        if self.pgd.threat.norm == "Linf":
            x_adv.add_(grad.sign_(), alpha=length)
        elif self.pgd.threat.norm == "L2":
            x_adv.add_(norms.l2_ascent(grad, x_adv, length))
        else:
            stream = self.noise[rows].fork("pixels", step)
            pixels = stream.integers(*self.pgd.l1_pixels)
            x_adv.add_(norms.l1_ascent(grad, x_adv, length, pixels))
        self._project(x_adv, rows)

    def _project(self, x_adv: Tensor, rows: slice) -> Tensor:
        """x_adv, in place: into the ball around x[rows], then into [0, 1]."""
        if self.pgd.threat.norm == "Linf":
            low, high = self.bounds
            return torch.clamp(x_adv, low[rows], high[rows], out=x_adv)
        x = self.bounds[0][rows]
        eps, delta = self.pgd.threat.eps, x_adv - x
        l1 = self.pgd.threat.norm == "L1"
        delta = norms.project_l1(delta, norms.l1_inside(eps, x)) if l1 else norms.project_l2(delta, eps)
        return torch.clamp(x + delta, 0, 1, out=x_adv)

    def keep(self, standing: Tensor) -> None:
        """Drop the images that are not `standing` ([n] bool)."""
        pack = packer(standing)
        self.x_adv, self.y, self.goal, self.place = map(pack, (self.x_adv, self.y, self.goal, self.place))
        self.bounds = [pack(bound) for bound in self.bounds]
        self.momentum = None if self.momentum is None else pack(self.momentum)
        self.noise = Noise(self.noise.seed, pack(self.noise.ids.clone()))


@dataclass(frozen=True)
class FGSM:
    """One step of length eps along the sign (L2: direction, L1: the steepest pixels) of the loss' gradient.

    start: "none" is Goodfellow's; "uniform" is the random-start single step that matches Table 2 of MAT better
    (inferred, not stated in the paper). Fields as in PGD.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    start: Start = "none"
    loss: Literal["ce", "margin", "bce"] = "ce"
    version: int = 1

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(2, 1)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        one = PGD(
            self.threat,
            steps=1,
            step=self.threat.eps,
            start=self.start,
            stop="last",
            loss=self.loss,
            l1_pixels=(1, 1),
        )
        return one(target, x, y, noise)


@dataclass(frozen=True)
class MIM:
    """Momentum iterative method: m <- decay m + g / mean|g|, one step along m (for Linf, its sign).

    Dividing by the mean instead of the paper's sum changes m only by a factor per image, which no step sees.
    Fields as in PGD.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    steps: int = 10
    step: float = 2 / 255
    decay: float = 1.0
    restarts: int = 1
    start: Start = "none"
    stop: Stop = "first"
    version: int = 1

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.restarts * (self.steps + 1), self.restarts * self.steps, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        momentum = PGD(
            self.threat,
            steps=self.steps,
            step=self.step,
            start=self.start,
            restarts=self.restarts,
            stop=self.stop,
            decay=self.decay,
        )
        return momentum(target, x, y, noise)
