"""JPEG: its transform against scipy's, its round trip, its gradient and its own bound."""

from __future__ import annotations

import pytest
import scipy.fft
import torch
from oracles import small_cnn

from attacks.contract import ThreatModel
from attacks.jpeg import CHROMINANCE, JPEG, LUMINANCE, decode, encode
from attacks.noise import Noise
from attacks.target import Target


def x_of(shape, count=2, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)).double()


def test_coefficients_of_a_grey_image_are_scipys():
    x = x_of((1, 16, 8))
    expected = torch.stack(
        [
            torch.tensor(scipy.fft.dctn(255 * image[0, top : top + 8].numpy() - 128, norm="ortho"))
            / torch.tensor(LUMINANCE)
            for image in x
            for top in (0, 8)
        ]
    )
    assert torch.allclose(encode(x), expected.view(2, -1), atol=1e-9)


def test_a_colour_image_has_half_the_colour_resolution():
    x = x_of((3, 32, 32))
    coefficients = encode(x)
    assert coefficients.shape == (2, 1024 + 256 + 256)
    red = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    red[:, 0] = 1.0
    cr = encode(red)[0, 256 + 64 :]
    assert float(cr[0]) == pytest.approx(255 * 0.5 * 8 / CHROMINANCE[0][0])
    assert torch.allclose(cr[1:], torch.zeros(63, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 9, 13), (3, 16, 16), (3, 11, 20)])
def test_nothing_is_lost_but_colour_detail(shape):
    x = x_of(shape)
    if shape[0] == 3:  # colours that are constant on 2 x 2 squares
        x = x[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, : shape[1], : shape[2]]
    assert torch.allclose(decode(encode(x), x.shape), x, atol=2e-5)  # JFIF's six digits


def test_the_gradient_is_exact():
    attack, x = JPEG(ThreatModel("own", 1)), 0.3 + 0.4 * x_of((3, 8, 8), 1)
    coefficients = encode(x)
    latent = (x_of((coefficients.shape[1],), 1, 3) - 0.5) * 0.2
    assert torch.autograd.gradcheck(lambda v: attack.render(v, x, coefficients), latent.requires_grad_(True))


def test_variables_stay_within_eps_and_a_larger_eps_does_more():
    model, x = small_cnn(1).double(), x_of((1, 16, 16), 12, 5)
    y, standing = model(x).argmax(1), []
    for eps in (0.0, 1.0, 8.0):
        x_adv = JPEG(ThreatModel("own", eps), 12)(Target(model), x, y, Noise(0, torch.arange(12)))
        change = (encode(x_adv) - encode(x)).abs()
        inside = ((x_adv > 0) & (x_adv < 1)).flatten(1).all(1)  # elsewhere the clamp moves coefficients too
        assert (change[inside] <= 0.5 * eps + 1e-9).all()
        standing.append(int((model(x_adv).argmax(1) == y).sum()))
    assert standing[0] == 12 >= standing[1] > standing[2]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="own"):
        JPEG(ThreatModel("Linf", 0.1))
    with pytest.raises(ValueError, match="1 or 3 channels"):
        encode(torch.rand(1, 2, 8, 8))
