"""Auto-PGD: PGD that finds its own step, with momentum and returns to the best point.

Croce & Hein 2020, https://arxiv.org/abs/2003.01690, algorithm 1, for Linf and L2; Croce & Hein 2021,
https://arxiv.org/abs/2103.01208, for L1 (projection on the ball and the box at once, adaptive sparsity).

Differs from the authors' code: an image leaves at its first success; noise belongs to the image; the first window of
step size control compares with the start, where theirs compares with 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks import norms
from attacks.contract import Budget, ThreatModel
from attacks.losses import Loss, targeted_dlr
from attacks.noise import Noise
from attacks.survivors import Goal, Order, goal_count, goal_passes, goals, on_survivors, packer
from attacks.target import Target

MOMENTUM = 0.75  # share of the new step
L1_RADII = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # radius in eps, share of the steps
L1_SHRINK = 1.5  # of step and sparsity
L1_LEAST_STEP = 0.01  # in eps; the authors stop at 0.1, which misses linear models by up to 5 %


@dataclass(frozen=True)
class APGD:
    """Auto-PGD, in Linf, L2 or L1.

    steps: gradient steps of a run; nothing else needs tuning. restarts: independent runs, on the survivors. loss: "ce",
    "dlr" or "margin". targets: n >= 1 runs the targeted DLR loss towards each of n wrong classes instead (APGD-T;
    `loss` is then not used), the likeliest or those of `order`, see `attacks.survivors.goals`. rho: share of the steps
    that must rise, or the step is halved; in L1 it is left at its default, as nothing uses it. L1 runs begin in balls
    of 3 and 2 eps. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    steps: int = 100
    restarts: int = 1
    loss: Literal["ce", "dlr", "margin"] = "ce"
    targets: int = 0
    rho: float = 0.75
    order: Order = field(default="logits", metadata={"since": 2})
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm not in ("Linf", "L2", "L1"):
            raise ValueError(f"APGD works in Linf, L2 and L1, not in {self.threat.norm}")
        if self.threat.norm == "L1" and self.rho != APGD.rho:
            raise ValueError(f"APGD in L1 does not use rho: leave it at {APGD.rho:g}; got rho = {self.rho:g}")
        if self.steps < 1 or self.restarts < 1 or self.targets < 0 or not 0 <= self.rho <= 1:
            raise ValueError(
                f"APGD needs steps >= 1, restarts >= 1, targets >= 0, rho in [0, 1]; got steps = {self.steps}, "
                f"restarts = {self.restarts}, targets = {self.targets}, rho = {self.rho:g}"
            )

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        stages = [share for _, share in L1_RADII] if self.threat.norm == "L1" else [1.0]
        climbs = sum(max(1, round(share * self.steps)) + 1 for share in stages)
        gradients = self.restarts * goal_count(self.targets, classes) * climbs
        forward, backward = goal_passes(self.targets, classes, self.order)
        return Budget(gradients + forward, gradients + backward)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        target = target.following(len(x))
        aims = goals(target, x, y, self.loss, targeted_dlr, self.targets, self.order)
        pairs = [(restart, rank) for restart in range(self.restarts) for rank in range(len(aims))]
        return on_survivors([partial(self._run, aims, *pair) for pair in pairs], target, x, y, noise)

    def _run(
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
        stream = noise.fork("restart", restart, rank)
        if self.threat.norm != "L1":
            return _climb(_Ascent, self, target, x, x + self._offset(x, stream), y, loss, goal[rows], self.threat.eps)
        start = x + norms.project_l1_in_box(
            x, stream.fork("start").normal(*x.shape[1:]), L1_RADII[0][0] * self.threat.eps
        )
        for radius, share in L1_RADII:
            stage = APGD(self.threat, max(1, round(share * self.steps)))
            eps = radius * self.threat.eps
            start, fooled = _climb(_SparseAscent, stage, target, x, start, y, loss, goal[rows], eps, stop=radius == 1)
        return start, fooled

    def _offset(self, x: Tensor, noise: Noise) -> Tensor:
        """A random direction, out to the radius."""
        if self.threat.norm == "Linf":
            delta = 2 * noise.fork("start").uniform(*x.shape[1:]) - 1
            largest = delta.flatten(1).abs().amax(1)
        else:
            delta = noise.fork("start").normal(*x.shape[1:])
            largest = delta.flatten(1).norm(dim=1)
        return delta * norms.per_image(self.threat.eps / largest.clamp_min(norms.TINY), delta)


def checkpoints(steps: int) -> list[int]:
    """After which steps the step size is looked at (section 3.2): 22 % of them first, then less, at least 6 %."""
    length, shortest, shrink = (max(1, int(share * steps)) for share in (0.22, 0.06, 0.03))
    points = [length]
    while points[-1] < steps:
        length = max(length - shrink, shortest)
        points.append(points[-1] + length)
    return points


def _climb(
    kind: type[_Ascent],
    settings: APGD,
    target: Target,
    x: Tensor,
    start: Tensor,
    y: Tensor,
    loss: Loss,
    goal: Tensor,
    eps: float,
    stop: bool = True,
) -> tuple[Tensor, Tensor]:
    """One run -> (x_adv like x, fooled [N] bool). What stands, and all with stop=False, ends at its best point."""
    work = kind(settings, x, start, y, goal, eps)
    result, fooled = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for step in range(settings.steps + 1):  # the last pass only judges
        down = torch.zeros(len(work.place), dtype=torch.bool, device=x.device)
        running = target[work.place]
        for rows, value, grad, logits in running.gradients(work.x_adv, work.goal, loss):
            if stop:
                suspects = logits.argmax(1) != work.y[rows]
                down[rows] = running[rows].confirm(suspects, work.x_adv[rows], work.y[rows])
                hit = down[rows].nonzero().squeeze(1)
                result[work.place[rows][hit]] = work.x_adv[rows][hit]
            work.move(rows, value, grad, step)
        if down.any():
            fooled[work.place[down]] = True
            work.keep(~down)
        if len(work.place) == 0:
            break
    result[work.place] = work.x_best
    return result, fooled


class _Ascent:
    """The state of a run, one row per image that stands; `place` is where it stood in x."""

    def __init__(self, settings: APGD, x: Tensor, start: Tensor, y: Tensor, goal: Tensor, eps: float) -> None:
        self.norm, self.rho, self.eps = settings.threat.norm, settings.rho, eps
        self.checkpoints = self.schedule(settings.steps)
        n, blank = len(x), x.new_zeros(len(x))
        self.place, self.y, self.goal = torch.arange(n, device=x.device), y.clone(), goal.clone()
        self.x, self.x_adv = x.clone(), self.project(x, start)
        self.x_last, self.x_best = self.x_adv.clone(), self.x_adv.clone()
        self.grad_best = torch.zeros_like(x)
        self.f_last, self.f_best, self.f_best_then = blank.clone(), blank - torch.inf, blank.clone()
        self.step = blank + 2 * eps
        self.rises = torch.zeros(n, dtype=torch.int64, device=x.device)
        self.halved = torch.ones(n, dtype=torch.bool, device=x.device)

    def schedule(self, steps: int) -> list[int]:
        """The steps after which `control` is called."""
        return checkpoints(steps)

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Into the ball and the box."""
        if self.norm == "Linf":
            x_adv = torch.minimum(torch.maximum(x_adv, x - self.eps), x + self.eps)
        else:
            x_adv = x + norms.project_l2(x_adv - x, self.eps)
        return x_adv.clamp(0, 1)

    def move(self, rows: slice, value: Tensor, grad: Tensor, step: int) -> None:
        """value [b] and grad are those of x_adv[rows]: remember the best point, look at the step size, take a step."""
        value = value.to(self.f_best)
        better = value > self.f_best[rows]
        self.rises[rows] += value > self.f_last[rows] if step else 0
        self.f_last[rows] = value
        self.f_best[rows] = torch.where(better, value, self.f_best[rows])
        self.x_best[rows] = torch.where(norms.per_image(better, grad), self.x_adv[rows], self.x_best[rows])
        self.grad_best[rows] = torch.where(norms.per_image(better, grad), grad, self.grad_best[rows])
        if step == 0:
            self.f_best_then[rows] = value
        if step in self.checkpoints:
            grad = self.control(rows, grad, step)
        self.climb(rows, grad, first=step == 0)

    def climb(self, rows: slice, grad: Tensor, first: bool) -> None:
        """One step with momentum (eq. 2); the first has none."""
        x, x_adv, length = self.x[rows], self.x_adv[rows].clone(), norms.per_image(self.step[rows], grad)
        if self.norm == "Linf":
            direction = grad.sign()
        else:
            direction = grad / norms.per_image(grad.flatten(1).norm(dim=1).clamp_min(norms.TINY), grad)
        aim = self.project(x, x_adv + length * direction)
        if not first:
            aim = self.project(x, x_adv + MOMENTUM * (aim - x_adv) + (1 - MOMENTUM) * (x_adv - self.x_last[rows]))
        self.x_last[rows], self.x_adv[rows] = x_adv, aim

    def control(self, rows: slice, grad: Tensor, step: int) -> Tensor:
        """Section 3.2: where too few steps rose, or nothing was gained since, halve the step and return to the best."""
        earlier = [point for point in self.checkpoints if point < step]
        window = step - (earlier[-1] if earlier else 0)
        stuck = ~self.halved[rows] & (self.f_best_then[rows] >= self.f_best[rows])
        halve = (self.rises[rows] <= self.rho * window) | stuck
        self.rises[rows], self.halved[rows], self.f_best_then[rows] = 0, halve, self.f_best[rows]
        self.step[rows] = torch.where(halve, self.step[rows] / 2, self.step[rows])
        return self.back(rows, grad, halve)

    def back(self, rows: slice, grad: Tensor, these: Tensor) -> Tensor:
        """Return to the best point where `these` [b] bool; the gradient of where each image now is."""
        where = norms.per_image(these, grad)
        self.x_adv[rows] = torch.where(where, self.x_best[rows], self.x_adv[rows])
        return torch.where(where, self.grad_best[rows], grad)

    def keep(self, stays: Tensor) -> None:
        """Drop the images that do not stay ([n] bool)."""
        pack = packer(stays)
        for name, values in vars(self).items():
            if isinstance(values, Tensor):
                setattr(self, name, pack(values))


class _SparseAscent(_Ascent):
    """L1: steps on the share `dense` of the pixels, without momentum; both shrink as the perturbation gets sparser."""

    def __init__(self, settings: APGD, x: Tensor, start: Tensor, y: Tensor, goal: Tensor, eps: float) -> None:
        super().__init__(settings, x, start, y, goal, eps)
        self.step = self.step / 2
        self.count = self.changed(slice(None))
        self.dense = (self.count / x[0].numel() / L1_SHRINK).to(x) if len(x) else x.new_zeros(0)

    def schedule(self, steps: int) -> list[int]:
        """Every 4 % of the steps."""
        return list(range(max(1, int(0.04 * steps)), steps + 1, max(1, int(0.04 * steps))))

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Into the intersection of ball and box, exactly."""
        return (x + norms.project_l1_in_box(x, x_adv - x, norms.l1_inside(self.eps, x))).clamp(0, 1)

    def changed(self, rows: slice) -> Tensor:
        """How many values of the best point differ from the image, [b]."""
        return (self.x_best[rows] != self.x[rows]).flatten(1).sum(1)

    def climb(self, rows: slice, grad: Tensor, first: bool) -> None:
        """A step of L1 length `step`, spread evenly over the largest gradients whose values have room to move."""
        room = torch.where(grad > 0, 1 - self.x_adv[rows], self.x_adv[rows])
        size = (grad.abs() * (room > 0)).flatten(1)
        k = (self.dense[rows] * size.shape[1]).long().clamp(1, size.shape[1])
        least = size.sort(dim=1, descending=True).values.gather(1, k[:, None] - 1)
        direction = (grad.flatten(1).sign() * (size >= least) * (size > 0)).view_as(grad)
        used = direction.flatten(1).abs().sum(1).clamp_min(1)
        moved = self.x_adv[rows] + direction * norms.per_image(self.step[rows] / used, grad)
        self.x_adv[rows] = self.project(self.x[rows], moved)

    def control(self, rows: slice, grad: Tensor, step: int) -> Tensor:
        """Where the best point got sparser by 5 %, start again from it with a full step; elsewhere shorten the step."""
        count = self.changed(rows)
        sparser = count < 0.95 * self.count[rows]
        step_now = torch.where(sparser, self.step.new_tensor(self.eps), self.step[rows] / L1_SHRINK)
        self.step[rows] = step_now.clamp(L1_LEAST_STEP * self.eps, self.eps)
        self.dense[rows] = (count / grad[0].numel() / L1_SHRINK).to(self.dense)
        self.count[rows] = count
        return self.back(rows, grad, sparser)
