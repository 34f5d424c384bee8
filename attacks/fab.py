"""FAB-T, fast adaptive boundary towards target classes: Croce & Hein 2020, https://arxiv.org/abs/1907.02044.

Algorithm 1, minimal-norm in Linf, L2 and L1: steps to the nearest point of the linearised decision boundary inside the
box, pulled towards the image. Targets one class at a time, as in AutoAttack.

Differs from algorithm 1: after a success the next step starts nearer to the image, as there, but with the gradient of
the point that fooled, which saves a pass. Differs from the authors' code: the projection is solved exactly, by
Newton's method instead of sorting; images whose boundary is flat stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.contract import Budget, ThreatModel
from attacks.losses import targeted_margin
from attacks.noise import Noise
from attacks.survivors import goal_count, goals
from attacks.target import Target

LARGEST_PULL = 0.1  # alpha_max: the most that a step heeds the projection of the image itself
OVERSHOOT = 1.05  # eta
BACKWARD = 0.9  # beta: how far out from the image to go on from after a success
BISECTIONS = 3  # between the image and the best point, at the end


@dataclass(frozen=True)
class FAB:
    """FAB in its targeted form.

    steps: per target, one gradient each. targets: the classes that the model finds likeliest after the true one.
    restarts: the first begins at the image, the others at random points of the ball of half the distance found so far.
    threat.eps is where the verdict is read. Raises ValueError.
    """

    closest: ClassVar[bool] = True
    threat: ThreatModel
    steps: int = 100
    targets: int = 9
    restarts: int = 1
    version: int = 2

    def __post_init__(self) -> None:
        if self.threat.norm not in ("Linf", "L2", "L1"):
            raise ValueError(f"FAB works in Linf, L2 and L1, not in {self.threat.norm}")
        if min(self.steps, self.targets, self.restarts) < 1:
            raise ValueError(
                f"FAB needs steps, targets and restarts >= 1; got steps = {self.steps}, targets = {self.targets}, "
                f"restarts = {self.restarts}"
            )

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        goals = goal_count(self.targets, classes)
        forward = self.restarts * (1 + goals * (self.steps + 1)) + BISECTIONS
        return Budget(forward, self.restarts * goals * self.steps, leaves=False)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> the closest x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        best, length = x.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        if len(x) == 0:
            return best
        target = target.following(len(x))
        for restart in range(self.restarts):
            for rank, (_, pair) in enumerate(goals(target, x, y, "margin", targeted_margin, self.targets)):
                start = self._start(x, length, noise.fork("restart", restart, rank)) if restart else x
                self._run(target, x, y, pair, start, best, length)
        return self._bisect(target, x, y, best, length)

    def _start(self, x: Tensor, length: Tensor, noise: Noise) -> Tensor:
        unit = norms.random_in_ball(self.threat.norm, 1.0, x, noise)
        radius = (length / 2).clamp_max(self.threat.eps).to(x)
        return (x + unit * norms.per_image(radius, x)).clamp(0, 1)

    def _run(
        self, target: Target, x: Tensor, y: Tensor, pair: Tensor, start: Tensor, best: Tensor, length: Tensor
    ) -> None:
        """Steps towards one class; `best` and `length` [N] are improved in place."""
        x_adv = start.clone()
        for _ in range(self.steps):
            for rows, value, grad, logits in target.gradients(x_adv, pair, targeted_margin):
                fooled = logits.argmax(1) != y[rows]
                self._remember(rows, fooled, x, x_adv, best, length)
                back = norms.per_image(fooled, grad)
                here = torch.where(back, x[rows] + BACKWARD * (x_adv[rows] - x[rows]), x_adv[rows])
                # the boundary is linearised where the gradient was taken, and seen from two points
                from_here = -value - (grad * (here - x_adv[rows])).flatten(1).sum(1)
                from_image = -value - (grad * (x[rows] - x_adv[rows])).flatten(1).sum(1)
                d_here, d_image = (
                    norms.nearest_on_plane(self.threat.norm, point, grad, need)
                    for point, need in ((here, from_here), (x[rows], from_image))
                )
                far, near = (norms.distance(self.threat.norm, torch.zeros_like(d), d) for d in (d_here, d_image))
                pull = (far / (far + near).clamp_min(norms.TINY)).clamp_max(LARGEST_PULL).to(grad)
                alpha = norms.per_image(pull, grad)
                moved = (1 - alpha) * (here + OVERSHOOT * d_here) + alpha * (x[rows] + OVERSHOOT * d_image)
                x_adv[rows] = moved.clamp(0, 1)
        rows = slice(0, len(x))
        self._remember(rows, target.logits(x_adv).argmax(1) != y, x, x_adv, best, length)

    def _remember(self, rows: slice, fooled: Tensor, x: Tensor, x_adv: Tensor, best: Tensor, length: Tensor) -> None:
        distance = norms.distance(self.threat.norm, x[rows], x_adv[rows])
        closer = fooled & (distance < length[rows])
        best[rows] = torch.where(norms.per_image(closer, x_adv), x_adv[rows], best[rows])
        length[rows] = torch.where(closer, distance, length[rows])

    def _bisect(self, target: Target, x: Tensor, y: Tensor, best: Tensor, length: Tensor) -> Tensor:
        """Final search: between the image and the closest point found."""
        low = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        high = torch.ones_like(low)
        result, found = best.clone(), torch.isfinite(length).nonzero().squeeze(1)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            trial = x + norms.per_image(middle, x) * (best - x)
            fooled = torch.zeros_like(low, dtype=torch.bool)
            fooled[found] = target[found].logits(trial[found]).argmax(1) != y[found]
            result[fooled] = trial[fooled]
            low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
        return result
