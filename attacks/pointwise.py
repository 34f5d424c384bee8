"""The pointwise attack: changed values are put back one after the other while the image stays fooled.

Schott et al. 2019, https://arxiv.org/abs/1805.09190 (appendix; also `PointwiseAttack` of foolbox,
https://github.com/bethgelab/foolbox). It starts from salt-and-pepper noise and sees only labels.

Differs from foolbox's code, which asks about one value of each image at a time: whole blocks of values are put back at
once and halved when that fails; an image that keeps failing has ever more blocks tried in the same batch, so batches
stay full; an image that is finished leaves. The result has the same property: no single value can be put back. In L1
and L2 the values are then moved towards the original, in each round the one that saves most (theirs: all in turn, in
random order).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from attacks.contract import ThreatModel
from attacks.decision import batch_size, candidates_fooled
from attacks.noise import Noise
from attacks.norms import distance
from attacks.salt_and_pepper import SaltAndPepper
from attacks.target import Target

LEAST_SAVING = 1e-2  # of an image's distance (L2: squared): a round that saves less is its last
PERSISTENCE = 10  # times `queries` are spent, once, on the images that the first start does not fool
HALVINGS = 6  # of the interval of the saving's logarithm, so that it is known to 11 percent


@dataclass(frozen=True)
class Pointwise:
    """Salt-and-pepper noise, thinned out until every changed value is needed.

    threat: L0 (number of changed values), L1 or L2: what is to be small; eps only says where the verdict is read.
    restarts: independent starts; the closest result counts. queries: forward passes of an image to find each start,
    see `SaltAndPepper`. Raises ValueError.
    """

    closest: ClassVar[bool] = True
    threat: ThreatModel
    restarts: int = 1
    queries: int = 100
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm not in ("L0", "L1", "L2"):
            raise ValueError(f"the pointwise attack works in L0, L1 and L2, not in {self.threat.norm}")
        if min(self.restarts, self.queries) < 1:
            raise ValueError(
                f"pointwise needs restarts, queries >= 1; got restarts = {self.restarts}, queries = {self.queries}"
            )

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W], the closest fooling image found, or x."""
        x_adv, best = x.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        for restart in range(self.restarts):
            stream = noise.fork("restart", restart)
            start = self._start(target, x, y, stream.fork("start"), self.queries)
            if restart == 0:
                left = (start == x).flatten(1).all(1).nonzero().squeeze(1)
                more = stream[left].fork("more")
                start[left] = self._start(target[left], x[left], y[left], more, PERSISTENCE * self.queries)
            rows = (start != x).flatten(1).any(1).nonzero().squeeze(1)
            found = self._thin_out(target[rows], x[rows], start[rows], y[rows], stream[rows])
            length = distance(self.threat.norm, x[rows], found)
            closer = length < best[rows]
            x_adv[rows[closer]], best[rows[closer]] = found[closer], length[closer]
        return x_adv

    def _start(self, target: Target, x: Tensor, y: Tensor, noise: Noise, queries: int) -> Tensor:
        return SaltAndPepper(self.threat, queries, min(SaltAndPepper.levels, queries))(target, x, y, noise)

    def _thin_out(self, target: Target, x: Tensor, x_adv: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """Fooling images x_adv -> closer ones of which no changed value can be put back."""
        channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
        order = noise.fork("order").uniform(pixels).argsort(dim=1, stable=True)  # channels of a pixel in turn
        order = (order[:, :, None] + pixels * torch.arange(channels, device=x.device)).flatten(1)
        x_adv = put_back(target, x, x_adv, y, order, blocks=True)
        rows = torch.arange(len(x), device=x.device)
        while self.threat.norm != "L0" and len(rows):
            here, clean, label = target[rows], x[rows], y[rows]
            moved = move_back(here, clean, x_adv[rows], label, 1 if self.threat.norm == "L1" else 2)
            x_adv[rows] = put_back(here, clean, moved, label, order[rows], blocks=False)
            rows = rows[(x_adv[rows] != moved).flatten(1).any(1)]
        return x_adv


def put_back(target: Target, x: Tensor, x_adv: Tensor, y: Tensor, order: Tensor, blocks: bool) -> Tensor:
    """Changed values of x_adv return to x, in `order` [n, values], until no single one can -> like x_adv.

    blocks: the first sweep tries half of the values at a time, each further one blocks of half the size; otherwise all
    sweeps go one by one. Those go on until as many in a row have failed as are left.

    Where a batch has room an image has several blocks tried at once, each on its own: after a failure twice as many.
    The first that succeeds counts: verdicts before it hold, as nothing had changed, those after it are forgotten. So
    the number of batches depends on what else is in them, the result does not.
    """
    x_adv, place, capacity = x_adv.clone(), torch.arange(len(x), device=x.device), batch_size(target, x)
    listed, count = _listed(x, x_adv, order)
    size, width = (count + 1) // 2 if blocks else torch.ones_like(count), torch.ones_like(count)
    first, failures = torch.zeros_like(count), torch.zeros_like(count)  # next in turn; blocks that failed in a row

    def without(rows: Tensor, begin: Tensor) -> Tensor:
        candidate, nth = _lists(torch.minimum(size[rows], count[rows] - begin))
        images, owner = x_adv[rows].flatten(1), rows[candidate]
        value = listed[owner, begin[candidate] + nth]
        images[candidate, value] = x.flatten(1)[owner, value]
        return images.view(-1, *x.shape[1:])

    while len(place):
        part, left = size[place], (count - first)[place]
        left = torch.where(part == 1, torch.minimum(left, (count - failures)[place]), left)
        tried = torch.minimum(width[place].clamp_max(max(1, capacity // len(place))), (left + part - 1) // part)
        owner, nth = _lists(tried)
        rows = place[owner]
        hit = candidates_fooled(target, x, y, rows, first[rows] + nth * size[rows], without)
        used = tried.scatter_reduce(0, owner, torch.where(hit, nth + 1, len(owner)), "amin")
        success = torch.bincount(owner[hit], minlength=len(place)) > 0
        won = place[success]
        x_adv[won] = without(won, first[won] + size[won] * (used[success] - 1))
        first[place] += part * used
        failures[place] = torch.where(success, 0, failures[place] + used)
        width[place] = torch.where(success, used, 2 * width[place])
        ended = place[first[place] >= count[place]]
        listed[ended], count[ended] = _listed(x[ended], x_adv[ended], order[ended])
        failures[ended] *= size[ended] == 1
        size[ended] = torch.minimum((size[ended] + 1) // 2, (count[ended] + 1) // 2)
        first[ended] = 0
        place = place[(size[place] > 1) | (failures[place] < count[place])]
    return x_adv


def _listed(x: Tensor, x_adv: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """The changed values of each image, in `order` [n, values], then anything; their number [n]."""
    changed = (x != x_adv).flatten(1).gather(1, order)
    row, place = changed.nonzero(as_tuple=True)
    listed = order.clone()
    listed[row, (changed.cumsum(1) - 1)[row, place]] = order[row, place]
    return listed, changed.sum(1)


def _lists(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """lengths [n] -> for n lists of these lengths, one after the other: whose entry each is, and its place there."""
    owner = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    return owner, torch.arange(len(owner), device=lengths.device) - (lengths.cumsum(0) - lengths)[owner]


def move_back(target: Target, x: Tensor, x_adv: Tensor, y: Tensor, power: int) -> Tensor:
    """Single values of x_adv move towards x, each time the one that lowers sum |x_adv - x|^power most -> like x_adv."""
    x_adv, place = x_adv.clone(), torch.arange(len(x), device=x.device)
    while len(place):
        moved = _best_move(target[place], x[place], x_adv[place], y[place], power)
        going = (moved != x_adv[place]).flatten(1).any(1)
        x_adv[place] = moved
        place = place[going]
    return x_adv


def _best_move(target: Target, x: Tensor, x_adv: Tensor, y: Tensor, power: int) -> Tensor:
    """One value of each image moves towards x, as far as saves most; none where the saving would be too small.

    All values of all images are tried at once. The largest saving that any value of an image allows is found by
    bisection on its logarithm; a value that does not allow a saving that another one allows is out.
    """
    clean = x.flatten(1)
    cost = (x_adv.flatten(1) - clean).abs().double().pow(power)

    def moved(owner: Tensor, value: Tensor, saving: Tensor) -> Tensor:
        images, at = x_adv[owner].flatten(1), (torch.arange(len(owner), device=x.device), value)
        left = (1 - saving[owner] / cost[owner, value]).pow(1 / power).to(x)
        images[at] = torch.lerp(clean[owner, value], images[at], left)
        return images.view(-1, *x.shape[1:])

    def allow(values: Tensor, saving: Tensor) -> Tensor:
        owner, value = (values & (cost > saving[:, None])).nonzero(as_tuple=True)
        values = torch.zeros_like(values)
        values[owner, value] = candidates_fooled(target, x, y, owner, value, partial(moved, saving=saving))
        return values

    low, high = cost.sum(1) * LEAST_SAVING, cost.amax(1)
    allowed = allow(cost > 0, low)
    rows = allowed.any(1).nonzero().squeeze(1)
    for _ in range(HALVINGS):
        middle = (low * high).sqrt()
        still = allow(allowed, middle)
        some = still.any(1)
        allowed = torch.where(some[:, None], still, allowed)
        low, high = torch.where(some, middle, low), torch.where(some, high, middle)
    result = x_adv.clone()
    result[rows] = moved(rows, torch.where(allowed, cost, -1.0).argmax(1)[rows], low)
    return result
