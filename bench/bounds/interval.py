"""Interval arithmetic through a network, and what rounding can do to bounds.

Rounding. A sum of n products of floating-point numbers, in any order, is off by at most gamma(n) times the sum of
their absolute values, gamma(n) = n u / (1 - n u), u = 2^-53 in float64: Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., equation (3.5). Every bound that counts is computed in float64 and moved outwards by that much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from bench.bounds.ball import Ball
from bench.bounds.graph import Graph

Between = tuple[Tensor, Tensor]  # lower and upper bounds, [B, *shape] each
SAFETY = 4  # roundings counted for each product and sum: of slopes, of intercepts, of the bounds that these are made of
UNIT = 2.0**-53


def gamma(terms: int) -> float:
    """Higham's, with SAFETY."""
    return SAFETY * terms * UNIT / (1 - SAFETY * terms * UNIT)


def intervals(graph: Graph, ball: Ball, known: Mapping[int, Between] | None = None) -> list[Between]:
    """Per node, bounds of its values over all images of the ball: interval bound propagation, Gowal et al. 2018,
    https://arxiv.org/abs/1810.12715, equation (6). Of an affine map the middle goes through W and the radius through
    |W|; then outwards by what rounding can do. known: bounds that hold too, taken where they are tighter.
    """
    found: list[Between] = []
    for at, node in enumerate(graph.nodes):
        low, high = ball.box if node.kind == "input" else found[node.inputs[0]]
        if node.affine is not None:
            middle, radius = (low + high) / 2, (high - low) / 2
            centre, reach = node.affine.forward(middle), node.affine.spread(radius)
            off = gamma(node.affine.terms + 4) * (node.affine.spread(middle.abs() + radius) + node.affine.offset())
            low, high = centre - reach - off, centre + reach + off
        elif node.kind == "relu":
            low, high = low.clamp(min=0.0), high.clamp(min=0.0)
        elif node.kind == "sum":
            other = found[node.inputs[1]]
            low, high = low + other[0], high + other[1]
            off = gamma(1) * torch.maximum(low.abs(), high.abs())
            low, high = low - off, high + off
        if known and at in known:
            low, high = torch.maximum(low, known[at][0]), torch.minimum(high, known[at][1])
        found.append((low, high))
    return found


def magnitudes(graph: Graph, ball: Ball) -> list[Tensor]:
    """Per node [B, *shape]: the rounding error of any linear bound of it in float64, see `bench.bounds.linear`.

    Such a bound is a sum over paths from the image and the biases to the node, of products of weights and slopes (in
    [0, 1]) and intercepts (at most the largest value). With absolute values in place of all of these it is at most
    what is computed here: |W| in place of W, and twice the value behind a ReLU.
    """
    low, high = ball.box
    sizes: list[Tensor] = []
    depth: list[int] = []
    for node in graph.nodes:
        given = [sizes[at] for at in node.inputs]
        steps = max((depth[at] for at in node.inputs), default=0)
        if node.kind == "input":
            sizes.append(torch.maximum(low.abs(), high.abs()))
        elif node.affine is not None:
            sizes.append(node.affine.spread(given[0]) + node.affine.offset())
            steps += node.affine.terms
        else:
            sizes.append(2 * given[0] if node.kind == "relu" else given[0] + given[1])
        depth.append(steps + math.prod(node.shape) + 4)  # backwards a sum is over all values at most
    first = low[0].numel()
    return [gamma(steps + first) * size for steps, size in zip(depth, sizes, strict=True)]
