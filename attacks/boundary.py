"""The boundary attack: from a far image that fools, a random walk along the boundary towards the clean image.

Brendel, Rauber, Bethge 2018, https://arxiv.org/abs/1712.04248, algorithm 1; it sees only labels.

Differs from the paper and from foolbox's code (https://github.com/bethgelab/foolbox): the step towards the image is not
adapted on its own but tied to the orthogonal one, as half its square. (Derived: on a flat boundary that is what the
curvature of the sphere costs, and the best ratio; the paper's two success rates, 1/2 and 1/4, aim at about the same.)
One length is left for each image, and it is adapted after every step and not after hundreds. Candidates come in pairs
of opposite directions, one of which leads outwards. Starts are black and white noise of ever coarser grain, which fools
more models than uniform noise does; images without one are returned unchanged and stop nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.contract import Budget, ThreatModel
from attacks.decision import batch_size, fooled
from attacks.noise import Noise
from attacks.norms import TINY, distance, per_image
from attacks.target import Target

HALVINGS = 10  # of the way from the start to the image
SUCCESS = 0.2  # share of candidates that shall fool; flat between 0.15 and 0.3
RATE = 0.3  # how fast the logarithm of the length follows the successes
LEAST_LENGTH = 1e-3  # shorter steps towards the image, 5e-7 of the distance, are lost in float32


@dataclass(frozen=True)
class Boundary:
    """Random steps on the sphere around the image through the closest fooling one, each followed by a step inwards.

    threat: L2: what is to be small; eps only says where the verdict is read. steps: at most; an image leaves when its
    steps become too short to matter. candidates: tried at once in a step, the closest that fools is taken. length: of
    the first orthogonal step, as a share of the distance. draws: noise images tried as a start, at most. restarts:
    independent walks; a walk can end at the boundary of a class that is not the nearest. A step costs an image
    `candidates` forward passes, a start draws + 10 at most. Raises ValueError.
    """

    closest: ClassVar[bool] = True
    threat: ThreatModel
    steps: int = 5000
    candidates: int = 2
    length: float = 0.1
    draws: int = 100
    restarts: int = 1
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm != "L2":
            raise ValueError(f"the boundary attack works in L2, not in {self.threat.norm}")
        if min(self.steps, self.candidates, self.draws, self.restarts) < 1:
            raise ValueError(
                f"the boundary attack needs steps, candidates, draws, restarts >= 1; got steps = {self.steps}, "
                f"candidates = {self.candidates}, draws = {self.draws}, restarts = {self.restarts}"
            )
        if not LEAST_LENGTH <= self.length <= 1:
            raise ValueError(f"length is a share of the distance, {LEAST_LENGTH:g} to 1; got {self.length:g}")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        start = self.draws + HALVINGS
        return Budget(1 + self.restarts * (start + self.steps * self.candidates), 0, leaves=False)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W], the closest fooling image found, or x."""
        x_adv, best = x.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        right = ~fooled(target, x, y)
        size = max(1, batch_size(target, x) // self.candidates)
        for restart in range(self.restarts):
            stream, rows = noise.fork("restart", restart), right.nonzero().squeeze(1)
            start = x.clone()
            start[rows] = self._start(target[rows], x[rows], y[rows], stream[rows])
            started = (start != x).flatten(1).any(1).nonzero().squeeze(1)
            for rows in started.split(size):  # each to its end: what it works on stays in the cache
                found = self._walk(target[rows], x[rows], start[rows], y[rows], stream[rows])
                away = distance("L2", x[rows], found)
                closer = away < best[rows]
                x_adv[rows[closer]], best[rows[closer]] = found[closer], away[closer]
        return x_adv

    def _start(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The first noise image that fools, drawn to just behind the boundary -> like x; x itself where none does."""
        far, place = x.clone(), torch.arange(len(x), device=x.device)
        channels, height, width = x.shape[1:]
        grains = max(height, width).bit_length()
        for draw in range(self.draws):
            if len(place) == 0:
                break
            grain = 2 ** (draw * grains // self.draws)
            cells = noise[place].fork("start", draw).uniform(channels, -(-height // grain), -(-width // grain))
            pixels = cells.round().repeat_interleave(grain, 2).repeat_interleave(grain, 3)
            drawn = pixels[:, :, :height, :width].to(x)
            hit = fooled(target[place], drawn, y[place])
            far[place[hit]] = drawn[hit]
            place = place[~hit]
        rows = (far != x).flatten(1).any(1).nonzero().squeeze(1)
        far[rows] = _bisect(target[rows], x[rows], far[rows], y[rows])
        return far

    def _walk(self, target: Target, x: Tensor, x_adv: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """Fooling images x_adv [n, C, H, W] -> closer ones."""
        result, place = x_adv.clone(), torch.arange(len(x), device=x.device)
        length = torch.full((len(x),), self.length, dtype=x.dtype, device=x.device)
        for step in range(self.steps):
            if len(place) == 0:
                break
            # uniform in a cube: as good as normal here (measured), at a third of the cost
            half = 2 * noise.fork("step", step).uniform((self.candidates + 1) // 2, *x.shape[1:]).to(x) - 1
            trial = proposals(x, x_adv, torch.cat([half, -half], 1)[:, : self.candidates], length)
            owner = place.repeat_interleave(self.candidates)
            hit = fooled(target[owner], trial.flatten(0, 1), y.repeat_interleave(self.candidates)).view(len(x), -1)
            x_adv = _closest(x, x_adv, trial, hit)
            length = (length * torch.exp(RATE * (hit.to(x).mean(1) - SUCCESS))).clamp_max(1)
            going = length >= LEAST_LENGTH
            if not going.all():
                result[place[~going]] = x_adv[~going]
                place, x, x_adv, y, length = (t[going] for t in (place, x, x_adv, y, length))
                noise = noise[going]
        result[place] = x_adv
        return result


def proposals(x: Tensor, x_adv: Tensor, direction: Tensor, length: Tensor) -> Tensor:
    """x, x_adv [n, C, H, W], directions [n, k, C, H, W], length [n] -> candidates [n, k, C, H, W] in [0, 1].

    With r the distance of x_adv: a step of length * r along the part of `direction` that is orthogonal to x_adv - x,
    back onto the sphere of radius r, and inwards to (1 - length^2 / 2) r.
    """
    origin, step = x.flatten(1)[:, None], length[:, None, None]
    away, across = x_adv.flatten(1)[:, None] - origin, direction.flatten(2)
    radius = away.norm(dim=2, keepdim=True)
    across = across - away * (across * away).sum(2, keepdim=True) / radius.square()
    across = across * (step * radius / across.norm(dim=2, keepdim=True).clamp_min(TINY))
    sphere = (origin + (away + across) / (1 + step.square()).sqrt()).clamp(0, 1) - origin
    inwards = (1 - step.square() / 2) * radius / sphere.norm(dim=2, keepdim=True).clamp_min(TINY)
    return (origin + sphere * inwards.clamp_max(1)).clamp(0, 1).view_as(direction)


def _closest(x: Tensor, x_adv: Tensor, trial: Tensor, hit: Tensor) -> Tensor:
    """Of x_adv [n, C, H, W] and those of trial [n, k, C, H, W] that are hit [n, k], the closest to x [n, C, H, W]."""
    away = torch.where(hit, (trial - x[:, None]).flatten(2).norm(dim=2), torch.inf)
    least, which = away.min(dim=1)
    closer = least < (x_adv - x).flatten(1).norm(dim=1)
    return torch.where(per_image(closer, x), trial[torch.arange(len(x), device=x.device), which], x_adv)


def _bisect(target: Target, x: Tensor, far: Tensor, y: Tensor) -> Tensor:
    """Images far that fool -> images between x and far that fool, HALVINGS halvings nearer to the boundary."""
    low, high = torch.zeros(len(x), dtype=x.dtype, device=x.device), torch.ones(len(x), dtype=x.dtype, device=x.device)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        hit = fooled(target, torch.lerp(x, far, per_image(middle, x)), y)
        low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
    return torch.lerp(x, far, per_image(high, x))
