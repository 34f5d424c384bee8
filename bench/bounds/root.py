"""Bounds of a whole network over a ball: of what goes into each ReLU, layer by layer, and then of the margins.

Slopes are looked for in float32. Every bound that counts is computed in float64 with these slopes, and moved outwards
by what rounding can do (`bench.bounds.interval`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bench.bounds.affine import Reshape, Scale
from bench.bounds.ball import Ball
from bench.bounds.graph import Graph
from bench.bounds.interval import Between, intervals, magnitudes
from bench.bounds.linear import least, lines, optimised

MOST_ROWS = 64  # values of a layer whose slopes are optimised, each its own; of more, CROWN's own must do
MOST_WORK = 1 << 29  # values that linear bounds of one layer may touch per image; beyond, its intervals stay
AT_ONCE = 1 << 19  # values of linear functions in memory at a time: what fits into a cache is several times faster


@dataclass(frozen=True)
class Problem:
    """Is y the class of every image of each ball? graph, ball: in float64. y [B]. known: bounds of what goes into each
    ReLU.
    """

    graph: Graph
    ball: Ball
    y: Tensor
    known: Mapping[int, Between]

    @cached_property
    def fast(self) -> Problem:
        """In float32, to look for slopes."""
        known = {at: (low.float(), high.float()) for at, (low, high) in self.known.items()}
        return Problem(self.graph.to(torch.float32), self.ball.to(torch.float32), self.y, known)

    @cached_property
    def sizes(self) -> list[Tensor]:
        """Of rounding, see `magnitudes`."""
        return magnitudes(self.graph, self.ball)

    @cached_property
    def above(self) -> dict[int, Any]:
        """The lines above each ReLU."""
        return lines(self.known, self.ball.x.dtype)

    @property
    def margins(self) -> Tensor:
        """[B, K - 1, K]: rows that take from the logit of y that of another class, in the order of the classes."""
        classes = math.prod(self.graph.nodes[-1].shape)
        others = torch.arange(classes).expand(len(self.y), -1)
        others = others[others != self.y.unsqueeze(1)].view(len(self.y), classes - 1)
        rows = torch.zeros(len(self.y), classes - 1, classes, dtype=self.ball.x.dtype)
        rows.scatter_(2, others.unsqueeze(2), -1.0)
        return rows.scatter_(2, self.y.view(-1, 1, 1).expand(-1, classes - 1, 1), 1.0)

    def __getitem__(self, rows: Tensor | slice) -> Problem:
        known = {at: (low[rows], high[rows]) for at, (low, high) in self.known.items()}
        return Problem(self.graph, self.ball[rows], self.y[rows], known)


def start(graph: Graph, ball: Ball, y: Tensor) -> Problem:
    """With the bounds of interval arithmetic."""
    found = intervals(graph, ball)
    return Problem(graph, ball, y, {at: found[at] for at in graph.relus})


def tightened(problem: Problem, steps: int) -> Problem:
    """With linear bounds of everything that goes into a ReLU and whose sign is not known yet, layer by layer, each
    with slopes that were optimised for so many steps; 0: CROWN's own, which comes first, as layers with more than
    MOST_ROWS open signs are left as they are otherwise.
    """
    for at in problem.graph.relus:
        low, high = problem.known[at]
        free = ((low < 0) & (high > 0)).flatten(1)
        most = int(free.sum(1).max())
        below = sum(math.prod(node.shape) for node in problem.graph.nodes[:at])
        if not most or most * below > MOST_WORK or (steps and most > MOST_ROWS) or _exact(problem, at):
            continue
        places = free.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        width = max(1, AT_ONCE // (len(free) * max(math.prod(node.shape) for node in problem.graph.nodes[: at + 1])))
        known = dict(problem.known)
        for some in places.split(width, 1):
            known[at] = _tighter(problem, at, some, known[at], steps)
        found = intervals(problem.graph, problem.ball, known)
        problem = replace(problem, known={one: found[one] for one in problem.graph.relus})
    return problem


def _exact(problem: Problem, at: int) -> bool:
    """Whether interval arithmetic leaves nothing to gain: in a box, up to the first map that mixes values."""
    mixed, node = 0, problem.graph.nodes[at]
    while node.affine is not None:
        mixed += not isinstance(node.affine, Scale | Reshape)
        node = problem.graph.nodes[node.inputs[0]]
    return problem.ball.norm == "Linf" and node.kind == "input" and mixed <= 1


def _tighter(problem: Problem, at: int, places: Tensor, between: Between, steps: int) -> Between:
    """The bounds `between` of a node, with linear ones of the values at places [B, S]."""
    flat = tuple(side.flatten(1) for side in between)
    ones = torch.zeros(*places.shape, flat[0].shape[1], dtype=torch.float64).scatter_(2, places.unsqueeze(2), 1.0)
    rows = torch.cat([ones, -ones], 1).view(len(ones), -1, *between[0].shape[1:])
    bound = _bound(problem, at, rows, steps)[0] - problem.sizes[at].flatten(1).gather(1, places).repeat(1, 2)
    low, high = bound[:, : places.shape[1]], -bound[:, places.shape[1] :]
    found = (
        flat[0].scatter(1, places, torch.maximum(flat[0].gather(1, places), low)),
        flat[1].scatter(1, places, torch.minimum(flat[1].gather(1, places), high)),
    )
    return found[0].view_as(between[0]), found[1].view_as(between[1])


def _bound(problem: Problem, at: int, rows: Tensor, steps: int) -> tuple[Tensor, dict[int, Tensor]]:
    """Lower bounds [B, S] of rows of a node in float64, and their slopes in float32."""
    fast = problem.fast
    slopes = optimised(fast.graph, fast.ball, (at, rows.float()), fast.above, steps)
    exact = {one: slope.double() for one, slope in slopes.items()}
    return least(problem.graph, problem.ball, (at, rows), problem.above, exact), slopes


def of_margins(problem: Problem, steps: int) -> tuple[Tensor, dict[int, Tensor]]:
    """Lower bounds [B, K - 1] of the margins over the other classes, which hold, and the slopes that they have."""
    last, rows = problem.graph.last, problem.margins
    bound, slopes = _bound(problem, last, rows, steps)
    return bound - slack(problem, rows), slopes


def slack(problem: Problem, rows: Tensor) -> Tensor:
    """By how much rounding in float64 may have moved bounds of rows [B, S, K] of the logits; [B, S]."""
    return (rows.abs() @ problem.sizes[problem.graph.last].unsqueeze(2)).squeeze(2) * 2
