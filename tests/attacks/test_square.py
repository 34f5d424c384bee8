"""Laws of Square: where its squares lie, that it only climbs, and what it reaches on models that are known exactly."""

from __future__ import annotations

import pytest
import torch
from attacking import run
from oracles import exact_margin, linear_problem, saturated_images, small_cnn

from attacks.contract import ThreatModel
from attacks.losses import margin
from attacks.noise import Noise
from attacks.square import Square, _pyramid, _window


def test_it_finds_linear_margins_without_a_gradient():
    """In Linf the squares end at one pixel, so the corner of the ball is found."""
    model, x, y = linear_problem(2, (1, 5, 5), 0)
    for image, label in zip(x[:6].split(1), y, strict=False):
        exact = exact_margin("Linf", model, image[0], int(label))
        if exact == float("inf"):
            continue
        near, far = (Square(ThreatModel("Linf", share * exact), 500, p=0.1) for share in (0.99, 1.05))
        assert model(run(near, model, image, label[None])).argmax(1) == label
        assert model(run(far, model, image, label[None])).argmax(1) != label


@pytest.mark.parametrize("norm, eps", [("Linf", 0.01), ("L2", 0.1)])
def test_more_queries_never_lower_the_margin(norm, eps):
    model = small_cnn()
    x = saturated_images(16, (3, 12, 12), 3)
    y = model(x).argmax(1)
    values = [margin(model(run(Square(ThreatModel(norm, eps), q), model, x, y)), y) for q in (1, 20)]
    standing = values[1] < 0
    assert standing.any() and (values[1] >= values[0])[standing].all() and (values[1] > values[0])[standing].any()


def test_a_window_has_its_size_and_reaches_every_corner():
    x = torch.zeros(400, 3, 6, 8)
    window = _window(x, 3, Noise(0, torch.arange(400)).uniform(2))
    assert window.shape == (400, 1, 6, 8) and (window.sum((1, 2, 3)) == 9).all()
    assert window[:, 0, 0, 0].any() and window[:, 0, -1, -1].any()


def test_a_pyramid_by_hand():
    """n = 2: the rim weighs 1 / 4, the middle 1 / 4 + 1 / 1."""
    x = torch.zeros(1, 1, 4, 4)
    inside = _window(x, 3, Noise(0, torch.arange(1)).uniform(2))
    block = _pyramid(x, inside, 3)[inside].view(3, 3)
    assert torch.allclose(block, torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25], [0.25, 0.25, 0.25]]))


def test_every_query_draws_anew():
    """Also after the random numbers of 50 queries are used up: 200 proposals, almost all of them different."""
    seen = set()
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 2))
    model.register_forward_pre_hook(lambda _, inputs: seen.add(hash(inputs[0].numpy().tobytes())))
    model.eval()[1].weight.data.zero_()
    model[1].bias.data = torch.tensor([5.0, 0.0])  # never fooled
    run(
        Square(ThreatModel("Linf", 0.1), 200), model, torch.full((1, 3, 16, 16), 0.5), torch.zeros(1, dtype=torch.int64)
    )
    assert len(seen) > 150


def test_squares_shrink_as_in_the_paper():
    attack, x = Square(ThreatModel("Linf", 0.1), 10_000), torch.zeros(1, 3, 32, 32)
    assert attack.side(0, x) == round((0.8 * 1024) ** 0.5)
    assert attack.side(11, x) == round((0.4 * 1024) ** 0.5)
    assert attack.side(9000, x) == round((0.8 / 512 * 1024) ** 0.5) == 1


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="Linf and L2"):
        Square(ThreatModel("L1", 3))
    with pytest.raises(ValueError, match="queries >= 1"):
        Square(ThreatModel("L2", 3), queries=0)
