"""Distances, projections and steepest steps against brute force and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import smallest

from attacks import norms


def sample(count=64, seed=0):
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm, order", [("Linf", np.inf), ("L2", 2), ("L1", 1), ("L0", 0)])
def test_distances_are_numpy_norms(norm, order):
    x, delta = sample(), sample(seed=1).double()
    delta[:, 0] = 0
    expected = [np.linalg.norm(d.flatten().numpy(), order) for d in delta]
    assert np.allclose(norms.distance(norm, x.double(), x.double() + delta), expected, atol=1e-12)


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="L7"):
        norms.distance("L7", sample(), sample())


@pytest.mark.parametrize("norm, project", [("L2", norms.project_l2), ("L1", norms.project_l1)])
def test_projection_moves_outside_points_to_the_sphere_and_inside_points_nowhere(norm, project):
    delta = sample()
    size = norms.distance(norm, torch.zeros_like(delta), delta)
    eps = size.median().item()
    inside = size < eps
    assert 0 < inside.sum() < len(inside), "the sample must hold points on both sides"
    projected = project(delta, eps)
    after = norms.distance(norm, torch.zeros_like(delta), projected)
    assert torch.equal(projected[inside], delta[inside])
    assert torch.allclose(after[~inside], torch.full_like(after[~inside], eps), atol=1e-5)
    assert torch.allclose(project(projected, eps), projected, atol=1e-6)


def test_l1_projection_is_the_nearest_point():
    """Soft thresholding with the threshold found by bisection."""
    for delta in sample(8).double():
        eps = float(delta.abs().sum()) / 3
        low, high = 0.0, float(delta.abs().max())
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if (delta.abs() - middle).clamp(min=0).sum() > eps else (low, middle)
        nearest = delta.sign() * (delta.abs() - high).clamp(min=0)
        assert torch.allclose(norms.project_l1(delta[None], eps)[0], nearest, atol=1e-9)


@pytest.mark.parametrize("eps", [0.1, 1.0, 12.0])
def test_rounding_leads_nobody_out_of_the_l1_ball(eps):
    """Thousands of rounded values add up: without the margin some of these images are beyond the radius."""
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 0.4 * torch.rand(50, 3, 32, 32, generator=generator)
    far = torch.rand(x.shape, generator=generator)
    for project in (norms.project_l1, lambda delta, radius: norms.project_l1_in_box(x, delta, radius)):
        x_adv = x + project(far, norms.l1_inside(eps, x))
        length = norms.distance("L1", x, x_adv)
        assert (length <= eps).all() and (length > 0.99 * eps).all()
        assert (norms.distance("L1", x, x + project(far, eps)) > eps).any(), "the sample must need the margin"


def test_l1_projection_in_the_box_is_the_nearest_point():
    """clip(|delta| - t, 0, room) with t found by bisection; no point of the set nearby is nearer."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(40, 2, 4, 4, generator=generator).mul(1.6).sub(0.3).clamp(0, 1).double()
    delta = 0.7 * torch.randn(x.shape, generator=generator).double()
    for eps in (0.5, 4.0, 1000.0):
        projected = norms.project_l1_in_box(x, delta, eps)
        assert (x + projected >= 0).all() and (x + projected <= 1).all()
        assert (projected.abs().sum((1, 2, 3)) <= eps + 1e-9).all()
        for image, wanted, found in zip(x, delta, projected, strict=True):
            room = torch.where(wanted > 0, 1 - image, image)
            low, high = 0.0, 10.0
            for _ in range(100):
                t = (low + high) / 2
                kept = torch.minimum((wanted.abs() - t).clamp(min=0), room)
                low, high = (t, high) if kept.sum() > eps else (low, t)
            kept = torch.minimum((wanted.abs() - high).clamp(min=0), room) * wanted.sign()
            assert torch.allclose(found, kept, atol=1e-8)
        assert torch.allclose(norms.project_l1_in_box(x, projected, eps), projected, atol=1e-9)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_the_nearest_point_on_a_plane_is_that_of_the_oracle(norm):
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(40, 1, 4, 4, generator=generator).mul(1.6).sub(0.3).clamp(0, 1).double()
    slope = torch.randn(x.shape, generator=generator).double()
    slope[:, :, 0, 0] = 0
    need = torch.randn(40, generator=generator).double()
    move = norms.nearest_on_plane(norm, x, slope, need)
    assert (x + move >= -1e-12).all() and (x + move <= 1 + 1e-12).all()
    assert torch.allclose((move * slope).flatten(1).sum(1), need, atol=1e-9)
    for image, w, wanted, found in zip(x, slope, need, norms.distance(norm, x, x + move), strict=True):
        sign = 1 if wanted > 0 else -1
        assert float(found) == pytest.approx(smallest(norm, image.flatten(), sign * w.flatten(), abs(float(wanted))))


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_plane_outside_the_box_sends_every_value_to_its_bound(norm):
    x, slope = torch.full((1, 1, 2, 2), 0.25), torch.tensor([[[[1.0, -1.0], [2.0, 0.0]]]])
    move = norms.nearest_on_plane(norm, x, slope, torch.tensor([100.0]))
    assert torch.allclose(move, torch.tensor([[[[0.75, -0.25], [0.75, 0.0]]]]))


def test_l2_step_is_the_gradient_direction_where_there_is_room():
    grad, x = sample(), torch.full((64, 3, 4, 4), 0.5)
    move = norms.l2_ascent(grad, x, 0.1)
    assert torch.allclose(move, 0.1 * grad / grad.flatten(1).norm(dim=1)[:, None, None, None], atol=1e-6)


@pytest.mark.parametrize("ascent, norm", [(norms.l2_ascent, "L2"), (norms.l1_ascent, "L1")])
def test_steps_stay_in_the_box_spend_their_length_and_beat_random_moves(ascent, norm):
    grad = sample().double()
    x = torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double().mul(1.6).sub(0.3).clamp(0, 1)
    step = 1.2
    extra = (torch.ones(64, dtype=torch.int64),) if norm == "L1" else ()
    move = ascent(grad, x, step, *extra)
    assert (x + move >= -1e-12).all() and (x + move <= 1 + 1e-12).all()
    assert torch.allclose(norms.distance(norm, x, x + move), torch.full((64,), step).double(), atol=1e-9)
    gain = (move * grad).flatten(1).sum(1)
    generator = torch.Generator().manual_seed(2)
    for _ in range(200):
        other = (move + 0.1 * torch.randn(move.shape, generator=generator).double() + x).clamp(0, 1) - x
        length = norms.distance(norm, x, x + other)
        other = other * (step / length).clamp(max=1)[:, None, None, None]
        assert ((other * grad).flatten(1).sum(1) <= gain + 1e-9).all()


def test_zero_gradient_moves_nothing():
    zero, x = torch.zeros(2, 1, 2, 2), torch.rand(2, 1, 2, 2)
    assert torch.equal(norms.l2_ascent(zero, x, 1.0), zero)
    assert torch.equal(norms.l1_ascent(zero, x, 1.0, torch.tensor([3, 3])), zero)
