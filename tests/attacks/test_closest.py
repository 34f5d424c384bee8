"""The refinement of minimal-norm attacks: exact on linear models, never worse, and sure of its verdicts."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from oracles import exact_margin, linear_problem, saturated_images, small_cnn

from attacks.closest import Closest, least_move, likeliest_wrong
from attacks.losses import margin
from attacks.norms import distance
from attacks.target import Target


def found_far_away(model, x, y, seed=0):
    """The closest of 100 random fooling images for each image, whatever its class and distance -> Closest."""
    found, target, place = Closest(x), Target(model), torch.arange(len(x))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(100):
        trial = (x + torch.randn(x.shape, generator=generator, dtype=x.dtype)).clamp(0, 1)
        found.offer(target, place, trial, y, target.logits(trial))
    assert torch.isfinite(found.distance).any()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes, shape", [(2, (1, 5, 5)), (6, (3, 4, 4)), (10, (3, 8, 8))])
def test_on_linear_models_two_steps_are_exact_from_anywhere(classes, shape, dtype):
    """The class is found, too: the random images that it starts from are mostly of another one."""
    for seed in range(3 if classes == 2 else 1):
        model, x, y = linear_problem(classes, shape, seed)
        model, x = model.to(dtype), x.to(dtype)
        found = found_far_away(model, x, y)
        has = torch.isfinite(found.distance)
        found.refine(Target(model), y, 2)
        exact = torch.tensor([exact_margin("L2", model, image, int(label)) for image, label in zip(x, y, strict=True)])
        ratio = distance("L2", x, found.x_adv)[has] / exact[has]
        assert (0.9999 < ratio).all() and (ratio < 1.01).all()
        assert (model(found.x_adv).argmax(1) != y)[has].all()


def test_images_a_hair_from_the_boundary_are_refined_in_float32_too():
    """Where a step past the boundary by a share of its length would drown in rounding."""
    model, x, y = linear_problem(3, (3, 4, 4), 0)
    far = found_far_away(model, x, y)
    far.refine(Target(model), y, 2)
    has = torch.isfinite(far.distance)
    x, y = (x + 0.995 * (far.x_adv - x))[has], y[has]
    assert (model(x).argmax(1) == y).all()
    found = found_far_away(model, x, y)
    found.refine(Target(model), y, 3)
    exact = torch.tensor([exact_margin("L2", model, image, int(label)) for image, label in zip(x, y, strict=True)])
    assert (exact < 0.01).all() and (distance("L2", x, found.x_adv) < 1.02 * exact).all()


def test_the_least_move_is_the_least_that_gains_what_it_should():
    x = torch.full((2, 1, 2, 2), 0.5)
    corner, plane = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), torch.ones(1, 2, 2)
    grads = torch.stack([corner, plane]).expand(2, 2, 1, 2, 2)
    moves = least_move(grads, x, torch.tensor([[0.6, 1.6], [0.4, 1.6]]))
    assert torch.allclose(moves[0], torch.full((1, 2, 2), 0.4)), "0.5 in the corner is shorter but not enough"
    assert torch.allclose(moves[1], 0.4 * corner)


def test_on_a_network_it_only_ever_gets_closer_and_every_round_may_help():
    model = small_cnn().double()
    x = saturated_images(30, (3, 12, 12), 3).double()
    y = model(x).argmax(1)
    lengths = []
    for rounds in (0, 1, 3):
        found = found_far_away(model, x, y)
        found.refine(Target(model), y, rounds)
        assert (model(found.x_adv).argmax(1) != y)[torch.isfinite(found.distance)].all()
        assert torch.isfinite(found.distance).eq(~(found.x_adv == x).flatten(1).all(1)).all()
        assert found.x_adv.min() >= 0 and found.x_adv.max() <= 1
        lengths.append(found.distance)
    for fewer, more in pairwise(lengths):
        assert (more <= fewer).all() and (more < fewer).any()
    assert lengths[-1].median() < 0.3 * lengths[0].median()


def test_images_leave_when_they_are_done():
    model, x, y = linear_problem(6, (3, 4, 4), 0)
    found = found_far_away(model.double(), x.double(), y)
    target = Target(model).counting(len(x))
    found.refine(target, y, 50)
    forward, backward = target.passes_per_image
    has = torch.isfinite(found.distance)
    assert (backward[has] >= 6).all() and (backward <= 5 + 4).all() and (forward <= 2 + 5).all()
    assert (backward[~has] == 0).all()


def test_an_image_that_fools_by_rounding_only_does_not_count():
    model, x, _ = linear_problem(2, (1, 5, 5), 0)
    logits = torch.tensor([[1.0, 1.0 + 1e-6]] * 2 + [[1.0, 1.1]] * 2)
    found = Closest(x[:4])
    fooled = found.offer(Target(model), torch.arange(4), 1 - x[:4], torch.zeros(4, dtype=torch.int64), logits)
    assert fooled.tolist() == torch.isfinite(found.distance).tolist() == [False, False, True, True]
    assert torch.equal(found.x_adv[:2], x[:2]) and torch.equal(found.x_adv[2:], 1 - x[2:4])


def test_only_closer_images_are_kept():
    model, x, _ = linear_problem(2, (1, 5, 5), 0)
    logits, place = torch.tensor([[0.0, 1.0]]).expand(3, 2), torch.tensor([4, 1, 7])
    found, label = Closest(x), torch.zeros(3, dtype=torch.int64)
    for share, kept in ((0.5, 0.5), (0.8, 0.5), (0.2, 0.2)):
        found.offer(Target(model), place, x[place] + share * (0.5 - x[place]), label, logits)
        assert torch.allclose(found.x_adv[place], x[place] + kept * (0.5 - x[place]))
    others = [image for image in range(12) if image not in place.tolist()]
    assert torch.equal(found.x_adv[others], x[others]) and torch.isinf(found.distance[others]).all()


def test_likeliest_wrong_classes():
    logits = torch.tensor([[5.0, 1.0, 2.0, 4.0], [0.0, 9.0, 2.0, 1.0]])
    y = torch.tensor([0, 2])
    assert likeliest_wrong(logits, y, 3).tolist() == [[3, 2], [1, 3]]
    assert likeliest_wrong(logits, y, 10).tolist() == [[3, 2, 1], [1, 3, 0]]


def test_margin_gradients_are_exact_and_cost_one_forward_pass():
    model = small_cnn().double()
    x = saturated_images(7, (3, 12, 12), 3).double()
    y = model(x).argmax(1)
    classes = likeliest_wrong(model(x), y, 10)
    target = Target(model, 3).counting(len(x))
    for rows, margins, grads in target.margin_gradients(x, y, classes):
        for column in range(9):
            variable = x[rows].clone().requires_grad_(True)
            logits = model(variable)
            picked = logits[:, None, :].expand(-1, 2, -1)[:, 0].gather(1, classes[rows, column, None])
            value = (picked - logits.gather(1, y[rows, None])).squeeze(1)
            (grad,) = torch.autograd.grad(value.sum(), variable)
            assert torch.allclose(margins[:, column], value) and torch.allclose(grads[:, column], grad)
        assert torch.allclose(margins[:, 0], margin(model(x[rows]), y[rows]))
    assert (target.passes_per_image == torch.tensor([[1], [9]])).all()
