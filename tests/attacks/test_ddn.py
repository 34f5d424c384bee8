"""DDN: the algorithm, step by step; exact distances, saturated pixels included; levels; flat and confident models."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from attacking import run
from oracles import linear_problem, saturated_images, small_cnn

from attacks.contract import ThreatModel
from attacks.ddn import DDN
from attacks.noise import Noise
from attacks.norms import distance
from attacks.target import Target


def ddn(**settings):
    return DDN(ThreatModel("L2", 0.5), **settings)


def problem(count=30, dtype=torch.float64):
    model = small_cnn().to(dtype)
    x = saturated_images(count, (3, 12, 12), 3).to(dtype)
    return model, x, model(x).argmax(1)


def slow(model, x, y, steps, gamma=0.05, radius=1.0, levels=0):
    """Algorithm 1 for one image in plain loops -> its closest fooling image, x if there is none."""
    x_adv, best, shortest = x.clone(), x, math.inf
    farthest = torch.maximum(x, 1 - x).norm()
    for step in range(steps + 1):
        variable = x_adv.clone().requires_grad_(True)
        logits = model(variable[None])
        (grad,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([y])), variable)
        fooled = int(logits.argmax()) != y
        if fooled and (x_adv - x).norm() < shortest:
            best, shortest = x_adv, (x_adv - x).norm()
        length = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
        radius = min(radius * (1 - gamma if fooled else 1 + gamma), farthest)
        delta = x_adv - x + length * grad / grad.norm()
        x_adv = x + radius * delta / delta.norm()
        if levels:
            x_adv = (x_adv * (levels - 1)).round() / (levels - 1)
        x_adv = x_adv.clamp(0, 1)
    return best


@pytest.mark.parametrize(
    "steps, settings",
    [(1, {}), (3, {}), (20, {}), (10, {"gamma": 0.2, "radius": 0.1}), (20, {"levels": 256}), (5, {"radius": 100.0})],
)
def test_every_step_is_the_algorithm(steps, settings):
    model, x, y = problem(10)
    found = run(ddn(steps=steps, refine=0, **settings), model, x, y, batch_size=4)
    expected = torch.stack([slow(model, x[i], int(y[i]), steps, **settings) for i in range(len(x))])
    assert (found != x).flatten(1).any(1).sum() >= 5, "most must be fooled"
    assert (found - expected).abs().max() < 1e-9


def test_refinement_pays_for_its_few_passes():
    model, x, y = problem()
    lengths, passes = [], []
    for refine in (0, 5):
        target = Target(model).counting(len(x))
        x_adv = ddn(refine=refine)(target, x, y, Noise(0, torch.arange(len(x))))
        assert (model(x_adv).argmax(1) != y).all()
        lengths.append(distance("L2", x, x_adv))
        passes.append(target.passes_per_image)
    assert (lengths[1] <= lengths[0]).all() and lengths[1].median() < 0.9 * lengths[0].median()
    assert (passes[0] == torch.tensor([[102], [100]])).all()
    assert (passes[1][1] <= 100 + 9 + 5).all() and (passes[1][0] <= 102 + 2 + 5 + 1).all()


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_levels_are_kept_by_fooling_images(levels):
    model, x, y = problem()
    x_adv = run(ddn(levels=levels), model, x, y)
    moved = (x_adv != x).flatten(1).any(1)
    steps = x_adv[moved] * (levels - 1)
    assert moved.any() and (steps - steps.round()).abs().max() < 1e-9
    assert (model(x_adv).argmax(1) != y)[moved].all()


class Scaled(torch.nn.Module):
    """Logits of a model times a factor."""

    def __init__(self, model, factor):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x):
        return self.model(x) * self.factor


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])
def test_a_confident_model_is_no_defence(factor):
    """In float32 the cross-entropy has no gradient left where the label has probability 1."""
    model, x, y = linear_problem(2, (3, 8, 8), 0)
    plain, scaled = (run(ddn(refine=0), m.eval(), x, y) for m in (model, Scaled(model, factor)))
    assert (model(scaled).argmax(1) != y).all()
    assert torch.allclose(distance("L2", x, plain), distance("L2", x, scaled), rtol=0.01)


class Bowl(torch.nn.Module):
    """Label 0 within 0.6 of grey, and no gradient at grey."""

    def forward(self, x):
        far = (x - 0.5).square().flatten(1).sum(1)
        return torch.stack([torch.full_like(far, 0.36), far], 1)


def test_where_the_gradient_is_zero_the_noise_of_the_image_decides():
    model, x, y = Bowl().eval(), torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.int64)
    x_adv, other = (run(ddn(), model, x, y, seed=seed) for seed in (0, 1))
    assert torch.allclose(distance("L2", x, x_adv), torch.tensor(0.6).double(), rtol=0.01)
    assert not torch.allclose(x_adv[0], x_adv[1], atol=0.01) and not torch.allclose(x_adv, other, atol=0.01)


def test_wrong_images_cost_one_look():
    model, x, y = problem(6)
    y = torch.where(torch.arange(6) < 3, (y + 1) % 10, y)
    target = Target(model).counting(6)
    x_adv = ddn(steps=20)(target, x, y, Noise(0, torch.arange(6)))
    assert torch.equal(x_adv[:3], x[:3]) and (x_adv[3:] != x[3:]).flatten(1).any(1).all()
    assert target.passes_per_image[:, :3].tolist() == [[1] * 3, [0] * 3]


def test_float32_answers_fool_in_every_batch_size():
    model, x, y = problem(60, torch.float32)
    x_adv = run(ddn(), model, x, y)
    for size in (1, 7, 60):
        logits = torch.cat([model(part) for part in x_adv.split(size)])
        assert (logits.argmax(1) != y).all()


@pytest.mark.parametrize(
    "threat, settings, message",
    [
        (ThreatModel("Linf", 0.1), {}, "works in L2"),
        (ThreatModel("L2", 0.5), {"steps": 0}, "steps = 0"),
        (ThreatModel("L2", 0.5), {"gamma": 1.0}, "gamma = 1"),
        (ThreatModel("L2", 0.5), {"radius": 0.0}, "radius = 0"),
        (ThreatModel("L2", 0.5), {"refine": -1}, "refine = -1"),
        (ThreatModel("L2", 0.5), {"levels": 1}, "levels"),
    ],
)
def test_bad_settings_are_refused(threat, settings, message):
    with pytest.raises(ValueError, match=message):
        DDN(threat, **settings)


@pytest.mark.peers
def test_never_weaker_than_foolbox():
    model, x, y = problem(60, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from foolbox import PyTorchModel
        from foolbox.attacks import DDNAttack

        theirs, _, _ = DDNAttack(steps=100)(PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=None)
    peer = distance("L2", x, theirs)
    plain, refined = (distance("L2", x, run(ddn(refine=r), model, x, y)) for r in (0, 5))
    assert plain.median() <= 1.001 * peer.median()
    assert refined.median() <= 0.9 * peer.median() and (refined <= 1.01 * peer).all()
