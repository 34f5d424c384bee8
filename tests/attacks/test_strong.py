"""The members of `strong`: losses, steps, starts and targets by hand, and that together they find what is there."""

from __future__ import annotations

import math

import pytest
import torch
from attacking import exact, run
from oracles import linear_problem, saturated_images, small_cnn
from torch import nn

from attacks import losses, survivors
from attacks.a3 import A3, START
from attacks.apgd import APGD
from attacks.contract import ThreatModel
from attacks.losses import likeliest_wrong, margin, minus_true, probability_margin, targeted_margin
from attacks.noise import Noise
from attacks.pgd import PGD, ascend
from attacks.pma import PMA
from attacks.strong import Strong
from attacks.survivors import goals, nearest_classes
from attacks.target import Target

LINF = ThreatModel("Linf", 0.1)


def test_the_probability_margin_by_hand():
    logits, y = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 0.0]]).log(), torch.tensor([1, 1])
    logits[1] = torch.tensor([5.0, 1.0, 4.0]).log()
    assert probability_margin(logits, y).tolist() == pytest.approx([(2 - 3) / 6, (5 - 1) / 10])
    assert likeliest_wrong(logits, y).tolist() == pytest.approx([2 / 6, 5 / 10])
    assert minus_true(logits, y).tolist() == pytest.approx([-3 / 6, -1 / 10])
    assert losses.probability_margin(torch.zeros(1, 2), torch.tensor([0])).tolist() == [0]


@pytest.mark.parametrize("loss", [probability_margin, minus_true, likeliest_wrong])
def test_its_gradient_does_not_vanish_on_a_confident_model(loss):
    """Logits that span 60: the largest that an attack is shown, see attacks/scale.py."""
    logits = torch.tensor([[60.0, 0.0, 10.0]], requires_grad=True)
    loss(logits, torch.tensor([0])).sum().backward()
    assert (logits.grad[0, 2] > 0).all() and logits.grad[0, 2] > logits.grad[0, 1]


def test_steps_fall_along_a_cosine():
    pgd = PGD(LINF, steps=10, step=0.2, step_schedule="cosine")
    lengths = [pgd.length(step) for step in range(10)]
    assert lengths == pytest.approx([0.1 * (1 + math.cos(math.pi * step / 10)) for step in range(10)])
    assert lengths[0] == 0.2 and lengths[-1] < 0.006


def test_several_losses_share_the_steps_and_a_start_is_where_it_begins():
    calls: list[str] = []

    def named(name):
        def loss(logits, y):
            calls.append(name)
            return margin(logits, y)

        return loss

    model, x, y = linear_problem(3, (1, 4, 4), 4)
    pgd, noise = PGD(LINF, steps=7, step=0.0, stop="last"), Noise(0, torch.arange(len(x)))
    start = (x + 0.2).clamp(0, 1)
    found, _ = ascend(pgd, Target(model), x, y, [named("a"), named("b"), named("c")], y, noise, start)
    assert calls == ["a"] * 3 + ["b"] * 2 + ["c"] * 2
    assert torch.allclose(found, torch.minimum(x + 0.1, start)), "projected into the ball, and left there by steps of 0"


def test_the_two_runs_of_pma_climb_other_terms_first(monkeypatch):
    seen: list[tuple[str, str]] = []

    def watched(pgd, target, x, y, loss, goal, noise):
        seen.append(tuple(one.__name__ for one in loss))
        return ascend(pgd, target, x, y, loss, goal, noise)

    monkeypatch.setattr("attacks.pma.ascend", watched)
    model, x, y = linear_problem(3, (1, 4, 4), 4)
    run(PMA(ThreatModel("Linf", 1e-4), steps=4, restarts=2), model, x, y)
    assert seen == [("minus_true", "probability_margin"), ("likeliest_wrong", "probability_margin")] * 2


def test_nearest_classes_are_those_of_a_linear_model():
    """Class k is (z_y - z_k) / ||w_k - w_y||_1 away, and one with the label's weights never comes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 5)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0, 0], [1, 0], [4, 4], [0, 0], [0, 2]]))
        model[1].bias.copy_(torch.tensor([10.0, 9, 4, 9.5, 9]))
    x, y = torch.zeros(3, 1, 1, 2), torch.zeros(3, dtype=torch.int64)
    assert nearest_classes(Target(model), x, y, model(x)).tolist() == [[4, 2, 1, 3]] * 3  # 1/2, 6/8, 1/1, never


def test_of_many_classes_the_likeliest_are_looked_at(monkeypatch):
    monkeypatch.setattr(survivors, "CANDIDATES", 2)
    model, x, y = linear_problem(6, (1, 4, 4), 5)
    target = Target(model)
    logits = target.logits(x)
    found = nearest_classes(target, x, y, logits)
    likeliest = logits.scatter(1, y[:, None], -torch.inf).topk(2).indices
    assert torch.equal(found.sort(1).values, likeliest.sort(1).values)
    assert target.backward_passes == 2 * len(x)


@pytest.mark.parametrize("classes, order", [(99, "logits"), (100, "nearest")])
def test_from_many_classes_on_the_order_is_the_gradients_own(classes, order):
    model, x, y = linear_problem(classes, (1, 8, 8), 5)
    auto, same, other = (
        torch.stack([pair for _, pair in goals(Target(model), x, y, "ce", targeted_margin, 4, one)])
        for one in ("auto", order, {"logits": "nearest", "nearest": "logits"}[order])
    )
    assert torch.equal(auto, same) and not torch.equal(auto, other)


def test_targets_in_another_order_are_other_attacks():
    model, x = small_cnn(), saturated_images(30, (3, 12, 12), 3)
    y = model(x).argmax(1)
    likely, near = (run(APGD(LINF, 6, targets=1, order=order), model, x, y) for order in ("logits", "nearest"))
    assert not torch.equal(likely, near)


def test_later_rounds_are_for_images_that_are_nearly_fooled():
    """A linear model of two classes: one round finds the least margin, and the share of it that is left says how many
    rounds there are.
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0]]))
    x, y = torch.tensor([0.4, 0.5, 0.8, 1.0])[:, None].expand(4, 4).reshape(4, 1, 2, 2).clone(), torch.zeros(4).long()
    target = Target(model).counting(4)
    A3(ThreatModel("Linf", 0.38), steps=20, rounds=10)(target, x, y, Noise(0, torch.arange(4)))
    left = [1 - 0.38 / value for value in (0.4, 0.5, 0.8, 1.0)]  # 0.05, 0.24, 0.525, 0.62
    rounds = [sum(1 - number / 10 >= share for number in range(10)) for share in left]
    assert rounds == [10, 8, 5, 4]
    assert target.passes_per_image[1].tolist() == [(START + 20) * n for n in rounds]


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_together_they_break_all_that_a_linear_model_has(norm):
    model, x, y = linear_problem(4, (1, 4, 4), 40)
    least = exact(norm, model, x, y)
    eps = float(least.median()) * 1.05
    fallen = model(run(Strong(ThreatModel(norm, eps)), model, x, y)).argmax(1) != y
    assert fallen[least < 0.98 * eps].all() and not fallen[least > eps].any()
    assert 3 < fallen.sum() < 9


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PMA(ThreatModel("L1", 1.0)), "PMA works in Linf and L2, not in L1"),
        (lambda: PMA(LINF, steps=1), "PMA needs steps >= 2"),
        (lambda: A3(ThreatModel("L1", 1.0)), "A3 works in Linf and L2, not in L1"),
        (lambda: A3(LINF, rounds=0), "A3 needs steps and rounds >= 1"),
        (lambda: Strong(ThreatModel("L0", 3)), "works in Linf, L2 and L1, not in L0"),
        (lambda: Strong(LINF, audit=-1), "audit is a number of images, 0 for none; got -1"),
    ],
)
def test_settings_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()
