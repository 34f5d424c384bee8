"""The pointwise attack: nothing more can be put back; exact and best answers on linear models; who sees what; costs."""

from __future__ import annotations

import pytest
import torch
from attacking import exact, run
from oracles import Linear, TwoPieces, linear_problem, saturated_images, small_cnn

from attacks.contract import ThreatModel
from attacks.decision import fooled
from attacks.noise import Noise
from attacks.norms import distance
from attacks.pointwise import LEAST_SAVING, Pointwise, put_back
from attacks.salt_and_pepper import SaltAndPepper
from attacks.target import Target


def pointwise(norm="L0", **settings):
    return Pointwise(ThreatModel(norm, 1), **settings)


def counted(attack, model, x, y):
    """-> (x_adv, forward passes of each image)."""
    target = Target(model).counting(len(x))
    return attack(target, x, y, Noise(0, torch.arange(len(x)))), target.passes_per_image[0]


def problem(count=6, shape=(3, 6, 6)):
    model = small_cnn().double()
    x = saturated_images(count, shape, 3).double()
    return model, x, model(x).argmax(1)


def one_less(x, x_adv, value):
    """x_adv [C, H, W] with one value back at x's."""
    image = x_adv.clone().flatten()
    image[value] = x.flatten()[value]
    return image.view_as(x)


# --- what it promises -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["L0", "L1", "L2"])
def test_no_changed_value_can_be_put_back(norm):
    model, x, y = problem()
    x_adv = run(pointwise(norm), model, x, y)
    moved = (x_adv != x).flatten(1).any(1).nonzero().flatten().tolist()
    assert len(moved) >= 4 and (model(x_adv).argmax(1) != y)[moved].all()
    for i in moved:
        values = (x_adv[i] != x[i]).flatten().nonzero().flatten().tolist()
        trials = torch.stack([one_less(x[i], x_adv[i], value) for value in values])
        assert not fooled(Target(model), trials, y[i].expand(len(trials))).any()


@pytest.mark.parametrize("norm, power", [("L1", 1), ("L2", 2)])
def test_no_single_value_can_move_on_and_save_a_hundredth(norm, power):
    model, x, y = problem()
    x_adv = run(pointwise(norm), model, x, y)
    tried = 0
    for i in (x_adv != x).flatten(1).any(1).nonzero().flatten().tolist():
        delta = (x_adv[i] - x[i]).flatten()
        cost = delta.abs().pow(power)
        saving = cost.sum() * LEAST_SAVING
        for value in (cost > saving * 1.001).nonzero().flatten().tolist():
            image = x[i].flatten() + delta
            image[value] = x[i].flatten()[value] + delta[value] * ((cost[value] - saving) / cost[value]) ** (1 / power)
            assert not fooled(Target(model), image.view(1, *x[i].shape), y[i : i + 1])
            tried += 1
    assert tried > 10


# --- exact answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("needed", [1, 4, 17])
def test_where_all_values_weigh_the_same_it_changes_the_fewest(needed):
    """From grey, any `needed` values at 1 fool, and no `needed` - 1. White noise is as good as any other."""
    weight = torch.stack([torch.zeros(48), torch.ones(48)])
    model = Linear(weight, torch.tensor([24 + needed / 2 - 0.25, 0.0])).eval()
    x, y = torch.full((8, 3, 4, 4), 0.5), torch.zeros(8, dtype=torch.int64)
    x_adv = run(pointwise(), model, x, y)
    assert (exact("L0", model, x, y) == needed).all()
    assert (distance("L0", x, x_adv) == needed).all() and (x_adv >= x).all()


def test_the_one_value_that_decides_is_all_that_is_left_and_moves_just_far_enough():
    weight = torch.zeros(2, 48)
    weight[1, 21] = 1
    model = Linear(weight, torch.tensor([0.7, 0.0])).eval()  # class 1 where value 21 is above 0.7
    x, y = torch.full((8, 3, 4, 4), 0.5), torch.zeros(8, dtype=torch.int64)
    for norm in ("L0", "L1", "L2"):
        delta = (run(pointwise(norm), model, x, y) - x).flatten(1)
        assert (delta[:, torch.arange(48) != 21] == 0).all()
        assert ((delta[:, 21] == 0.5) if norm == "L0" else (delta[:, 21] > 0.2) & (delta[:, 21] < 0.203)).all()


@pytest.mark.parametrize("norm, factor", [("L0", 1.01), ("L1", 1.1), ("L2", 1.8)])
def test_linear_distance_is_never_undercut_and_met_within_a_factor_from_four_starts(norm, factor):
    """By the median. A set of which no value can be put back is not the smallest set, and few large changes are not
    short in L2: the gap is the attack's."""
    model, x, y = linear_problem(2, (1, 5, 5), 0)
    least = exact(norm, model, x, y)
    one, four = (distance(norm, x, run(pointwise(norm, restarts=r), model, x, y)) / least for r in (1, 4))
    assert torch.isfinite(least).all() and (four >= 0.9999).all()
    assert (four <= one).all() and (four < one).any()
    assert four.median() <= factor


@pytest.mark.parametrize("norm, factor", [("L0", 1.01), ("L1", 1.5), ("L2", 2.0)])
def test_piecewise_linear_distance_is_never_undercut_and_met_within_a_factor(norm, factor):
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(2, 16, generator=generator) / 4
    x = saturated_images(6, (1, 4, 4), 9)
    model = TwoPieces(weight, -(x.flatten(1) @ weight.t()).amax(0) - 0.1).eval()
    y = torch.zeros(6, dtype=torch.int64)
    ratio = distance(norm, x, run(pointwise(norm, restarts=4), model, x, y)) / exact(norm, model, x, y)
    assert (ratio >= 0.9999).all() and (ratio <= factor).all()


# --- putting back, value by value -------------------------------------------------------------------------------------


def slow_put_back(model, x, x_adv, y, order):
    """One value at a time, in order, for one image, until as many in a row have failed as are left."""
    image, failures = x_adv.clone(), 0
    while True:
        for value in [v for v in order if image.flatten()[v] != x.flatten()[v]]:
            trial = one_less(x, image, value)
            if int(model(trial[None]).argmax()) != y:
                image, failures = trial, 0
            else:
                failures += 1
            if failures >= int((image != x).sum()):
                return image


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_several_tries_at_once_are_the_same_as_one_after_the_other(batch_size):
    model, x, y = problem(30, (3, 4, 4))
    far = 1 - x.round()
    keep = (model(far).argmax(1) != y).nonzero().flatten()
    assert len(keep) >= 3
    order = Noise(0, keep).uniform(x[0].numel()).argsort(dim=1)
    found = put_back(Target(model, batch_size), x[keep], far[keep], y[keep], order, blocks=False)
    for n, i in enumerate(keep.tolist()):
        assert torch.equal(found[n], slow_put_back(model, x[i], far[i], int(y[i]), order[n].tolist()))


def test_blocks_save_queries():
    """Two of 192 values are needed: halving finds them in far fewer passes than there are values."""
    weight = torch.zeros(2, 192)
    weight[1, [5, 150]] = 1
    model = Linear(weight, torch.tensor([1.6, 0.0])).eval()
    x, y = torch.full((4, 3, 8, 8), 0.5), torch.zeros(4, dtype=torch.int64)
    far, order = torch.ones_like(x), Noise(0, torch.arange(4)).uniform(192).argsort(dim=1)
    passes = []
    for blocks in (True, False):
        target = Target(model, 1).counting(4)
        found = put_back(target, x, far, y, order, blocks=blocks)
        assert (found.flatten(1) != 0.5).nonzero()[:, 1].tolist() == [5, 150] * 4
        passes.append(target.passes_per_image[0])
    assert (passes[0] < 50).all() and (passes[1] > 190).all()


# --- who sees what, and costs -----------------------------------------------------------------------------------------


def test_an_image_that_nothing_fools_comes_back_unchanged_after_its_queries():
    stuck = Linear(torch.zeros(3, 48), torch.tensor([1.0, 0, 0])).eval()
    x, y = saturated_images(5, (3, 4, 4), 0), torch.zeros(5, dtype=torch.int64)
    x_adv, passes = counted(pointwise("L1", restarts=3, queries=60), stuck, x, y)
    assert torch.equal(x_adv, x)
    assert (passes == 60 + 600 + 60 + 60).all(), "three starts, and ten times as many queries once"


def test_a_start_that_needs_more_queries_gets_them_once():
    """Class 1 where 11 of 16 values are white: rare, and impossible for the smaller shares that come first."""
    weight = torch.stack([torch.zeros(16), torch.ones(16)])
    model = Linear(weight, torch.tensor([10.5, 0.0])).eval()
    x, y = torch.full((6, 1, 4, 4), 0.5), torch.zeros(6, dtype=torch.int64)
    noise = Noise(0, torch.arange(6))
    first = SaltAndPepper(ThreatModel("L0", 1), 4, 4)(Target(model), x, y, noise.fork("restart", 0).fork("start"))
    missed = (first == x).flatten(1).all(1)
    x_adv, passes = counted(pointwise("L0", queries=4), model, x, y)
    found = (x_adv != x).flatten(1).any(1)
    assert (missed & found).any() and (model(x_adv).argmax(1) == 1)[found].all()
    assert (passes[missed] > 4).all() and (passes[missed & ~found] == 4 + 40).all()


def test_wrong_images_cost_one_look_a_start_and_one_more():
    model, x, y = problem()
    y = torch.where(torch.arange(6) < 3, (y + 1) % 10, y)
    x_adv, passes = counted(pointwise("L1", restarts=2), model, x, y)
    assert torch.equal(x_adv[:3], x[:3]) and (passes[:3] == 3).all() and (passes[3:] > 60).all()


@pytest.mark.parametrize("norm", ["L0", "L1", "L2"])
def test_an_image_does_not_see_the_others(norm):
    """How many blocks are tried at once depends on the batch, the answer does not."""
    model, x, y = problem(4, (3, 5, 5))
    attack = pointwise(norm, restarts=2)
    whole = run(attack, model, x, y)
    for size in (1, 5):
        assert torch.allclose(whole, run(attack, model, x, y, batch_size=size), atol=1e-9)
    order = torch.arange(3, -1, -1)
    assert torch.allclose(whole[order], attack(Target(model), x[order], y[order], Noise(0, order)), atol=1e-9)
    assert not torch.equal(whole, run(attack, model, x, y, seed=1))


@pytest.mark.parametrize(
    "norm, settings, message",
    [("Linf", {}, "not in Linf"), ("L1", {"restarts": 0}, "restarts = 0"), ("L1", {"queries": 0}, "queries = 0")],
)
def test_bad_settings_are_refused(norm, settings, message):
    with pytest.raises(ValueError, match=message):
        Pointwise(ThreatModel(norm, 1), **settings)
