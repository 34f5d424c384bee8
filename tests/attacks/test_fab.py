"""Laws of FAB: the exact distances of linear and piecewise-linear models, and what it remembers."""

from __future__ import annotations

import pytest
import torch
from attacking import run
from oracles import TwoPieces, exact_margin, linear_problem, saturated_images, small_cnn

from attacks.contract import ThreatModel
from attacks.fab import FAB
from attacks.norms import distance


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("classes", [2, 6])
def test_linear_distances_are_exact_to_one_percent(norm, classes):
    model, x, y = linear_problem(classes, (1, 6, 6), 1)
    model, x = model.double(), x.double()
    x_adv = run(FAB(ThreatModel(norm, 0.1), 30, targets=5), model, x, y)
    fooled = model(x_adv).argmax(1) != y
    exact = torch.tensor([exact_margin(norm, model, image, int(label)) for image, label in zip(x, y, strict=True)])
    reachable = torch.isfinite(exact)
    assert torch.equal(fooled, reachable) and reachable.sum() >= 8
    ratio = (distance(norm, x, x_adv) / exact)[reachable]
    assert (ratio >= 1 - 1e-9).all() and (ratio <= 1.01).all(), ratio
    assert torch.equal(x_adv[~fooled], x[~fooled]), "where nothing was found the image itself comes back"


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_piecewise_linear_distances_are_met_within_five_percent(norm):
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(2, 16, generator=generator) / 4
    x = saturated_images(8, (1, 4, 4), 9)
    bias = -(x.flatten(1) @ weight.t()).amax(0) - 0.1
    model, x, y = TwoPieces(weight, bias).eval().double(), x.double(), torch.zeros(8, dtype=torch.int64)
    x_adv = run(FAB(ThreatModel(norm, 0.1), 60, restarts=5), model, x, y)
    exact = torch.tensor([exact_margin(norm, model, image, 0) for image in x])
    assert (distance(norm, x, x_adv) <= 1.05 * exact).all()


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_more_targets_and_steps_never_end_farther_away(norm):
    model = small_cnn().double()
    x = saturated_images(16, (3, 12, 12), 3).double()
    y = model(x).argmax(1)
    lengths = []
    for steps, targets in ((5, 1), (5, 9), (20, 9)):
        x_adv = run(FAB(ThreatModel(norm, 0.1), steps, targets), model, x, y)
        found = model(x_adv).argmax(1) != y
        lengths.append(torch.where(found, distance(norm, x, x_adv), torch.inf))
    assert (lengths[1] <= lengths[0] * 1.15).all() and (lengths[1] < lengths[0]).any()  # 1.15: the bisection differs
    assert lengths[2].median() < lengths[1].median()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="Linf, L2 and L1"):
        FAB(ThreatModel("L0", 3))
    with pytest.raises(ValueError, match="targets"):
        FAB(ThreatModel("L2", 3), targets=0)
