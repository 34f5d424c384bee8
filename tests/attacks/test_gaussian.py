"""Gaussian noise: on the sphere after clipping; as often successful as geometry says; who leaves when."""

from __future__ import annotations

import pytest
import torch
from attacking import run
from oracles import Linear, saturated_images, small_cnn
from scipy.special import betainc
from scipy.stats import binomtest

from attacks.contract import ThreatModel
from attacks.gaussian import GaussianNoise
from attacks.losses import margin
from attacks.noise import Noise
from attacks.norms import distance
from attacks.target import Target


def gaussian(eps, **settings):
    return GaussianNoise(ThreatModel("L2", eps), **settings)


def counted(attack, model, x, y):
    """-> (x_adv, forward passes of each image)."""
    target = Target(model).counting(len(x))
    return attack(target, x, y, Noise(0, torch.arange(len(x)))), target.passes_per_image[0]


def half_space(size, need):
    """Class 1 where the first value is above 1/2 + need."""
    weight = torch.zeros(2, size)
    weight[1, 0] = 1
    return Linear(weight, torch.tensor([0.5 + need, 0.0])).eval()


def never():
    """Class 0 whatever the image; the margin is the sum of the image, minus 1000."""
    return Linear(torch.stack([torch.zeros(27), torch.ones(27)]), torch.tensor([1000.0, 0])).eval()


@pytest.mark.parametrize("eps", [0.01, 0.5, 2.0, 3.0])
def test_noise_ends_on_the_sphere_however_many_values_are_clipped(eps):
    x = saturated_images(40, (3, 3, 3), 1).double()
    y = torch.zeros(40, dtype=torch.int64)
    x_adv = run(gaussian(eps, repeats=1), never().double(), x, y)
    draw = Noise(0, torch.arange(40)).fork("draw", 0).normal(3, 3, 3).double()
    farthest = torch.where(draw > 0, 1 - x, x).flatten(1).norm(dim=1)
    assert (distance("L2", x, x_adv) - farthest.clamp_max(eps)).abs().max() < 1e-9
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert eps < 3 or ((farthest < eps).any() and (farthest > eps).any()), "both cases must occur"


def test_every_value_moves_along_the_draw_until_it_is_stuck():
    x = saturated_images(40, (3, 3, 3), 1).double()
    x_adv = run(gaussian(1.0, repeats=1), never().double(), x, torch.zeros(40, dtype=torch.int64))
    draw = Noise(0, torch.arange(40)).fork("draw", 0).normal(3, 3, 3).double()
    free = (x_adv > 0) & (x_adv < 1)
    for i in range(40):
        scale = ((x_adv - x) / draw)[i][free[i]]
        assert (scale - scale.median()).abs().max() < 1e-9 < scale.median()
        stuck = (x[i] + scale.median() * draw[i])[~free[i]]
        assert ((stuck <= 1e-9) | (stuck >= 1 - 1e-9)).all()
    assert (~free).any()


@pytest.mark.parametrize("size, eps, need, repeats", [(4, 0.4, 0.2, 1), (16, 0.4, 0.1, 1), (64, 0.4, 0.1, 5)])
def test_success_on_a_half_space_has_the_probability_of_the_spherical_cap(size, eps, need, repeats):
    """The angle of a random direction: P(cos > c) = I_{1 - c^2}((d - 1) / 2, 1/2) / 2. 4000 images."""
    x = torch.full((4000, 1, 2, size // 2), 0.5, dtype=torch.float64)
    y = torch.zeros(4000, dtype=torch.int64)
    model = half_space(size, need).double()
    x_adv = run(gaussian(eps, repeats=repeats), model, x, y)
    cosine = need / eps
    once = betainc((size - 1) / 2, 0.5, 1 - cosine**2) / 2
    expected = 1 - (1 - once) ** repeats
    fooled = int((model(x_adv).argmax(1) == 1).sum())
    interval = binomtest(fooled, 4000).proportion_ci(0.9999)
    assert interval.low < expected < interval.high
    assert 0.05 < expected < 0.95


def test_an_image_leaves_with_its_first_success():
    x = torch.full((60, 1, 2, 8), 0.5, dtype=torch.float64)
    y, model = torch.zeros(60, dtype=torch.int64), half_space(16, 0.1).double()
    x_adv, passes = counted(gaussian(0.4, repeats=20), model, x, y)
    for i in range(60):
        one = Noise(0, torch.tensor([i]))
        tried = [one.fork("draw", r).normal(1, 2, 8).double() for r in range(20)]
        cosines = torch.tensor([float(d.flatten()[0] / d.norm()) for d in tried])
        hits = (0.4 * cosines > 0.1).nonzero().flatten().tolist()
        taken = hits[0] if hits else int(cosines.argmax())
        assert passes[i] == 1 + (taken + 1 if hits else 20)
        assert (x_adv[i] - x[i] - 0.4 * tried[taken][0] / tried[taken].norm()).abs().max() < 1e-9
    assert passes.max() == 21 and passes.min() == 2


def test_images_that_no_draw_fools_come_back_as_the_draw_of_largest_margin():
    """On the sphere, as an attack with a radius does, and not as x."""
    x = saturated_images(20, (3, 3, 3), 1)
    y = torch.zeros(20, dtype=torch.int64)
    single, many = (run(gaussian(0.5, repeats=r), never(), x, y) for r in (1, 50))
    before, after = (margin(never()(images), y) for images in (single, many))
    assert (after >= before).all() and (after > before).float().mean() > 0.9
    assert torch.allclose(distance("L2", x, many), torch.full((20,), 0.5, dtype=torch.float64), atol=1e-6)


def test_wrong_images_cost_one_look():
    model = small_cnn()
    x = saturated_images(8, (3, 12, 12), 3)
    y = model(x).argmax(1)
    y = torch.where(torch.arange(8) < 3, (y + 1) % 10, y)
    x_adv, passes = counted(gaussian(0.1, repeats=4), model, x, y)
    assert torch.equal(x_adv[:3], x[:3]) and (passes[:3] == 1).all()
    assert (x_adv[3:] != x[3:]).flatten(1).any(1).all() and (passes[3:] >= 2).all()


def test_an_image_does_not_see_the_others():
    model = small_cnn().double()
    x = saturated_images(12, (3, 12, 12), 3).double()
    y = model(x).argmax(1)
    attack = gaussian(4.0, repeats=8)
    whole, passes = counted(attack, model, x, y)
    assert len(passes.unique()) > 1, "some must leave early"
    for size in (1, 5):
        assert torch.allclose(whole, run(attack, model, x, y, batch_size=size), atol=1e-9)
    order = torch.arange(11, -1, -1)
    assert torch.allclose(whole[order], attack(Target(model), x[order], y[order], Noise(0, order)), atol=1e-9)
    assert not torch.equal(whole, run(attack, model, x, y, seed=1))


@pytest.mark.parametrize(
    "threat, settings, message",
    [(ThreatModel("Linf", 0.1), {}, "not in Linf"), (ThreatModel("L2", 0.5), {"repeats": 0}, "repeats = 0")],
)
def test_bad_settings_are_refused(threat, settings, message):
    with pytest.raises(ValueError, match=message):
        GaussianNoise(threat, **settings)
