"""Sigma-zero: the fewest values that a linear model needs, no change to spare, images that cannot be fooled."""

from __future__ import annotations

import pytest
import torch
from attacking import run
from oracles import Linear, small_cnn

from attacks.contract import ThreatModel
from attacks.sigma_zero import SigmaZero

COUNT = 24


def sigma_zero(**settings):
    return SigmaZero(ThreatModel("L0", 5), **settings)


def linear_problem():
    """Two classes on 1x6x6 images, and images some of whose values are at the edge of the range already."""
    generator = torch.Generator().manual_seed(0)
    weight = (0.5 + torch.rand(36, generator=generator)) * torch.randn(36, generator=generator).sign()
    x = torch.rand(COUNT, 1, 6, 6, generator=generator)
    x[:, :, 0] = x[:, :, 0].round()
    model = Linear(torch.stack([torch.zeros(36), weight]), torch.tensor([0.0, -float(weight.sum()) / 2 - 3])).eval()
    return model, x, model(x).argmax(1)


def fewest(model, x, y) -> torch.Tensor:
    """By arithmetic: values in the order of what each can do at most, until the margin is gone."""
    weight = model.weight[1] - model.weight[0]
    flat, sign = x.flatten(1), torch.where(y == 0, 1.0, -1.0)[:, None]
    gains = torch.maximum(sign * weight * (1 - flat), -sign * weight * flat).sort(dim=1, descending=True).values
    logits = model(x)
    left = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])).abs()
    return (gains.cumsum(1) <= left).sum(1) + 1


def changed(x, x_adv) -> torch.Tensor:
    return (x != x_adv).flatten(1).sum(1)


def test_a_linear_model_falls_to_the_fewest_values_there_are():
    model, x, y = linear_problem()
    x_adv = run(sigma_zero(steps=300), model, x, y)
    least, found = fewest(model, x, y), changed(x, x_adv)
    assert (model(x_adv).argmax(1) != y).all() and (found >= least).all(), "fewer there are not"
    assert least.max() >= 4 and (found == least).float().mean() >= 0.8 and (found - least).max() <= 1
    assert x_adv.min() >= 0 and x_adv.max() <= 1


def test_no_change_that_is_left_can_be_taken_back():
    """Restoring tries each of them once, so that none is idle where the model is linear."""
    model, x, y = linear_problem()
    bare, x_adv = (run(sigma_zero(steps=20, restore=restore), model, x, y) for restore in (0, 50))
    assert (changed(x, x_adv) <= changed(x, bare)).all() and changed(x, x_adv).sum() < changed(x, bare).sum()
    for image in range(COUNT):
        for place in (x[image] != x_adv[image]).nonzero():
            without = x_adv[image].clone()
            without[tuple(place)] = x[image][tuple(place)]
            assert model(without[None]).argmax() == y[image]


def test_more_steps_find_fewer_and_an_image_that_nothing_fools_stays():
    model = small_cnn()
    x = torch.rand(12, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    y = model(x).argmax(1)
    few, many = (changed(x, run(sigma_zero(steps=steps, restore=0), model, x, y)) for steps in (10, 150))
    assert many.sum() < few.sum() and (many > 0).all()
    constant = Linear(torch.zeros(2, 36), torch.tensor([1.0, 0.0])).eval()
    images = torch.rand(3, 1, 6, 6)
    assert torch.equal(run(sigma_zero(steps=5), constant, images, torch.zeros(3, dtype=torch.int64)), images)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"sigma": 0.0}, {"threshold": 1.5}, {"restore": -1}, {"lr": 0.0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="sigma-zero needs"):
        sigma_zero(**settings)


def test_other_norms_are_refused():
    with pytest.raises(ValueError, match="works in L0, not in L2"):
        SigmaZero(ThreatModel("L2", 1))
