"""PGD, FGSM and MIM: the formula, step by step; exact margins; independence of batches and order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from attacking import run
from oracles import TwoPieces, exact_margin, linear_problem, saturated_images, small_cnn
from slowly import slow

from attacks.contract import ThreatModel
from attacks.noise import Noise
from attacks.norms import distance
from attacks.pgd import FGSM, MIM, PGD
from attacks.target import Target


def problem(count=40):
    model = small_cnn().double()
    x = saturated_images(count, (3, 12, 12), 3).double()
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("decay", [0.0, 0.9])
@pytest.mark.parametrize("norm, eps, step", [("Linf", 0.015, 0.004), ("L2", 0.2, 0.05)])
def test_every_step_is_the_formula(norm, eps, step, decay):
    """After 1, 2, ... 6 steps the iterate equals x <- P(x + step * direction), written out in float64.

    Images stay away from 0 and 1 here: the box has tests of its own.
    """
    model = small_cnn().double()
    x = (0.3 + 0.4 * torch.rand(10, 3, 12, 12, generator=torch.Generator().manual_seed(0))).double()
    y = model(x).argmax(1)
    expected, momentum = x.clone(), torch.zeros_like(x)
    for steps in range(1, 7):
        variable = expected.clone().requires_grad_(True)
        (grad,) = torch.autograd.grad(F.cross_entropy(model(variable), y, reduction="sum"), variable)
        momentum = decay * momentum + grad / grad.abs().mean((1, 2, 3), keepdim=True)
        grad = momentum if decay else grad
        if norm == "Linf":
            delta = (expected + step * grad.sign() - x).clamp(-eps, eps)
        else:
            delta = expected + step * grad / grad.square().sum((1, 2, 3), keepdim=True).sqrt() - x
            delta = delta * (eps / delta.square().sum((1, 2, 3), keepdim=True).sqrt()).clamp(max=1)
        expected = x + delta
        attack = PGD(ThreatModel(norm, eps), steps, step, start="none", stop="last", decay=decay)
        assert (run(attack, model, x, y) - expected).abs().max() < 1e-12
    assert distance(norm, x, expected).max() > 0.99 * eps, "the projection must have been at work"


@pytest.mark.parametrize("norm, eps, step", [("Linf", 0.05, 0.01), ("L2", 0.6, 0.1), ("L1", 6.0, 0.5)])
def test_results_do_not_depend_on_batch_size_or_order(norm, eps, step):
    model, x, y = problem()
    attack = PGD(ThreatModel(norm, eps), 12, step, restarts=2)
    ids = torch.arange(len(x))
    first = attack(Target(model, 1000), x, y, Noise(7, ids))
    fooled = model(first).argmax(1) != y
    assert 0 < fooled.sum() < len(x), "the sample must hold both kinds"
    for size in (1, 7, 64):
        other = attack(Target(model, size), x, y, Noise(7, ids))
        assert torch.allclose(first, other, atol=1e-9)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    shuffled = attack(Target(model, 7), x[order], y[order], Noise(7, ids[order]))
    assert torch.allclose(first[order], shuffled, atol=1e-9)


def attacks_at(norm, eps):
    threat = ThreatModel(norm, eps)
    pixels = {"l1_pixels": (1, 1)}
    yield PGD(threat, 300, eps / 40, start="none", **pixels)
    yield PGD(threat, 300, eps / 40, start="uniform", restarts=2, loss="margin", **pixels)
    yield FGSM(threat)
    if norm != "L1":  # MIM takes PGD's default spread over 5 to 20 pixels, which is not the steepest in L1
        yield MIM(threat, 300, eps / 40)


@pytest.mark.parametrize("norm", ["Linf", *slow(["L2", "L1"])])
def test_two_class_margin_is_met_within_one_percent(norm):
    model, x, y = linear_problem(2, (1, 5, 5), 0)
    reachable = 0
    for image, label in zip(x.split(1), y.split(1), strict=True):
        margin = exact_margin(norm, model, image[0], int(label))
        if margin == float("inf"):
            continue
        reachable += 1
        for attack in attacks_at(norm, 1.01 * margin):
            assert model(run(attack, model, image, label)).argmax(1) != label, attack
        for attack in attacks_at(norm, 0.99 * margin):
            assert model(run(attack, model, image, label)).argmax(1) == label, attack
    assert reachable >= 8


@pytest.mark.parametrize("norm", slow(["Linf", "L2", "L1"]))
def test_many_class_margin_is_met_by_trying_every_target(norm):
    model, x, y = linear_problem(6, (3, 4, 4), 5)
    for image, label in zip(x.split(1), y.split(1), strict=True):
        margin = exact_margin(norm, model, image[0], int(label))
        for share, fooled in ((1.01, True), (0.99, False)):
            eps = share * margin
            attack = PGD(ThreatModel(norm, eps), 300, eps / 40, start="none", targets=5, l1_pixels=(1, 1))
            assert (model(run(attack, model, image, label)).argmax(1) != label).item() == fooled


@pytest.mark.parametrize("norm", slow(["Linf", "L2", "L1"]))
def test_piecewise_linear_margin_is_met_with_restarts(norm):
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(2, 16, generator=generator) / 4
    x = saturated_images(8, (1, 4, 4), 9)
    bias = -(x.flatten(1) @ weight.t()).amax(0) - 0.1
    model = TwoPieces(weight, bias).eval()
    y = torch.zeros(1, dtype=torch.int64)
    for image in x.split(1):
        margin = exact_margin(norm, model, image[0], 0)
        for share, fooled in ((1.01, True), (0.99, False)):
            eps = share * margin
            attack = PGD(ThreatModel(norm, eps), 200, eps / 40, restarts=10, l1_pixels=(1, 1))
            assert (model(run(attack, model, image, y)).argmax(1) != y).item() == fooled


def test_stop_last_returns_the_last_iterate_and_stop_first_never_loses_a_success():
    model, x, y = problem()
    settings = {"steps": 15, "step": 0.01, "start": "none"}
    last = run(PGD(ThreatModel("Linf", 0.05), stop="last", **settings), model, x, y)
    first = run(PGD(ThreatModel("Linf", 0.05), stop="first", **settings), model, x, y)
    fooled_last, fooled_first = model(last).argmax(1) != y, model(first).argmax(1) != y
    assert (fooled_first >= fooled_last).all()
    moved = (x - first).abs().amax((1, 2, 3))
    assert (moved[fooled_first] < 0.05 - 1e-9).any(), "an early success stops before the edge of the ball"
    standing = ~fooled_first
    assert torch.equal(first[standing], last[standing])


def test_restarts_run_on_survivors_only():
    model, x, y = problem()
    target = Target(model).counting(len(x))
    attack = PGD(ThreatModel("Linf", 0.04), 5, 0.01, restarts=3)
    x_adv = attack(target, x, y, Noise(0, torch.arange(len(x))))
    robust = model(x_adv).argmax(1) == y
    backward = target.passes_per_image[1]
    assert 0 < robust.sum() < len(x)
    assert (backward[robust] == 15).all()
    assert (backward[~robust] < 15).any()
    assert int(target.passes_per_image[0].sum()) == target.forward_passes


def test_gaussian_start_is_small_and_inside_the_ball():
    model, x, y = problem()
    attack = PGD(ThreatModel("Linf", 0.03), 1, 0.0, start="gaussian", stop="last")
    moved = (run(attack, model, x, y) - x).abs()
    assert 0 < moved.mean() < 0.001 and moved.max() < 0.01


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"threat": ThreatModel("L0", 3)}, "Linf, L2 and L1"),
        ({"threat": ThreatModel("L2", 3), "steps": 0}, "steps >= 1"),
        ({"threat": ThreatModel("L1", 3), "l1_pixels": (5, 2)}, "l1_pixels"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PGD(**settings)


def test_bare_eight_is_refused_with_a_hint():
    with pytest.raises(ValueError, match="8/255"):
        ThreatModel("Linf", 8)
