"""Square: random search with squares, needs no gradient. Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049.

Algorithms 1 to 3: a square of random place and shrinking size gets a new perturbation at the edge of the ball, and
stays where the margin rises.

Differs from the authors' code: an image leaves when it is fooled, its random numbers are its own, and the L2 budget
that the box cuts off is not handed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.contract import Budget, ThreatModel
from attacks.losses import margin
from attacks.noise import Noise, whole
from attacks.survivors import packer
from attacks.target import Target

# The share p of pixels in a square halves at these queries out of 10,000 (section 4.1).
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
TOGETHER = 50  # queries whose random numbers are drawn at once


@dataclass(frozen=True)
class Square:
    """Square attack in Linf or L2.

    queries: forward passes per image. p: share of the pixels in the first squares; the paper uses 0.05 (Linf) and 0.1
    (L2), AutoAttack 0.8. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    queries: int = 5000
    p: float = 0.8
    version: int = 2

    def __post_init__(self) -> None:
        if self.threat.norm not in ("Linf", "L2"):
            raise ValueError(f"Square works in Linf and L2, not in {self.threat.norm}")
        if self.queries < 1 or not 0 < self.p <= 1:
            raise ValueError(f"Square needs queries >= 1 and p in (0, 1]; got queries = {self.queries}, p = {self.p:g}")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.queries, 0)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        start = _stripes if self.threat.norm == "Linf" else _tiles
        propose = self._flip if self.threat.norm == "Linf" else self._move
        result, place = x.clone(), torch.arange(len(x), device=x.device)
        x, y, best = x.clone(), y.clone(), start(x, self.threat.eps, noise.fork("start"))
        loss = x.new_full((len(x),), -torch.inf)
        trial, draws = best, x.new_empty(len(x), 0)
        for query in range(self.queries):
            value = margin(target[place].logits(trial), y).to(loss) if len(place) else loss
            better = value > loss
            loss = torch.where(better, value, loss)
            best = torch.where(norms.per_image(better, best), trial, best)
            if (loss > 0).any():
                down = loss > 0
                result[place[down]] = best[down]
                pack = packer(~down)
                place, x, y, best, loss, draws = map(pack, (place, x, y, best, loss, draws))
            if len(place) == 0:
                return result
            if query % TOGETHER == 0:
                draws = noise[place].fork("queries", query).uniform(TOGETHER, 4 + x.shape[1])
            trial = propose(x, best, self.side(query, x), draws[:, query % TOGETHER])
        result[place] = best
        return result

    def side(self, query: int, x: Tensor) -> int:
        """Side of the square at a query, in pixels."""
        done = query / self.queries * 10_000
        share = self.p / 2 ** sum(done > halving for halving in HALVINGS)
        return max(1, round((share * x.shape[-2] * x.shape[-1]) ** 0.5))

    def _flip(self, x: Tensor, best: Tensor, side: int, draws: Tensor) -> Tensor:
        """Algorithm 2: one sign per channel for the whole square, at the edge of the ball. draws: see `_move`."""
        side = min(side, *x.shape[-2:])
        inside = _window(x, side, draws[:, :2])
        sign = _signs(draws[:, 4:]).to(x)[:, :, None, None]
        return torch.where(inside, (x + self.threat.eps * sign).clamp(0, 1), best)

    def _move(self, x: Tensor, best: Tensor, side: int, draws: Tensor) -> Tensor:
        """Algorithm 3: the budget of one square, and what is unused, goes into another square as a pyramid.

        draws [N, 4 + C] in [0, 1): where the new square is, where the old one, the sign of each channel.
        """
        side = min(max(3, side + 1 - side % 2), *x.shape[-2:])
        delta = best - x
        new, old = _window(x, side, draws[:, :2]), _window(x, side, draws[:, 2:4])
        length = delta.square().sum((1, 2, 3)).sqrt()
        freed = (delta * (new | old)).square().sum((1, 2, 3))
        budget = ((self.threat.eps**2 - length**2).clamp_min(0) + freed).sqrt() / x.shape[1] ** 0.5
        bump = _pyramid(x, new, side) * _signs(draws[:, 4:]).to(x)[:, :, None, None]
        here = (delta * new).square().sum((2, 3), keepdim=True).sqrt()
        bump = bump + delta * new / here.clamp_min(norms.TINY)
        bump = bump / bump.square().sum((2, 3), keepdim=True).sqrt().clamp_min(norms.TINY)
        moved = delta * ~(new | old) + bump * norms.per_image(budget, x)
        return (x + norms.project_l2(moved, self.threat.eps)).clamp(0, 1)


def _window(x: Tensor, side: int, draws: Tensor) -> Tensor:
    """The square of each image that its draws [N, 2] in [0, 1) choose: [N, 1, H, W] bool."""
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape[-2:])
    top, left = (whole(draws[:, i, None], 0, size - side) for i, size in enumerate(x.shape[-2:]))
    tall = (rows >= top) & (rows < top + side)
    wide = (columns >= left) & (columns < left + side)
    return (tall[:, :, None] & wide[:, None, :])[:, None]


def _signs(draws: Tensor) -> Tensor:
    """Draws in [0, 1) -> -1 or 1."""
    return whole(draws, 0, 1) * 2 - 1


def _stripes(x: Tensor, eps: float, noise: Noise) -> Tensor:
    """Linf start: vertical stripes of one pixel at the edge of the ball."""
    return (x + eps * _signs(noise.uniform(x.shape[1], 1, x.shape[3])).to(x)).clamp(0, 1)


def _tiles(x: Tensor, eps: float, noise: Noise) -> Tensor:
    """L2 start: a grid of 5 x 5 tiles, each a pyramid of random sign per channel, together of length eps."""
    delta = torch.zeros_like(x)
    tile = max(1, min(x.shape[-2:]) // 5)
    everywhere = torch.ones(1, 1, tile, tile, dtype=torch.bool, device=x.device)
    bump = _pyramid(x.new_zeros(1, 1, tile, tile), everywhere, tile)
    for top in range(0, x.shape[-2] - tile + 1, tile):
        for left in range(0, x.shape[-1] - tile + 1, tile):
            sign = _signs(noise.fork(top, left).uniform(x.shape[1])).to(x)[:, :, None, None]
            delta[:, :, top : top + tile, left : left + tile] = bump * sign
    length = delta.flatten(1).norm(dim=1).clamp_min(norms.TINY)
    return (x + delta * norms.per_image(eps / length, x)).clamp(0, 1)


def _pyramid(x: Tensor, inside: Tensor, side: int) -> Tensor:
    """Eq. 4: concentric squares in the window, the M-th from outside weighing sum_{k <= M} 1 / (n + 1 - k)^2.

    inside [N, 1, H, W] bool, one square of that side each -> [N, 1, H, W].
    """
    steps = torch.arange(side, device=x.device)
    depth = torch.minimum(steps, side - 1 - steps)
    depth = torch.minimum(depth[:, None], depth[None, :])  # 0 on the rim
    half = (side + 1) // 2
    weights = torch.tensor([1 / (half - k) ** 2 for k in range(half)], dtype=x.dtype, device=x.device).cumsum(0)
    out = torch.zeros(len(inside), 1, *x.shape[-2:], dtype=x.dtype, device=x.device)
    out[inside] = weights[depth].flatten().repeat(len(inside))
    return out
