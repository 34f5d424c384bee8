"""Search where gradients end: from the best failures of PGD, hops to other patterns of ReLUs and programmes inside one.

Fooling images that exact solvers find and PGD does not lie a little above its best failures, in patterns of signs that
steps along gradients do not reach from a random start: they stop at the nearest local maximum. So chains hop. A patch
of the image is painted at one end of the ball, a short ascent leads to another local maximum, and a chain goes there if
it is no worse: basin hopping, Wales and Doye 1997, https://doi.org/10.1021/jp970984n, at temperature 0. Where steps
settle only about, the best chain is then taken to the exact maximum of its pattern and of those it leads to
(`attacks.regions`). Programmes that free the signs of the nearest neurons gained too little more to be kept, see
docs/attacks.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.contract import Budget, ThreatModel
from attacks.losses import margin, targeted_margin
from attacks.noise import Noise
from attacks.norms import per_image
from attacks.pgd import PGD, ascend
from attacks.regions import check, walk
from attacks.survivors import likeliest
from attacks.target import Target

AT_ONCE = 64  # images searched together: their chains are in memory
CLASSES = 9  # likeliest wrong ones
FIRST = 50  # steps of a start
AREA = (0.05, 0.2)  # of an image, painted by a hop
REACH = 1 / 3  # of eps: the first step after a hop
BETWEEN = 50  # hops from one programme to the next
CHECKS = 6  # passes of `attacks.regions.check`


@dataclass(frozen=True)
class Patterns:
    """Hops and linear programmes, in Linf.

    starts: of PGD towards each of 9 classes. near: an image whose best start leaves more than this share of its margin
    is given up. chains: the best starts, which hop; hops: of each; steps: of the ascent after one. probes: forward
    passes that programmes may take, one for each pixel and programme; 0 solves none, and any network will do. Raises
    ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    starts: int = 4
    near: float = 0.25
    chains: int = 8
    hops: int = 300
    steps: int = 20
    probes: int = 30_000
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm != "Linf":
            raise ValueError(f"patterns works in Linf, not in {self.threat.norm}")
        least = min(self.starts - 1, self.chains - 1, self.steps - 1, self.hops, self.probes)
        if least < 0 or not 0 <= self.near:
            raise ValueError("patterns needs starts, chains and steps >= 1, and hops, probes and near >= 0")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        starts, hops = self.starts * min(CLASSES, classes - 1), min(self.chains, self._most(classes)) * self.hops
        gradients = starts * FIRST + hops * self.steps
        return Budget(1 + gradients + starts + hops + self.probes + CHECKS * bool(self.probes), gradients)

    def _most(self, classes: int) -> int:
        """Chains there can be."""
        return self.starts * min(CLASSES, classes - 1)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`. Raises ModelError for a network
        that is not made of affine maps and ReLUs, or too large for programmes, unless probes is 0.
        """
        x_adv, target = x.clone(), target.following(len(x))
        if len(x) == 0:
            return x_adv
        if self.probes:
            check(target, x)
        for rows in torch.arange(len(x), device=x.device).split(AT_ONCE):
            search = _Search(self, target[rows], x[rows], y[rows], noise[rows])
            search.start()
            for hop in range(self.hops):
                search.hop(hop)
                if self.probes and ((hop + 1) % BETWEEN == 0 or hop + 1 == self.hops):
                    search.walk()
            x_adv[rows] = search.best()
        return x_adv


class _Search:
    """Chains of some images. After `start`: where [n, chains, C, H, W], ahead [n, chains] its margin towards its class,
    goal [n, chains, 2] = (label, class), settled [n, chains]: taken to its maximum since it moved. going [n] bool:
    still searched for; probes [n]: left.
    """

    def __init__(self, attack: Patterns, target: Target, x: Tensor, y: Tensor, noise: Noise) -> None:
        self.attack, self.target, self.x, self.y, self.noise = attack, target, x, y, noise
        self.low, self.high = (x - attack.threat.eps).clamp(min=0), (x + attack.threat.eps).clamp(max=1)
        self.probes = torch.full_like(y, attack.probes)
        self.found, self.fooled = x.clone(), torch.zeros_like(y, dtype=torch.bool)

    def start(self) -> None:
        """The best of all starts."""
        logits = self.target.logits(self.x)
        classes = likeliest(logits, self.y)[:, :CLASSES]
        goal = torch.stack([self.y[:, None].expand_as(classes), classes], 2)
        goal = goal.repeat_interleave(self.attack.starts, 1)
        where = torch.stack([self._drawn(start) for start in range(goal.shape[1])], 1)
        pgd = PGD(self.attack.threat, FIRST, self.attack.threat.eps, step_schedule="cosine")
        where, ahead = self._ascended(torch.arange(len(self.y), device=self.y.device), pgd, where, goal)
        best = ahead.argsort(dim=1, descending=True, stable=True)[:, : self.attack.chains]
        rows = torch.arange(len(self.y), device=self.y.device)[:, None]
        self.where, self.ahead, self.goal = where[rows, best], ahead[rows, best], goal[rows, best]
        self.settled = torch.zeros_like(self.ahead, dtype=torch.bool)
        self.going = ~self.fooled & (self.ahead[:, 0] >= self.attack.near * margin(logits, self.y))

    def hop(self, number: int) -> None:
        """Every chain of what still stands jumps, and stays where it lands if it is no worse there."""
        rows = self.going.nonzero().squeeze(1)
        if len(rows) == 0:
            return
        pgd = PGD(self.attack.threat, self.attack.steps, REACH * self.attack.threat.eps, step_schedule="cosine")
        where, ahead = self._ascended(rows, pgd, self._painted(rows, number), self.goal[rows])
        better = ahead >= self.ahead[rows]
        self.where[rows] = torch.where(better[:, :, None, None, None], where, self.where[rows])
        self.ahead[rows] = torch.where(better, ahead, self.ahead[rows])
        self.settled[rows] &= ~better
        self.going &= ~self.fooled

    def walk(self) -> None:
        """The best chain of each image that stands, of those that moved, to the maximum of its patterns."""
        for row in self.going.nonzero().squeeze(1).tolist():
            if self.settled[row].all() or not self.probes[row]:
                continue
            chain = int(self.ahead[row].masked_fill(self.settled[row], -torch.inf).argmax())
            one, goal = slice(row, row + 1), self.goal[row, chain]
            box = (self.low[one], self.high[one])
            image, ahead, spent = walk(self.target[one], self.where[one, chain], goal, box, int(self.probes[row]) - 1)
            self.probes[row] -= spent + 1  # and the verdict below
            self.settled[row, chain] = True
            if ahead > self.ahead[row, chain]:
                self.where[row, chain], self.ahead[row, chain] = image[0], ahead
            if self.target[one].true_logits(image).argmax(1) != self.y[row]:
                self.found[row], self.fooled[row], self.going[row] = image[0], True, False

    def best(self) -> Tensor:
        """What fools, or the best of the chains: [n, C, H, W]."""
        best = self.where[torch.arange(len(self.y), device=self.y.device), self.ahead.argmax(1)]
        return torch.where(per_image(self.fooled, best), self.found, best)

    def _ascended(self, rows: Tensor, pgd: PGD, where: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """PGD for m chains of each of these images from where [n, m, C, H, W] towards goal [n, m, 2] -> where they
        end, and their margins [n, m]. What fools is noted.
        """
        n, m = where.shape[:2]
        each = rows.repeat_interleave(m)
        target, x, y, flat = self.target[each], self.x[each], self.y[each], goal.flatten(0, 1)
        found, fooled = ascend(pgd, target, x, y, targeted_margin, flat, self.noise[each], where.flatten(0, 1))
        logits = target.logits(found)
        fooled |= logits.argmax(1) != y
        for place in fooled.nonzero().squeeze(1).flip(0):
            self.found[each[place]] = found[place]
        self.fooled[each[fooled]] = True
        return found.view_as(where), targeted_margin(logits, flat).view(n, m)

    def _drawn(self, start: int) -> Tensor:
        """Uniform in the ball, like x."""
        return self.low + (self.high - self.low) * self.noise.fork("start", start).uniform(*self.x.shape[1:]).to(self.x)

    def _painted(self, rows: Tensor, number: int) -> Tensor:
        """The chains of these images, each with a patch at the lower or the upper end of the ball."""
        height, width = self.x.shape[2:]
        draws = self.noise[rows].fork("hop", number).uniform(self.where.shape[1], 4)
        side = (AREA[0] + (AREA[1] - AREA[0]) * draws[..., 0]).sqrt()
        across = [_interval(draws[..., 1 + axis], side, size) for axis, size in enumerate((height, width))]
        patch = (across[0].unsqueeze(3) & across[1].unsqueeze(2)).unsqueeze(2)
        up = (draws[..., 3] < 0.5)[:, :, None, None, None]
        ends = torch.where(up, self.high[rows].unsqueeze(1), self.low[rows].unsqueeze(1))
        return torch.where(patch, ends, self.where[rows])


def _interval(draw: Tensor, share: Tensor, size: int) -> Tensor:
    """draw, share [n, m] in [0, 1) -> [n, m, size] bool: an interval of about that share of size places, anywhere."""
    length = (share * size).round().clamp(min=1).long()
    first = (draw.double() * (size - length + 1)).long()
    places = torch.arange(size, device=draw.device)
    return (places >= first.unsqueeze(2)) & (places < (first + length).unsqueeze(2))
