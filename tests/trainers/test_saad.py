"""SAAD: the loss and its gradient by hand, weights by the teacher's entropy, and an attack on the teacher's tangent."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from methods import INNER, Y, cohort, kl, logits
from oracles import small_cnn
from test_distillation import Line, slope_of_kl
from torch import Tensor

from trainers.contract import Cohort, Inner
from trainers.saad import SAAD, moving_kl, true_logit


def given() -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Logits of the student, which want a gradient, and of the teacher, on x + d, x - d and x; weights w of scale 1."""
    student, teacher = [logits(seed).requires_grad_(True) for seed in range(3)], [logits(seed) for seed in range(3, 6)]
    p = teacher[0].softmax(1)
    entropy = -(p * p.log()).sum(1)
    return student, teacher, entropy - entropy.min()


@pytest.mark.parametrize("progress", [0.25, 1.0])
def test_the_loss_is_its_formula_weighed_by_how_unsure_the_teacher_is_of_each_image(progress: float):
    student, teacher, unsure = given()
    slopes = kl(teacher[0] - teacher[1], student[0] - student[1])
    hard = 5 * unsure * (kl(teacher[0], student[0]) + 2 * progress * slopes)
    assert torch.allclose(SAAD(INNER, alpha=2.0).loss(student[:2], teacher[:2], progress), hard.mean())
    easy = 3 * (1 - unsure / unsure.max()) * kl(teacher[2], student[2])
    assert torch.allclose(SAAD(INNER, alpha=2.0, beta=3.0).loss(student, teacher, progress), (hard + easy).mean())
    assert (unsure == 0).sum() == 1 and unsure.max() > 0.3


def test_the_gradient_is_by_hand():
    student, teacher, unsure = given()
    loss = SAAD(INNER, alpha=2.0, beta=3.0, scale=4.0).loss(student, teacher, 0.5)
    plus, minus, clean = torch.autograd.grad(loss, student)
    w, v = 4 * unsure[:, None], (unsure / unsure.max())[:, None]
    steep = w * 2 * 0.5 * slope_of_kl(student[0] - student[1], teacher[0] - teacher[1])
    assert torch.allclose(plus, w * slope_of_kl(student[0], teacher[0]) + steep) and torch.allclose(minus, -steep)
    assert torch.allclose(clean, 3 * (1 - v) * slope_of_kl(student[2], teacher[2]))


def test_a_teacher_that_is_as_sure_of_all_teaches_on_clean_images_alone():
    student, teacher, _ = given()
    same = [teacher[0][:1].expand(5, 4), *teacher[1:]]
    loss = SAAD(INNER, beta=3.0).loss(student, same, 1.0)
    assert torch.allclose(loss, 3 * kl(teacher[2], student[2]).mean())


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.5])
def test_the_attack_compares_with_the_teachers_tangent_in_the_true_class(slope: float):
    generator = torch.Generator().manual_seed(0)
    x, x_adv, steep = (torch.rand(5, 1, 2, 3, generator=generator).double() for _ in range(3))
    taught, own = logits(0), logits(1)
    goal = SAAD(INNER, slope=slope).goal(taught, steep, x, Y)
    assert torch.allclose(moving_kl(own, x.flatten(1), goal), kl(taught, own))
    moved = taught.clone()
    for i in range(5):
        moved[i, Y[i]] += slope * (steep[i] * (x_adv[i] - x[i])).sum()
    assert torch.allclose(moving_kl(own, x_adv.flatten(1), goal), kl(moved, own))


def test_the_teacher_is_asked_once_in_the_attack_and_climbed_through_where_it_is_linear():
    """The networks of AdaAD's test: with a constant teacher x falls, with its tangent it rises."""
    inner = Inner(eps=0.1, steps=1, step=0.1, start="none")
    found = {}
    for slope in (0.0, 1.0):
        group = Cohort([Line(1.0, -0.5)], teachers=[Line(4.0, -1.0)])
        group.noise = dataclasses.replace(group.noise, ids=torch.arange(1))
        x, y, method = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.int64), SAAD(inner, slope=slope)
        taught, steep = group.taught_slope(x, y, true_logit)
        assert (taught.tolist(), steep.flatten().tolist()) == ([[1.0, 0.0]], [4.0])
        assert (group.forward_passes, group.backward_passes) == (1, 1)
        found[slope] = group.attack_seeing(0, x, method.goal(taught, steep, x, y), inner, moving_kl).item()
        assert (group.forward_passes, group.backward_passes) == (2, 2), "one more, of the student"
        assert all(p.grad is None for network in (*group.networks, *group.teachers) for p in network.parameters())
    assert found == pytest.approx({0.0: 0.4, 1.0: 0.6})


def test_a_batch_is_the_loss_on_both_sides_of_the_image_and_the_label_is_in_the_attack_alone():
    for beta, passes in ((0.0, (INNER.steps + 5, INNER.steps + 3)), (1.0, (INNER.steps + 6, INNER.steps + 4))):
        method = SAAD(INNER, beta=beta)
        group, x, y = cohort(1)
        group.progress = 0.5
        (loss,) = method.batch_loss(group, x, y)
        assert (group.forward_passes, group.backward_passes) == (6 * passes[0], 6 * passes[1])
        plus = next(one for one in group._made if isinstance(one, Tensor))
        own, teacher = group.networks[0], group.teachers[0]
        images = (plus, 2 * x - plus, x)
        expected = method.loss([own(one) for one in images], [teacher(one).detach() for one in images], 0.5)
        assert torch.allclose(loss, expected, rtol=1e-4) and (plus - x).abs().max() > 0.01
    group.begin()
    still = dataclasses.replace(method, slope=0.0)
    first = still.batch_loss(group, x, y)[0]
    group.begin()
    assert torch.equal(first, still.batch_loss(group, x, y.flip(0))[0])
    group.begin()
    assert not torch.equal(method.batch_loss(group, x, y.flip(0))[0], loss)


def test_the_slope_is_autograds():
    group, x, y = cohort(1)
    variable = x.clone().requires_grad_(True)
    teacher = small_cnn(1, 4, 99)
    (expected,) = torch.autograd.grad(teacher(variable)[torch.arange(6), y].sum(), variable)
    taught, steep = group.taught_slope(x, y, true_logit)
    assert torch.allclose(steep, expected) and torch.allclose(taught, teacher(x)) and not taught.requires_grad


@pytest.mark.parametrize("name", ["alpha", "beta", "scale", "slope"])
def test_settings_out_of_range_are_refused(name: str):
    with pytest.raises(ValueError, match=f"{name} = -1"):
        SAAD(INNER, **{name: -1.0})
