"""Attacks that go the shortest way by gradients reach exact distances: DDN, DeepFool and C&W in L2."""

from __future__ import annotations

import pytest
import torch
from attacking import exact, run
from oracles import TwoPieces, linear_problem, saturated_images

from attacks.contract import ThreatModel
from attacks.cw_l2 import CarliniWagnerL2
from attacks.ddn import DDN
from attacks.deepfool import DeepFool
from attacks.norms import distance

L2 = ThreatModel("L2", 0.5)
CW = CarliniWagnerL2(L2, steps=60, lr=0.05, binary_search_steps=3, initial_c=0.1)
ATTACKS = pytest.mark.parametrize("attack", [DDN(L2), DeepFool(L2), CW], ids=["ddn", "deepfool", "cw-l2"])


@ATTACKS
@pytest.mark.parametrize("classes, shape", [(2, (1, 5, 5)), (3, (3, 8, 8)), (6, (3, 4, 4)), (10, (1, 8, 8))])
def test_linear_distance_is_met_within_one_percent(attack, classes, shape):
    for seed in range(4 if classes == 2 else 1):
        model, x, y = linear_problem(classes, shape, seed)
        x_adv, least = run(attack, model, x, y), exact("L2", model, x, y)
        reachable = torch.isfinite(least)
        ratio = (distance("L2", x, x_adv) / least)[reachable]
        assert reachable.sum() >= 8 and (0.9999 < ratio).all() and (ratio < 1.01).all()
        assert torch.equal(model(x_adv).argmax(1) != y, reachable)
        assert torch.equal(x_adv[~reachable], x[~reachable])


@ATTACKS
def test_piecewise_linear_distance_is_met_within_five_percent(attack):
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(2, 16, generator=generator) / 4
    x = saturated_images(8, (1, 4, 4), 9)
    model = TwoPieces(weight, -(x.flatten(1) @ weight.t()).amax(0) - 0.1).eval()
    y = torch.zeros(8, dtype=torch.int64)
    ratio = distance("L2", x, run(attack, model, x, y)) / exact("L2", model, x, y)
    assert (0.9999 < ratio).all() and (ratio < 1.05).all()
