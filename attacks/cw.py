"""Carlini & Wagner's margin attack inside a Linf ball, by tanh variables and a line search.

Carlini & Wagner 2017, https://arxiv.org/abs/1608.04644, for the margin loss and the change of variables; the
rule is that of `CarliniLInfMethod` in the Adversarial Robustness Toolbox up to 1.8.1, to which the wording of
MAT (1000 iterations, learning rate 0.01) points: inferred, MAT does not say it.

Differs from that code: a pixel starts at most `edge` of the way to the wall of its box (theirs 0.999999:
pixels at 0 or 1 start where tanh is flat, slope 2e-6, and hardly move); the direction is the gradient divided
by its largest entry, so that no scaling of the logits stalls the search below float32 resolution; failed
images return their iterate of largest margin, not x; all images are searched at once; `restarts` and
`targets` are ours, and so is `patience` (their 1000 iterations are far past convergence).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.contract import Budget, ThreatModel
from attacks.losses import Loss, margin, targeted_margin
from attacks.noise import Noise
from attacks.norms import TINY, per_image
from attacks.survivors import goal_count, towards
from attacks.target import Target

USUAL = 15  # iterations that an image makes which stands, measured: patience ends it
SEARCH = 5  # halvings or doublings of a step at most
STILL = 1e-8  # a step in w that moves no pixel of float32: no longer one led up, so the image is given up


@dataclass(frozen=True)
class CarliniWagnerLinf:
    """Ascent on the margin over w: x_adv = middle + half * tanh(w) of the box x - eps .. x + eps in [0, 1].

    threat: Linf, eps in image units. steps: iterations at most. step: first length of a step, in w, of the
    pixel that moves most; multiplied by 2 or 1/2 as the line search finds, and carried to the next iteration.
    kappa: the margin (difference of logits) that counts as done; an image leaves as soon as it is fooled with
    that margin, so there is no `stop`. patience: after so many iterations in a row without progress an image
    is given up; progress is a gain that, kept up, would reach kappa within `steps` iterations. edge: see
    above, in (0, 1). restarts: the first starts at x, the others uniformly in the box, each on the images
    that still stand. targets: 0 climbs to the best wrong class; n runs towards each of the n likeliest wrong
    classes. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    steps: int = 1000
    step: float = 0.01
    kappa: float = 0.0
    patience: int = 20
    edge: float = 0.9
    restarts: int = 1
    targets: int = 0
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm != "Linf":
            raise ValueError(f"this C&W attack works in Linf, not in {self.threat.norm}")
        if min(self.steps, self.patience, self.restarts) < 1 or min(self.targets, self.kappa) < 0:
            raise ValueError(
                "C&W needs steps, patience, restarts >= 1 and targets, kappa >= 0; got "
                f"steps = {self.steps}, patience = {self.patience}, restarts = {self.restarts}, "
                f"targets = {self.targets}, kappa = {self.kappa:g}"
            )
        if not (self.step > 0 and 0 < self.edge < 1):
            raise ValueError(f"C&W needs step > 0, 0 < edge < 1; got step = {self.step}, edge = {self.edge}")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        climbs = self.restarts * goal_count(self.targets, classes)
        usual = min(1.0, USUAL / self.steps)
        return Budget(1 + climbs * (2 + self.steps * (2 + SEARCH)), climbs * self.steps, usual=usual)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W], the iterate of largest margin."""
        target, x_adv = target.following(len(x)), x.clone()
        logits = target.logits(x)
        if len(x) == 0:
            return x_adv
        best = margin(logits, y)
        goals = towards(logits, y, targeted_margin, self.targets) if self.targets else [(margin, y)]
        standing = (~self._done(best)).nonzero().squeeze(1)
        for restart in range(self.restarts):
            for rank, (loss, goal) in enumerate(goals):
                if len(standing) == 0:
                    return x_adv
                stream = noise[standing].fork("restart", restart, rank) if restart else None
                found = self._climb(target[standing], x[standing], goal[standing], loss, stream)
                reached = margin(target[standing].logits(found), y[standing])
                better = reached > best[standing]
                x_adv[standing[better]], best[standing[better]] = found[better], reached[better]
                standing = standing[~self._done(reached)]
        return x_adv

    def _done(self, value: Tensor) -> Tensor:
        return (value > 0) & (value >= self.kappa)

    def _climb(self, target: Target, x: Tensor, goal: Tensor, loss: Loss, noise: Noise | None) -> Tensor:
        """One start -> the last iterate [N, C, H, W], which has the largest `loss` of all."""
        low, high = (x - self.threat.eps).clamp_min(0), (x + self.threat.eps).clamp_max(1)
        if noise is None:
            share = (2 * x - low - high) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)
        else:
            share = 2 * noise.uniform(*x.shape[1:]).to(x) - 1
        w = torch.atanh(share.clamp(-self.edge, self.edge))
        value = loss(target.logits(_image(w, low, high)), goal)
        step, stale = torch.full_like(value, self.step), torch.zeros_like(value)
        place, result = torch.arange(len(x), device=x.device), w.clone()
        walls = [low, high]
        for _ in range(self.steps):
            keep = ~self._done(value) & (stale < self.patience) & (step > STILL)
            if not keep.all():
                result[place[~keep]] = w[~keep]
                place, w, value, step, stale, goal = (t[keep] for t in (place, w, value, step, stale, goal))
                walls = [wall[keep] for wall in walls]
            if len(place) == 0:
                break
            before = value
            w, value, step = self._iterate(target[place], w, goal, loss, value, step, walls)
            slow = value - before <= (self.kappa - before) / self.steps
            stale = torch.where(slow, stale + 1, 0)
        result[place] = w
        return _image(result, low, high)

    def _iterate(
        self,
        target: Target,
        w: Tensor,
        goal: Tensor,
        loss: Loss,
        value: Tensor,
        step: Tensor,
        walls: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One gradient and one line search along it -> w, its loss, the step to carry on.

        While the loss does not grow, halve the step; if the first try grew, double it while it keeps growing.
        """
        low, high = walls
        _, grad, _ = target.loss_grad(w, goal, loss, lambda part, rows: _image(part, low[rows], high[rows]))
        grad = grad / per_image(grad.flatten(1).abs().amax(1).clamp_min(TINY), grad)
        best, taken, trial = value.clone(), torch.zeros_like(step), step.clone()
        live = torch.arange(len(w), device=w.device)
        doubling = torch.zeros_like(live, dtype=torch.bool)
        for search in range(1 + SEARCH):
            moved = w[live] + per_image(trial[live], w) * grad[live]
            reached = loss(target[live].logits(_image(moved, low[live], high[live])), goal[live])
            better = reached > best[live]
            best[live[better]], taken[live[better]] = reached[better], trial[live[better]]
            if search == 0:
                doubling = better
            going = (better == doubling[live]) & ~self._done(reached)
            live = live[going]
            if len(live) == 0:
                break
            trial[live] = torch.where(doubling[live], trial[live] * 2, trial[live] / 2)
        step = torch.where(taken > 0, taken, trial)
        return w + per_image(taken, w) * grad, best, step


def _image(w: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Variables w -> images inside [low, high], all [B, C, H, W]; the clamp removes rounding only."""
    middle, half = (low + high) / 2, (high - low) / 2
    return torch.minimum(torch.maximum(middle + half * w.tanh(), low), high)
