"""Fog, gabor and elastic: renderings against slow ones written out by loops, gradients, and each attack's own bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import saturated_images, small_cnn

from attacks.contract import ThreatModel
from attacks.elastic import Elastic, smooth, warp
from attacks.fog import HIGHEST, WIBBLE, Fog, plasma, scaled
from attacks.gabor import Gabor, correlate, gabor_kernels, random_kernels, spectra, spread
from attacks.noise import Noise
from attacks.target import Target

OWN = ThreatModel("own", 100)


def x_of(shape, count=2, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)).double()


def slow_warp(image, flow, align_corners):
    """Bilinear sampling at identity + flow by loops; black outside. The grid ends at centres or at edges of pixels."""
    _, height, width = image.shape
    out = torch.zeros_like(image)

    def pixel(place, side):
        return (place + 1) / 2 * (side - 1) if align_corners else ((place + 1) * side - 1) / 2

    for row in range(height):
        for column in range(width):
            across = pixel(2 * column / (width - 1) - 1 + float(flow[0, row, column]), width)
            down = pixel(2 * row / (height - 1) - 1 + float(flow[1, row, column]), height)
            for r in (math.floor(down), math.floor(down) + 1):
                for c in (math.floor(across), math.floor(across) + 1):
                    weight = (1 - abs(down - r)) * (1 - abs(across - c))
                    if 0 <= r < height and 0 <= c < width:
                        out[:, row, column] += weight * image[:, r, c]
    return out


@pytest.mark.parametrize("align_corners", [True, False])
def test_warp_is_bilinear_sampling(align_corners):
    x = x_of((3, 6, 9))
    flow = (x_of((2, 6, 9), seed=1) - 0.5) * 0.6
    expected = torch.stack([slow_warp(image, field, align_corners) for image, field in zip(x, flow, strict=True)])
    assert torch.allclose(warp(x, flow, align_corners), expected, atol=1e-12)
    assert torch.allclose(warp(x, torch.zeros_like(flow), align_corners), x, atol=1e-12) == align_corners


def test_elastic_samples_as_the_authors_code_does_unless_asked_otherwise():
    x, flow = x_of((3, 8, 8)), (x_of((2, 8, 8), seed=1) - 0.5) * 0.2
    expected = warp(x, smooth(flow, 25, 3.0), False).clamp(0, 1)
    assert torch.equal(Elastic(ThreatModel("own", 0.5)).render(flow, x), expected)


def test_smoothing_is_a_gaussian_with_reflected_borders():
    kernel, std = 5, 1.2
    flow = x_of((2, 7, 8), seed=2)
    taps = torch.tensor([math.exp(-((i - 2) ** 2) / (2 * std**2)) for i in range(kernel)], dtype=torch.float64)
    taps = taps / taps.sum()
    padded = torch.nn.functional.pad(flow, (2, 2, 2, 2), mode="reflect")
    expected = torch.zeros_like(flow)
    for i in range(kernel):
        for j in range(kernel):
            expected += taps[i] * taps[j] * padded[:, :, i : i + 7, j : j + 8]
    assert torch.allclose(smooth(flow, kernel, std), expected, atol=1e-12)


def test_smoothing_does_not_lengthen_a_flow():
    flow = 2 * x_of((2, 8, 8), seed=3) - 1
    assert smooth(flow, 25, 3.0).abs().max() <= flow.abs().max() + 1e-12


@pytest.mark.parametrize(
    "attack, latent", [(Fog(OWN), 255), (Fog(OWN, roll=1, normalization="image", stretch=False), 255)]
)
def test_fog_is_a_blend_towards_white_inside_its_bound(attack, latent):
    x, v = x_of((3, 8, 8)), x_of((latent,), seed=4)
    eps = attack.threat.eps / 255
    fog = scaled(plasma(v, attack.decay, attack.roll), attack.normalization)[:, None, 4:12, 4:12]
    brightest = x.amax((2, 3), keepdim=True)
    scale = (1.0 if attack.stretch else brightest) / (brightest + eps)
    assert torch.allclose(attack.render(v, x), ((x + eps * fog) * scale).clamp(0, 1))
    assert fog.min() >= 0 and fog.max() <= 1


def test_a_map_fills_the_unit_interval_only_where_each_image_is_scaled_by_itself():
    v = x_of((255,), count=3, seed=5)
    heights = plasma(v, 2.0, 2)
    assert heights.shape == (3, 16, 16)
    own, common = scaled(heights, "image"), scaled(heights, "global")
    assert torch.allclose(own.amin((1, 2)), torch.zeros(3).double(), atol=1e-9)
    assert torch.allclose(own.amax((1, 2)), torch.ones(3).double(), atol=1e-6)
    assert torch.allclose(common, 0.5 + heights / (2 * HIGHEST)), "none of these reaches the limit"
    assert (common.amax((1, 2)) - common.amin((1, 2))).max() < 0.6
    for row in range(3):
        assert torch.allclose(plasma(v[row : row + 1], 2.0, 2)[0], heights[row])


def test_fog_stays_in_the_unit_interval_where_its_map_is_higher_than_any_drawn_at_random():
    heights = plasma(torch.ones(1, 4095), 2.0, 2)
    assert heights.max() > HIGHEST
    assert scaled(heights, "global").max() == 1 and scaled(-heights, "global").min() == 0


@pytest.mark.parametrize("decay, roll", [(2.0, 1), (3.0, 2)])
def test_plasma_is_diamond_square_on_a_torus(decay, roll):
    """Point by point: centres from four corners, then edges from two corners and two centres, `roll` rows away."""
    side, v = 8, x_of((63,), count=1, seed=12)[0].tolist()
    grid, step, wibble, used = np.zeros((side, side)), side, WIBBLE, 0
    while step > 1:
        n, half = side // step, step // 2
        for kind in range(3):
            for row in range(n):
                for column in range(n):
                    top, left = row * step, column * step
                    below, right = (top + step) % side, (left + step) % side
                    if kind == 0:
                        place, near = (
                            (top + half, left + half),
                            [(top, left), (below, left), (top, right), (below, right)],
                        )
                    elif kind == 1:
                        away = (top - roll * step + half) % side
                        place = (top, left + half)
                        near = [(top, left), (top, right), (top + half, left + half), (away, left + half)]
                    else:
                        away = (left - roll * step + half) % side
                        place = (top + half, left)
                        near = [(top, left), (below, left), (top + half, left + half), (top + half, away)]
                    grid[place] = np.mean([grid[one] for one in near]) + wibble * (2 * v[used] - 1)
                    used += 1
        step, wibble = half, wibble / decay
    assert np.allclose(plasma(torch.tensor([v], dtype=torch.float64), decay, roll)[0].numpy(), grid, atol=1e-10)


def test_gabor_kernels_are_their_formula():
    sigma, frequency, angle, sides = 0.2, 4.0, 0.7, 3
    given = (torch.tensor([value], dtype=torch.float64) for value in (sigma, frequency, angle))
    kernel = gabor_kernels(*given, torch.tensor([sides]))
    line = np.linspace(-0.5, 0.5, 23)
    for i in (0, 5, 11, 20):
        for j in (2, 11, 17):
            y, x = line[i], line[j]
            turned = [angle + math.pi * k / sides for k in range(sides)]
            wave = sum(math.cos(2 * math.pi * frequency * (x * math.cos(a) + y * math.sin(a))) for a in turned)
            assert kernel[0, i, j] == pytest.approx(wave * math.exp(-(x * x + y * y) / (2 * (sigma + 0.001) ** 2)))


def test_gabor_noise_is_lifted_and_fills_the_unit_interval():
    noise = x_of((6, 7), count=2, seed=3)
    for image, found in zip(noise, spread(noise), strict=True):
        away = image - image.mean()
        lifted = image.mean() + away * 1.001 / (0.001 + away.abs() / away.abs().max())
        expected = (lifted - lifted.min()) / (lifted.max() - lifted.min())
        assert torch.allclose(found, expected, atol=1e-12)


def test_fog_without_strength_is_the_identity():
    x = x_of((1, 8, 8))
    attack = Fog(ThreatModel("own", 0), stretch=False)
    assert torch.allclose(attack.render(x_of((255,), seed=6), x), x)


def test_gabor_brightens_by_at_most_eps_and_equally_in_all_channels():
    attack = Gabor(ThreatModel("own", 50))
    x = 0.5 * x_of((3, 12, 12))
    kernels = random_kernels(Noise(1, torch.arange(2))).double()
    change = attack.render(2 * x_of((12, 12), seed=7) - 1, x, spectra(kernels, 12, 12)) - x
    assert change.min() >= -1e-12 and change.max() <= 50 / 255 + 1e-12 and change.max() > 40 / 255
    assert torch.allclose(change[:, 0], change[:, 2])


def test_each_map_is_correlated_with_its_own_kernel():
    maps, kernels = x_of((9, 12), count=3, seed=8), random_kernels(Noise(1, torch.arange(3))).double()
    expected = torch.nn.functional.conv2d(maps[None], kernels[:, None], padding=11, groups=3)[0]
    assert torch.allclose(correlate(maps, spectra(kernels, 9, 12)), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["fog", "gabor", "elastic"])
def test_gradients_of_the_renderings(name):
    x = 0.2 + 0.5 * x_of((1, 8, 8), count=1)
    if name == "fog":
        latent, render = 0.2 + 0.6 * x_of((255,), count=1, seed=1), lambda v: Fog(OWN).render(v, x)
    elif name == "elastic":
        latent = 0.1 * (x_of((2, 8, 8), count=1, seed=1) - 0.5)
        attack = Elastic(ThreatModel("own", 0.5), kernel=5, std=1.0)
        render = lambda v: attack.render(v, x)  # noqa: E731
    else:
        pytest.skip("the gain of gabor's normalisation is held constant on purpose, as in the authors' code")
    assert torch.autograd.gradcheck(render, (latent.requires_grad_(True),), eps=1e-7, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda steps: Fog(ThreatModel("own", 1000), steps, step=0.2),
        lambda steps: Gabor(ThreatModel("own", 100), steps, step=0.1),
        lambda steps: Elastic(ThreatModel("own", 1.5), steps, step=0.3, kernel=5, std=1.0),
    ],
)
def test_ascent_is_stronger_than_its_random_start(make):
    model = small_cnn()
    x = saturated_images(120, (3, 16, 16), 3)
    y = model(x).argmax(1)
    fooled = []
    for steps in (1, 12):
        x_adv = make(steps)(Target(model), x, y, Noise(0, torch.arange(len(x))))
        fooled.append(int((model(x_adv).argmax(1) != y).sum()))
    assert fooled[1] > fooled[0]


@pytest.mark.parametrize(
    "settings, message",
    [
        (lambda: Fog(ThreatModel("Linf", 0.1)), "own"),
        (lambda: Fog(OWN, roll=3), "got roll = 3, decay = 2.0"),
        (lambda: Fog(OWN, normalization="batch"), "normalization = 'batch' is not one of 'global', 'image'"),
        (lambda: Elastic(OWN, kernel=4), "got kernel = 4, std = 3.0"),
        (lambda: Gabor(OWN, steps=0), "got steps = 0, step = None"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        settings()
