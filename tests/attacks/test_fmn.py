"""FMN: exact distances of linear models, the algorithm step by step, images that cannot be fooled."""

from __future__ import annotations

import math

import pytest
import torch
from attacking import exact, run
from oracles import Linear, linear_problem, saturated_images, small_cnn

from attacks.contract import ThreatModel
from attacks.fmn import FMN
from attacks.norms import distance


def slow(model, x, y, steps):
    """Algorithm 1 for one image in plain loops -> its closest fooling image, x if there is none."""
    delta, best, least, eps = torch.zeros_like(x), x, math.inf, 0.0
    for step in range(steps + 1):
        variable = (x + delta).requires_grad_(True)
        logits = model(variable[None])[0]
        loss = logits[y] - max(logits[k] for k in range(len(logits)) if k != y)
        (grad,) = torch.autograd.grad(loss, variable)
        size = float(delta.flatten().norm(math.inf))
        falling = (1 + math.cos(math.pi * step / steps)) / 2
        alpha, gamma = 0.01 + 0.99 * falling, 0.001 + 0.049 * falling
        if float(loss.detach()) < 0:
            if size < least:
                best, least = x + delta, size
            eps = min(eps * (1 - gamma), least)
        elif least == math.inf:
            eps = size + float(loss.detach()) / float(grad.flatten().norm(1))
        else:
            eps = eps * (1 + gamma)
        delta = delta - alpha * grad / grad.norm()
        delta = (x + delta.clamp(-eps, eps)).clamp(0, 1) - x
    return best


def test_it_is_the_algorithm():
    model = small_cnn().double()
    x = saturated_images(6, (3, 12, 12), 3).double()
    y = model(x).argmax(1)
    found = run(FMN(ThreatModel("Linf", 0.1), 40), model, x, y)
    plain = torch.stack([slow(model, image, int(label), 40) for image, label in zip(x, y, strict=True)])
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-9)
    assert (model(found).argmax(1) != y).any()


def test_margins_of_linear_models_are_met_within_one_percent():
    model, x, y = linear_problem(4, (3, 6, 6), 0)
    x_adv = run(FMN(ThreatModel("Linf", 0.1), 300), model, x, y)
    least, found = exact("Linf", model, x, y), distance("Linf", x, x_adv)
    reachable = least < torch.inf
    assert reachable.sum() >= 8 and (model(x_adv[reachable]).argmax(1) != y[reachable]).all()
    assert (found[reachable] >= least[reachable] * (1 - 1e-5)).all()
    assert (found[reachable] <= least[reachable] * 1.01).all()


def test_an_image_that_nothing_fools_stays():
    constant = Linear(torch.zeros(2, 36), torch.tensor([1.0, 0.0])).eval()
    images = torch.rand(3, 1, 6, 6)
    assert torch.equal(run(FMN(ThreatModel("Linf", 1), 5), constant, images, torch.zeros(3, dtype=torch.int64)), images)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="Linf, not in L1"):
        FMN(ThreatModel("L1", 3))
    with pytest.raises(ValueError, match="steps >= 1"):
        FMN(ThreatModel("Linf", 0.1), steps=0)
