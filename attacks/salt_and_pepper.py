"""Salt-and-pepper noise of the least size that fools: random pixels set to black or white.

The minimal-norm attack of that name in foolbox (Rauber et al. 2017, https://arxiv.org/abs/1707.04131), which Table 5
of MAT takes over.

Differs from that code: the masks are nested, so that a mask's least fooling share is found by bisection; a new mask is
first tried at the largest share that would still be closer than the best image, one query, and dropped if that does not
fool; the distance that counts is the threat model's (theirs is L2, and a Table 5 script that judges L1 by the number of
changed values overstates the distance).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.contract import Budget, ThreatModel
from attacks.decision import fooled
from attacks.noise import Noise
from attacks.target import Target


@dataclass(frozen=True)
class SaltAndPepper:
    """Random search over orders in which pixels turn black or white, all channels of a pixel together.

    threat: L1, L2 or L0 (number of changed values): what is to be small; eps only says where the verdict is read.
    queries: forward passes of an image, at most. levels: until an image is fooled for the first time its masks cover
    1/levels, 2/levels ... of its pixels, then the same again. Raises ValueError.
    """

    closest: ClassVar[bool] = True
    threat: ThreatModel
    queries: int = 1000
    levels: int = 50
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm not in ("L0", "L1", "L2"):
            raise ValueError(f"salt-and-pepper noise is measured in L0, L1 or L2, not in {self.threat.norm}")
        if not 1 <= self.levels <= self.queries:
            raise ValueError(
                f"salt-and-pepper needs 1 <= levels <= queries; got levels = {self.levels}, queries = {self.queries}"
            )

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.queries, 0, leaves=False)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W], the closest fooling image found, or x."""
        x_adv = x.clone()
        place = (~fooled(target, x, y)).nonzero().squeeze(1)
        search = _Search(self, x[place], noise[place])
        for step in range(self.queries - 1):
            if len(place) == 0:
                break
            count, trial = search.propose(step)
            hit = fooled(target[place], trial, y[place])
            x_adv[place[hit]] = trial[hit]
            search.learn(count, hit)
            going = search.best > search.least
            if not going.all():
                place = place[going]
                search.keep(going)
        return x_adv


class _Search:
    """The images still searched [n]: each has a mask, and the counts of its pixels between which it bisects.

    rank [n, pixels]: the order of the pixels in the mask; salt [n, pixels]: which turn white; spent [n, pixels]: the
    cost of the first so many; low, high [n]: counts that do not fool and that do, 0 and 0 without a mask in use.
    best [n]: cost of the closest fooling image; least [n]: of the cheapest change there is.
    """

    def __init__(self, attack: SaltAndPepper, x: Tensor, noise: Noise) -> None:
        self.attack, self.x, self.noise = attack, x, noise
        n, self.pixels = len(x), x.shape[2] * x.shape[3]
        costs = torch.stack([_cost(attack.threat.norm, x, value) for value in (0.0, 1.0)], 2)
        self.costs = costs  # [n, pixels, 2]: of black and of white
        self.least = torch.where(costs > 0, costs, torch.inf).flatten(1).amin(1)
        self.best = torch.full_like(self.least, torch.inf)
        self.rank = torch.zeros(n, self.pixels, dtype=torch.int64, device=x.device)
        self.salt = torch.zeros_like(self.rank, dtype=torch.bool)
        self.spent = torch.zeros_like(self.rank, dtype=torch.float64)
        self.low = torch.zeros(n, dtype=torch.int64, device=x.device)
        self.high = torch.zeros_like(self.low)

    def propose(self, step: int) -> tuple[Tensor, Tensor]:
        """-> how many pixels of its mask each image changes [n], and the images [n, C, H, W]."""
        fresh = self.high - self.low <= 1
        self._draw(fresh.nonzero().squeeze(1), step)
        level = -(-self.pixels * (step % self.attack.levels + 1) // self.attack.levels)
        closer = (self.spent < self.best[:, None]).sum(1)
        first = torch.where(torch.isinf(self.best), closer.clamp_max(level), closer)
        count = torch.where(fresh, first, (self.low + self.high) // 2)
        self.low[fresh], self.high[fresh] = 0, 0
        shape = (len(self.x), 1, *self.x.shape[2:])
        mask = (self.rank < count[:, None]).view(shape)
        return count, torch.where(mask, self.salt.view(shape).to(self.x), self.x)

    def learn(self, count: Tensor, hit: Tensor) -> None:
        """Shorten each image's interval by the verdict on its count; a new mask that failed is dropped."""
        cost = self.spent.gather(1, (count - 1).clamp_min(0)[:, None]).squeeze(1)
        self.best = torch.where(hit, cost, self.best)
        self.low = torch.where(~hit & (self.high > 0), count, self.low)
        self.high = torch.where(hit, count, self.high)

    def keep(self, rows: Tensor) -> None:
        """Drop all images but rows [n] bool."""
        for name in ("x", "noise", "costs", "least", "best", "rank", "salt", "spent", "low", "high"):
            setattr(self, name, getattr(self, name)[rows])

    def _draw(self, rows: Tensor, step: int) -> None:
        stream = self.noise[rows]
        order = stream.fork("order", step).uniform(self.pixels).argsort(dim=1, stable=True)
        salt = stream.fork("salt", step).uniform(self.pixels) < 0.5
        cost = torch.where(salt, self.costs[rows, :, 1], self.costs[rows, :, 0])
        count = torch.arange(self.pixels, device=order.device).expand_as(order)
        self.rank[rows] = torch.empty_like(order).scatter_(1, order, count)
        self.salt[rows], self.spent[rows] = salt, cost.gather(1, order).cumsum(1)


def _cost(norm: str, x: Tensor, value: float) -> Tensor:
    """What setting each pixel of x [n, C, H, W] to `value` adds to its distance (L2: squared) -> [n, pixels]."""
    change = (x.double() - value).abs()
    cost = {"L0": (change > 0).double(), "L1": change, "L2": change.square()}[norm]
    return cost.sum(1).flatten(1)
