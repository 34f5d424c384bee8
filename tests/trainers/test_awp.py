"""Adversarial weight perturbation: its step in closed form, exact return, and the same adversarial images."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from methods import INNER, method
from oracles import Linear
from tiny import SCHEDULE, networks, stripes, train, weights
from torch import Tensor, nn

from trainers import TRAINERS, awp
from trainers.at import AT
from trainers.contract import Cohort, teachers_of
from trainers.loop import fit
from trainers.schedule import Schedule
from trainers.validation import Split

GAMMA = 0.3


def linear() -> Linear:
    generator = torch.Generator().manual_seed(3)
    return Linear(torch.randn(3, 4, generator=generator), torch.randn(3, generator=generator))


def gradient(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of the mean cross-entropy of W x + b: (p - onehot) x^T / B."""
    slope = ((x.flatten(1) @ weight.t() + bias).softmax(1) - F.one_hot(y, 3)) / len(x)
    return slope.t() @ x.flatten(1), slope.sum(0)


def test_one_optimiser_step_is_the_formula():
    """w <- w - lr (g(w + v) + weight decay w), v = gamma |W| / |g_W| g_W; no perturbation of the bias."""
    generator = torch.Generator().manual_seed(1)
    data = Split(torch.rand(8, 1, 2, 2, generator=generator), torch.arange(8) % 3, torch.arange(8))
    model, inner = linear(), dataclasses.replace(INNER, eps=0.0)  # x_adv = x: the gradient can be written down
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    schedule = Schedule(epochs=1, batch_size=8, lr=0.5, weight_decay=0.01, augment=False, awp=GAMMA)
    fit(AT(inner), [model], data, data, schedule, 0)
    by_weight, _ = gradient(weight, bias, data.x, data.y)
    raised = weight + GAMMA * weight.norm() / by_weight.norm() * by_weight
    assert float((raised - weight).norm()) == pytest.approx(float(GAMMA * weight.norm()), rel=1e-5)
    by_weight, by_bias = gradient(raised, bias, data.x, data.y)
    assert torch.allclose(model.weight, weight - 0.5 * (by_weight + 0.01 * weight), atol=1e-6)
    assert torch.allclose(model.bias, bias - 0.5 * (by_bias + 0.01 * bias), atol=1e-6)


def test_weights_return_exactly_and_nothing_moves_without_a_gradient():
    model = linear()
    before = model.weight.detach().clone()
    model.weight.grad, model.bias.grad = torch.rand(3, 4), torch.rand(3)
    with awp.perturbed([model], GAMMA):
        assert float((model.weight.detach() - before).norm()) == pytest.approx(float(GAMMA * before.norm()), rel=1e-5)
    assert torch.equal(model.weight, before)
    model.weight.grad = torch.zeros(3, 4)
    with awp.perturbed([model], GAMMA):
        assert torch.equal(model.weight, before)


class Watch(nn.Module):
    """What a network saw with a graph to its weights, in training mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.norm, self.seen = inner, nn.BatchNorm2d(1, affine=False), []

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.seen.append((x.detach().clone(), weights(self.inner)))
        return self.inner(self.norm(x))


@pytest.mark.parametrize("name", sorted(TRAINERS))
def test_the_second_pass_sees_the_same_images_at_other_weights_and_alone_counts_in_batch_norm(name):
    trainer = method(name)
    group = [Watch(network) for network in networks(trainer.members)]
    schedule = dataclasses.replace(SCHEDULE, epochs=1, batch_size=48, awp=0.05)
    teachers = networks(9)[8 : 8 + teachers_of(trainer)]
    fit(trainer, group, stripes(), stripes(), schedule, 0, teachers=teachers)
    rounds = getattr(trainer, "rounds", 1)
    for network in group:
        half = len(network.seen) // rounds // 2
        assert half >= 1
        for first in range(0, 2 * half * rounds, 2 * half):
            for one, two in zip(network.seen[first : first + half], network.seen[first + half :][:half], strict=True):
                assert torch.equal(one[0], two[0]) and not torch.equal(one[1], two[1])
    plain = [Watch(network) for network in networks(trainer.members)]
    fit(trainer, plain, stripes(), stripes(), dataclasses.replace(schedule, awp=0.0), 0, teachers=teachers)
    for with_awp, without in zip(group, plain, strict=True):
        assert with_awp.norm.num_batches_tracked == without.norm.num_batches_tracked


def test_choices_among_images_are_made_once():
    """AT-MAX: the worst type of an image is that of the weights that were attacked."""
    cohort = Cohort(networks(1))
    assert [cohort.once(lambda value=value: value) for value in (1, 2)] == [1, 2]
    cohort.again()
    assert [cohort.once(lambda: pytest.fail("made twice")) for _ in range(2)] == [1, 2]
    cohort.begin()
    assert cohort.once(lambda: 3) == 3


def test_passes_at_the_perturbed_weights_are_counted_and_attacks_are_not_repeated():
    _, result = train(schedule=dataclasses.replace(SCHEDULE, epochs=2, awp=0.01, awp_after=1))
    assert [report.backward_passes for report in result.history] == [48 * (2 + 1), 48 * (2 + 2)]
