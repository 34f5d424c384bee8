"""The exact least margin of a small network of linear layers and ReLUs in a box, by mixed-integer programming.

Tjeng et al. 2019, https://arxiv.org/abs/1711.07356, equation (4): a ReLU y = max(0, a) of l <= a <= u is y >= a,
y >= 0, y <= a - l (1 - d), y <= u d with d of 0 or 1. Written for numpy, with nothing of bench.bounds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

Array = NDArray[np.float64]


def least_margin(layers: list[tuple[Array, Array]], low: Array, high: Array, row: Array) -> float:
    """layers: (W, b), with a ReLU between two of them. low, high: of each input. row: over the logits."""
    inside = [low, high]
    widths = [len(low), *(2 * len(bias) for _, bias in layers[:-1])]
    total, constraints = sum(widths), []
    bounds_low, bounds_high = list(low), list(high)
    whole = [0] * len(low)
    first = 0
    for depth, (weight, bias) in enumerate(layers[:-1]):
        n, before = len(bias), weight.shape[1]
        middle, radius = (inside[0] + inside[1]) / 2, (inside[1] - inside[0]) / 2
        down, up = (weight @ middle + bias + sign * (np.abs(weight) @ radius + 1e-7) for sign in (-1, 1))
        y_at = sum(widths[: depth + 1])
        d = y_at + n
        for i in range(n):
            for coefficients, low_end, high_end in (
                (((y_at + i, 1.0), *((first + j, -weight[i, j]) for j in range(before))), bias[i], np.inf),
                (
                    ((y_at + i, 1.0), (d + i, -down[i]), *((first + j, -weight[i, j]) for j in range(before))),
                    -np.inf,
                    bias[i] - down[i],
                ),
                (((y_at + i, 1.0), (d + i, -max(up[i], 0.0))), -np.inf, 0.0),
            ):
                line = np.zeros(total)
                for place, value in coefficients:
                    line[place] += value
                constraints.append((line, low_end, high_end))
        bounds_low += [0.0] * (2 * n)
        bounds_high += [*np.maximum(up, 0.0), *[1.0] * n]
        whole += [0] * n + [1] * n
        inside, first = [np.maximum(down, 0.0), np.maximum(up, 0.0)], y_at
    weight, bias = layers[-1]
    goal = np.zeros(total)
    goal[first : first + weight.shape[1]] = row @ weight
    lines, lows, highs = (np.array(part) for part in zip(*constraints, strict=True))
    found = milp(
        goal,
        integrality=np.array(whole),
        bounds=Bounds(np.array(bounds_low), np.array(bounds_high)),
        constraints=LinearConstraint(lines, lows, highs),
        options={"mip_rel_gap": 1e-9},
    )
    assert found.status == 0, found.message
    return float(found.fun + row @ bias)
