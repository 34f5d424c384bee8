"""Branch and bound over the signs of ReLUs, for one image whose margins no single bound proves (beta-CROWN).

Bunel et al. 2020, https://arxiv.org/abs/1909.06588: a ReLU whose sign is open is held on in one child and off in the
other. Which: their score first, then of the best few the one whose worse child is bounded best (filtered smart
branching, De Palma et al. 2021, https://arxiv.org/abs/2104.06718). Each child's bound: Wang et al. 2021,
https://arxiv.org/abs/2103.06624, slopes and multipliers optimised from its parent's. A margin is proven when each leaf
is, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bench.bounds.ball import Ball
from bench.bounds.linear import Line, least, line
from bench.bounds.root import Problem, slack

RATE_SLOPE, RATE_SIGN, DECAY = 0.1, 0.1, 0.98
INSIDE = 1 - 1e-4


@dataclass(frozen=True)
class Budget:
    """domains: that may be bounded for one image (0: no branching). steps: of the optimiser for each. at_once: domains
    split together; tried: ReLUs of which both children are bounded before one is chosen.
    """

    domains: int = 1000
    steps: int = 10
    at_once: int = 16
    tried: int = 3


class Outcome(NamedTuple):
    """proven: every margin is above `above`. domains: bounded. fooled: an image [C, H, W] of the ball with another
    class, in float32.
    """

    proven: bool
    domains: int
    fooled: Tensor | None = None


class _Domains(NamedTuple):
    """D parts of the ball, U ReLUs whose sign is open. row [D]: which margin; sign [D, U]: +1 on, -1 off, 0 open;
    slope, weight [D, U]: alpha and beta; bound [D] of the margin.
    """

    row: Tensor
    sign: Tensor
    slope: Tensor
    weight: Tensor
    bound: Tensor

    def take(self, rows: Tensor) -> _Domains:
        return _Domains(*(part[rows] for part in self))


def branch(problem: Problem, bound: Tensor, slopes: dict[int, Tensor], above: float, budget: Budget) -> Outcome:
    """Is every margin of one image above `above`? bound [1, K - 1], slopes: of `of_margins`."""
    search = _Search(problem, above, budget)
    rows = (bound[0] <= above).nonzero().squeeze(1)
    slope = torch.cat([slopes[at].flatten(2)[0][rows][:, one] for at, one in search.places.items()], 1)
    zeros = torch.zeros_like(slope)
    pool, spent = _Domains(rows, zeros, slope, zeros, bound[0][rows]), 0
    while len(pool.row):
        open_signs = (pool.sign == 0).any(1)
        if spent >= budget.domains or not bool(open_signs.all()):
            return Outcome(False, spent)
        order = pool.bound.argsort(stable=True)
        now, later = pool.take(order[: budget.at_once]), pool.take(order[budget.at_once :])
        children = search.children(now)
        spent += len(children.row)
        children, fooled = search.bounded(children)
        if fooled is not None:
            return Outcome(False, spent, fooled)
        children = children.take((children.bound <= above).nonzero().squeeze(1))
        pool = _Domains(*(torch.cat(both) for both in zip(later, children, strict=True)))
    return Outcome(True, spent)


class _Search:
    """One image, and what stays the same in all its domains. places: per node before a ReLU, which of its values have
    an open sign; together they are the U columns of _Domains.
    """

    def __init__(self, problem: Problem, above: float, budget: Budget) -> None:
        self.problem, self.above, self.budget = problem, above, budget
        self.places = {
            at: ((low < 0) & (high > 0)).flatten().nonzero().squeeze(1) for at, (low, high) in problem.known.items()
        }
        self.widths = [len(one) for one in self.places.values()]
        self.rounding = torch.cat([problem.sizes[at].flatten()[one] for at, one in self.places.items()])

    def children(self, parents: _Domains) -> _Domains:
        """Both children of each, at the ReLU that promises most."""
        scores = self._scores(parents)
        tried = min(self.budget.tried, scores.shape[1])
        best = scores.topk(tried, dim=1).indices  # [D, tried]
        both = _split(parents, best.T.flatten())
        with torch.no_grad():
            bound = self._bound(both, both.slope, both.weight)
        worse = bound.view(2, tried, -1).amin(0)  # [tried, D]
        chosen = best.gather(1, worse.argmax(0).unsqueeze(1)).squeeze(1)
        return _split(parents, chosen)

    def bounded(self, some: _Domains) -> tuple[_Domains, Tensor | None]:
        """The same, optimised, with bounds in float64; and an image that fools, if one is met."""
        slope, weight = (one.clone().requires_grad_() for one in (some.slope, some.weight))
        adam = torch.optim.Adam([{"params": [slope], "lr": RATE_SLOPE}, {"params": [weight], "lr": RATE_SIGN}])
        best = some._replace(bound=torch.full_like(some.bound, -torch.inf))
        for step in range(self.budget.steps + 1):
            bound = self._bound(some, slope, weight)
            better = bound.detach().double() > best.bound
            mixed = ((slope, best.slope), (weight, best.weight))
            parts = [torch.where(better.unsqueeze(1), new.detach(), old) for new, old in mixed]
            best = best._replace(slope=parts[0], weight=parts[1], bound=best.bound.maximum(bound.detach().double()))
            if step == self.budget.steps or bool((best.bound > self.above).all()):
                break
            adam.zero_grad()
            (-bound.sum()).backward()
            adam.step()
            with torch.no_grad():
                slope.clamp_(0.0, 1.0)
                weight.clamp_(min=0.0)
            for group in adam.param_groups:
                group["lr"] *= DECAY
        return self._checked(best)

    def _checked(self, some: _Domains) -> tuple[_Domains, Tensor | None]:
        """What float32 calls proven, again in float64; what it does not, with the image where the bound is least."""
        hopeful = (some.bound > self.above).nonzero().squeeze(1)
        bound = some.bound.clone()
        if len(hopeful):
            few = some.take(hopeful)
            exact = self._bound(few, few.slope.double(), few.weight.double(), exact=True)
            bound[hopeful] = exact - self._slack(few)
        rest = (bound <= self.above).nonzero().squeeze(1)
        fooled = self._fooling(some.take(rest)) if len(rest) else None
        return some._replace(bound=bound), fooled

    def _slack(self, some: _Domains) -> Tensor:
        """What rounding can do to the float64 bounds of domains: in the margin, and in what the weights add."""
        rows = self.problem.margins[0][some.row].unsqueeze(0)
        return slack(self.problem, rows)[0] + 2 * some.weight.double() @ self.rounding

    def _fooling(self, some: _Domains) -> Tensor | None:
        rows: dict[int, Tensor] = {}
        with torch.no_grad():
            self._bound(some, some.slope, some.weight, rows=rows)
            fast = self.problem.fast
            within = Ball(fast.ball.norm, fast.ball.radius * INSIDE, fast.ball.x)  # float32 rounds the image too
            images = _repeated(within, len(some.row)).lowest(rows[0].squeeze(1))
            wrong = fast.graph.forward(images).argmax(1) != self.problem.y
        return images[wrong.nonzero()[0, 0]] if bool(wrong.any()) else None

    def _scores(self, some: _Domains) -> Tensor:
        """[D, U]: by how much the lines of each ReLU lie apart, times its part in the margin; Bunel et al. 2020,
        section 5.1. Below 0 where the sign is given.
        """
        rows: dict[int, Tensor] = {}
        with torch.no_grad():
            self._bound(some, some.slope, some.weight, rows=rows)
        scores = [
            rows[at].flatten(1)[:, one].abs() * line(*self.problem.fast.known[at]).intercept.flatten()[one]
            for at, one in self.places.items()
        ]
        return torch.cat(scores, 1).masked_fill(some.sign != 0, -1.0)

    def _bound(
        self, some: _Domains, slope: Tensor, weight: Tensor, exact: bool = False, rows: dict[int, Tensor] | None = None
    ) -> Tensor:
        """Lower bounds [D]; rows is filled with the functions that `least` sees."""
        problem = self.problem if exact else self.problem.fast
        count = len(some.row)
        signs, slopes, above = {}, {}, {}
        parts = [one.split(self.widths, 1) for one in (some.sign.to(slope.dtype), slope, weight)]
        for (at, places), sign, below, beta in zip(self.places.items(), *parts, strict=True):
            shape = (count, 1, *problem.graph.nodes[at].shape)
            above[at] = _held(problem.known[at], places, sign)
            nothing = slope.new_zeros(count, problem.known[at][0].numel())
            slopes[at] = nothing.index_add(1, places, below).view(shape)
            signs[at] = nothing.index_add(1, places, -sign * beta).view(shape)
        given = (problem.graph.last, problem.margins[0][some.row].unsqueeze(1))
        seen = None if rows is None else rows.__setitem__
        return least(problem.graph, _repeated(problem.ball, count), given, above, slopes, signs, seen).squeeze(1)


def _held(between: tuple[Tensor, Tensor], places: Tensor, sign: Tensor) -> Line:
    """The lines above ReLUs, of which some are held on or off."""
    shape = (len(sign), *between[0].shape[1:])
    low, high = (side.flatten(1).expand(len(sign), -1).clone() for side in between)
    low[:, places] = torch.where(sign > 0, 0.0, low[:, places])
    high[:, places] = torch.where(sign < 0, 0.0, high[:, places])
    return line(low.view(shape), high.view(shape))


def _split(parents: _Domains, chosen: Tensor) -> _Domains:
    """chosen [m * D], a ReLU for each parent, m times over -> children [2 * m * D]: first those held on."""
    times = 2 * len(chosen) // len(parents.row)
    children = _Domains(*(part.repeat(times, *[1] * (part.dim() - 1)) for part in parents))
    signs = torch.ones(len(chosen))
    children.sign.scatter_(1, chosen.repeat(2).unsqueeze(1), torch.cat([signs, -signs]).unsqueeze(1))
    return children


def _repeated(ball: Ball, count: int) -> Ball:
    return Ball(ball.norm, ball.radius, ball.x.expand(count, *ball.x.shape[1:]))
