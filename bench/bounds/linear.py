"""Linear bounds carried backwards through a network (CROWN), with slopes that can be optimised (alpha-CROWN) and signs
of ReLUs that are given (beta-CROWN).

CROWN: Zhang et al. 2018, https://arxiv.org/abs/1811.00866, theorem 3.2. Through sums: Xu et al. 2020,
https://arxiv.org/abs/2002.12920. alpha: Xu et al. 2021, https://arxiv.org/abs/2011.13824, equation (8). beta: Wang et
al. 2021, https://arxiv.org/abs/2103.06624, equation (8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from bench.bounds.ball import Ball
from bench.bounds.graph import Graph

Slopes = Mapping[int, Tensor]  # node before a ReLU -> slopes in [0, 1] below it, [B, S or 1, *shape]
Seen = Callable[[int, Tensor], None]
RATE, DECAY = 0.25, 0.95  # of the slopes; each step's length is this part of the one before


class Line(NamedTuple):
    """Of each ReLU [B, 1, *shape] the line above it, slope z + intercept; whether it is on, or its sign open."""

    slope: Tensor
    intercept: Tensor
    on: Tensor
    free: Tensor


def line(low: Tensor, high: Tensor) -> Line:
    """low, high [B, *shape]: of what goes into the ReLU. Zhang et al. 2018, table 2: from (low, 0) to (high, high)."""
    low, high = low.unsqueeze(1), high.unsqueeze(1)
    on, free = low >= 0, (low < 0) & (high > 0)
    slope = torch.where(free, high / (high - low).clamp(min=1e-30), on.to(low.dtype))
    return Line(slope, torch.where(free, -slope * low, torch.zeros_like(low)), on, free)


def lines(known: Mapping[int, tuple[Tensor, Tensor]], dtype: torch.dtype) -> dict[int, Line]:
    """Of every node with bounds."""
    return {at: line(low.to(dtype), high.to(dtype)) for at, (low, high) in known.items()}


def first_slopes(above: Mapping[int, Line]) -> dict[int, Tensor]:
    """CROWN's own: 1 where the line above is steeper than 1/2, else 0; less area lies between the lines then."""
    return {at: (one.slope > 0.5).to(one.slope.dtype) for at, one in above.items()}


def least(
    graph: Graph,
    ball: Ball,
    rows: tuple[int, Tensor],
    above: Mapping[int, Line],
    slopes: Slopes,
    signs: Mapping[int, Tensor] | None = None,
    seen: Seen | None = None,
) -> Tensor:
    """Lower bounds [B, S] of linear functions of a node: rows is (node, [B, S, *its shape]).

    above: of every ReLU below that node. signs: what is added to the functions at a node before a ReLU [B, 1, *shape]:
    -beta where the ReLU is held on, +beta where it is held off. seen: told the functions at each ReLU's output
    (number of the node before it) and at the image (0). Graph, ball, rows and the others are in one precision; the
    bound is exact for real numbers, see `bench.bounds.interval.magnitudes` for how far it may be off.
    """
    start, first = rows
    waiting, total = {start: first}, first.new_zeros(first.shape[:2])
    for at in range(start, 0, -1):
        if (row := waiting.pop(at, None)) is None:
            continue
        node = graph.nodes[at]
        if node.affine is not None:
            row, offset = node.affine.back(row)
            total = total + offset
        elif node.kind == "relu":
            before = node.inputs[0]
            if seen:
                seen(before, row)
            row, offset = _through(row, above[before], slopes[before])
            total = total + offset
            if signs and before in signs:
                row = row + signs[before]
        for one in node.inputs:
            waiting[one] = waiting[one] + row if one in waiting else row
    if seen:
        seen(0, waiting[0])
    return total + ball.least(waiting[0])


def _through(row: Tensor, above: Line, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Where a function grows with the ReLU the line below it counts, and else the one above."""
    below = torch.where(above.free, slope, above.on.to(row.dtype))
    falls = row.clamp(max=0.0).flatten(2) @ above.intercept.flatten(2).transpose(1, 2)
    return row * torch.where(row < 0, above.slope, below), falls.squeeze(2)


def optimised(
    graph: Graph, ball: Ball, rows: tuple[int, Tensor], above: Mapping[int, Line], steps: int
) -> dict[int, Tensor]:
    """The slopes, of each function its own, after so many steps of Adam; of each the best seen. In float32 that is
    enough: any slopes in [0, 1] give a bound.
    """
    start, first = rows
    slopes = {
        at: one.expand(-1, first.shape[1], *one.shape[2:]).clone().requires_grad_()
        for at, one in first_slopes(above).items()
        if at < start
    }
    best = {at: one.detach().clone() for at, one in slopes.items()}
    if not steps or not slopes:
        return best
    record = first.new_full(first.shape[:2], -torch.inf)
    adam = torch.optim.Adam(slopes.values(), lr=RATE)
    for step in range(steps):
        bound = least(graph, ball, rows, above, slopes)
        better = bound.detach() > record
        record = torch.maximum(record, bound.detach())
        for at, one in slopes.items():
            best[at][better] = one.detach()[better]
        if step == steps - 1:
            break
        adam.zero_grad()
        (-bound.sum()).backward()
        adam.step()
        with torch.no_grad():
            for one in slopes.values():
                one.clamp_(0.0, 1.0)
        adam.param_groups[0]["lr"] *= DECAY
    return best
