"""Randomised smoothing: of a linear classifier the radius is known exactly; votes are counted as Cohen et al. do."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from attacks.target import Target
from bench.bounds.smoothing import Smoothing, share_at_least, votes
from bench.ground.config import UserError

DISTANCE, SIGMA = 0.2, 0.25


def half_space() -> nn.Module:
    """Class 0 where the values sum to more than 2, at a distance of DISTANCE from an image of 0.5 + DISTANCE / 2."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, 4))
        model[1].bias.copy_(torch.tensor([-2.0, 2.0]))
    return model.eval()


def test_the_radius_is_at_most_the_distance_and_comes_near_it():
    how, x = Smoothing(SIGMA, draws=2000), torch.full((1, 2, 2), 0.5 + DISTANCE / 2)
    radii = []
    for image in range(60):
        chosen, count = votes(Target(half_space()), x, image, how, seed=0)
        assert chosen == 0
        radii.append(how.radius(count))
    assert max(radii) <= DISTANCE, "each holds but for a chance of 0.001"
    assert sum(radii) / 60 > 0.85 * DISTANCE
    assert len(set(radii)) > 10, "every image has noise of its own"


@pytest.mark.parametrize(("count", "draws"), [(0, 10), (7, 10), (10, 10), (990, 1000)])
def test_the_lower_end_is_clopper_and_pearsons(count: int, draws: int):
    wanted = binomtest(count, draws, alternative="greater").proportion_ci(0.999, "exact").low
    assert share_at_least(count, draws, 0.001) == pytest.approx(wanted)


def test_half_of_the_votes_prove_nothing_and_all_of_them_no_more_than_the_farthest():
    how = Smoothing(0.5, draws=100)
    assert how.radius(50) == 0 and 0 < how.radius(80) < how.radius(100) == how.farthest


def test_noise_without_a_size_is_refused():
    with pytest.raises(UserError, match="sigma above 0"):
        Smoothing(0.0)
