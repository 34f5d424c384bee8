"""Sigma-zero: the fooling image with the fewest changed values, by gradients of a smooth count of them.

Cinà et al. 2024, https://arxiv.org/abs/2402.01879, algorithm 1, with its constants: descend the hinge of the margin
and sum delta^2 / (delta^2 + sigma) / d together, with gradients of Linf norm 1 and a cosine of steps, then set to 0
what lies below a threshold that rises while the image fools and falls while it does not. The algorithm's plain step is
one of Adam, as in the authors' code (https://github.com/Cinofix/sigma-zero-adversarial-attack).

Differs: an image counts as fooled where no rounding could undo it, and the closest one is confirmed by the model
itself; the last iterate is judged too; and in the end values go back to those of the image, one after the other, the
least needed first, wherever the image fools without that change (`restore = 0` is the paper's answer).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.closest import Closest, falling, search_budget, search_correct
from attacks.contract import Budget, ThreatModel
from attacks.cw_l2 import ADAM_GUARD, MEAN_DECAY, SQUARE_DECAY
from attacks.losses import margin
from attacks.noise import Noise
from attacks.norms import TINY, per_image
from attacks.target import Target

LAST_STEP = 0.1  # of the first, where the cosine ends


@dataclass(frozen=True)
class SigmaZero:
    """Minimal-norm attack in L0, the number of changed values (of a pixel in colour each of three).

    threat: L0; the attack does not use eps, the verdict is read there. steps: each one gradient. lr: the first step's
    length, in image units. sigma: below its root a change is hardly counted. threshold: the first one, in image units;
    factor: by which share of the step's length it moves. restore: changes that are tried to be taken back, one forward
    pass each. Raises ValueError.
    """

    closest: ClassVar[bool] = True
    threat: ThreatModel
    steps: int = 1000
    lr: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3
    factor: float = 0.01
    restore: int = 50
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm != "L0":
            raise ValueError(f"sigma-zero works in L0, not in {self.threat.norm}")
        if (
            self.steps < 1
            or self.restore < 0
            or not (self.lr > 0 and self.sigma > 0 and self.factor > 0 and 0 <= self.threshold <= 1)
        ):
            raise ValueError(
                "sigma-zero needs steps >= 1, lr, sigma and factor > 0, threshold in [0, 1], restore >= 0; got "
                f"steps = {self.steps}, lr = {self.lr:g}, sigma = {self.sigma:g}, threshold = {self.threshold:g}, "
                f"factor = {self.factor:g}, restore = {self.restore}"
            )

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        ordering = int(self.restore > 0)
        return search_budget(self.steps + 1 + ordering + self.restore, self.steps + ordering, 0, classes)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        return search_correct(self._search, 0, target, x, y, noise, "L0")

    def _search(self, target: Target, found: Closest, y: Tensor, noise: Noise) -> None:
        x, place = found.x, torch.arange(len(y), device=y.device)
        delta, mean, square = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
        threshold = torch.full_like(found.distance, self.threshold)
        for step in range(self.steps):
            lr, trial = self.lr * falling(1.0, LAST_STEP, step, self.steps), x + delta
            for rows, _, grad, logits in target.gradients(trial, y, margin):
                fooled = found.offer(target[rows], place[rows], trial[rows], y[rows], logits)
                slope = self._smooth_slope(delta[rows]) - torch.where(per_image(fooled, grad), 0.0, grad)
                slope = slope / per_image(slope.flatten(1).abs().amax(1).clamp_min(TINY), slope)
                mean[rows].lerp_(slope, 1 - MEAN_DECAY)
                square[rows].lerp_(slope.square(), 1 - SQUARE_DECAY)
                size = (square[rows] / (1 - SQUARE_DECAY ** (step + 1))).sqrt_().add_(ADAM_GUARD)
                move = lr / (1 - MEAN_DECAY ** (step + 1)) * mean[rows] / size
                moved = (trial[rows] - move).clamp(0, 1) - x[rows]
                threshold[rows] = (threshold[rows] + torch.where(fooled, lr, -lr) * self.factor).clamp(0, 1)
                delta[rows] = torch.where(moved.abs() < per_image(threshold[rows], moved), 0.0, moved)
        found.offer(target, place, x + delta, y, target.logits(x + delta))
        self._take_back(target, found, y)

    def _smooth_slope(self, delta: Tensor) -> Tensor:
        """The gradient of sum delta^2 / (delta^2 + sigma) / d, over the d values of each image."""
        return 2 * self.sigma * delta / (delta.square() + self.sigma).square() / delta[0].numel()

    def _take_back(self, target: Target, found: Closest, y: Tensor) -> None:
        """Tries the image without each of its changes, in the order of what they do to the margin, least first."""
        place = torch.isfinite(found.distance).nonzero().squeeze(1)
        if len(place) == 0 or self.restore == 0:
            return
        x, best = found.x[place].flatten(1), found.x_adv[place]
        grad = target[place].loss_grad(best, y[place], margin)[1].flatten(1)
        worth = torch.where(best.flatten(1) != x, grad * (best.flatten(1) - x), torch.inf)
        order, changes = worth.argsort(dim=1, stable=True), found.distance[place].long()
        for turn in range(self.restore):
            going = (turn < changes).nonzero().squeeze(1)
            if len(going) == 0:
                return
            rows, column = place[going], order[going, turn, None]
            trial = found.x_adv[rows].flatten(1).scatter(1, column, x[going].gather(1, column)).view_as(best[going])
            found.offer(target[rows], rows, trial, y[rows], target[rows].logits(trial))
