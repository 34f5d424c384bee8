"""The search by patterns: the exact maximum of small networks, its map of a region by hand, and what it refuses."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from milp import least_margin
from oracles import linear_problem
from torch import Tensor, nn

from attacks.contract import ThreatModel
from attacks.losses import margin, targeted_margin
from attacks.model import ModelError
from attacks.noise import Noise
from attacks.patterns import AREA, FIRST, Patterns, _Search
from attacks.pgd import PGD
from attacks.regions import MOST_ENTRIES, check, read, walk
from attacks.target import Target

EPS, SIDE, CLASSES = 0.3, 4, 3
LINF = ThreatModel("Linf", EPS)
PGD_MT = PGD(LINF, 100, EPS, step_schedule="linear", targets=9, restarts=2)


def dense(seed: int) -> nn.Sequential:
    """Random, of two hidden layers."""
    widths, generator = (SIDE * SIDE, 12, 8, CLASSES), torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(widths):
        layer = nn.Linear(fan_in, fan_out)
        layer.weight.data = torch.randn(fan_out, fan_in, generator=generator) * (2 / fan_in) ** 0.5
        layer.bias.data = 0.1 * torch.randn(fan_out, generator=generator)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval().requires_grad_(False)


def barely(seed: int, above: float) -> tuple[nn.Module, Tensor, Tensor]:
    """A network and an image whose greatest margin in the ball is `above`, by mixed-integer programming: the bias of
    the label is moved until that is so.
    """
    model, x = dense(seed), torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed + 100))
    layers = [(m.weight.data.double().numpy(), m.bias.data.double().numpy()) for m in model if hasattr(m, "weight")]
    low, high = ((x.double() + sign * EPS).clamp(0, 1).flatten().numpy() for sign in (-1, 1))
    y = int(model(x).argmax())
    rows = [np.eye(CLASSES)[y] - np.eye(CLASSES)[k] for k in range(CLASSES) if k != y]
    model[-1].bias.data[y] -= min(least_margin(layers, low, high, row) for row in rows) + above
    return model, x, torch.tensor([y])


class Various(nn.Module):
    """Batch norm, ReLUs as a function, in place and used twice, average pooling, a sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.relu = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.second, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4 * 3 * 3, CLASSES)
        self.norm.running_mean += 0.1 * torch.randn(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(x - 0.5)))
        x = torch.relu(x + self.relu(self.second(x)))
        return self.last(nn.functional.avg_pool2d(x, 2).flatten(1))


class Times12(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 12 * x


def box(x: Tensor, eps: float = EPS) -> tuple[Tensor, Tensor]:
    return (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)


@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_the_map_of_a_region_is_the_network_in_it(batch_size):
    model, x = Various().eval(), torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    low, high = box(x, 1e-3)
    low[0, 0, 0, 0] = high[0, 0, 0, 0] = x[0, 0, 0, 0]  # a pixel without room in its box
    target = Target(model, batch_size).counting(1)
    affine = read(target, x, (low, high))
    assert affine.columns.shape == (3 * 4 * 36, 35) and affine.slopes.shape == (CLASSES, 35)
    assert target.passes_per_image.tolist() == [[37], [0]]
    near = low + (high - low) * torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    moved = (near - x).flatten()[1:].double().numpy()
    there = read(Target(model), near, (low, high))
    assert ((there.before > 0) == (affine.before > 0)).all(), "the box is inside one region"
    np.testing.assert_allclose(affine.logits + affine.slopes @ moved, there.logits, atol=1e-6)
    np.testing.assert_allclose(affine.before + affine.columns @ moved, there.before, atol=1e-6)


def test_a_linear_model_is_one_region_and_a_programme_finds_its_corner():
    model, x, y = linear_problem(4, (1, 5, 5), seed=0)
    low, high = box(x[:1])
    pair = torch.tensor([int(y[0]), (int(y[0]) + 1) % 4])
    found, ahead, _ = walk(Target(model), x[:1], pair, (low, high), probes=100)
    with torch.no_grad():
        slope = model(torch.eye(25).view(25, 1, 5, 5)) - model(torch.zeros(1, 1, 5, 5))
        rise = (slope[:, pair[1]] - slope[:, pair[0]]).view_as(low)
        corner = torch.where(rise > 0, high, low)
        best = model(corner)[0]
    assert torch.equal(found, corner)
    assert ahead == pytest.approx(float(best[pair[1]] - best[pair[0]]), abs=1e-5)


def test_a_walk_never_falls_stays_in_its_box_and_keeps_to_its_probes():
    for seed in range(5):
        model, x = dense(seed), torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
        y = model(x).argmax(1)
        low, high = box(x)
        pair = torch.tensor([int(y), (int(y) + 1) % CLASSES])
        target = Target(model).counting(1)
        logits = model(x)[0]
        found, ahead, spent = walk(target, x, pair, (low, high), probes=100)
        assert ahead >= float(logits[pair[1]] - logits[pair[0]]) and (found >= low).all() and (found <= high).all()
        assert target.passes_per_image[0, 0] == spent <= 100
        assert walk(target, x, pair, (low, high), probes=17)[2] == 0


@pytest.mark.parametrize("seed", [3, 8])
def test_it_finds_what_only_just_fools_where_gradients_find_nothing(seed):
    """A mixed-integer programme knows the greatest margin in the ball: 0.0001 above 0, then as much below."""
    model, x, y = barely(seed, 1e-4)
    noise, attack = Noise(0, torch.arange(1)), Patterns(LINF, near=1, hops=20)
    assert margin(model(PGD_MT(Target(model), x, y, noise)), y) < -0.01
    assert margin(model(attack(Target(model), x, y, noise)), y) > 0
    model[-1].bias[y] += 2e-4
    assert -1.2e-4 < margin(model(attack(Target(model), x, y, noise)), y) < 0


def test_programmes_keep_to_the_budget_and_an_image_does_not_see_the_others():
    model, x = dense(4), torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    y, attack = (
        model(x).argmax(1),
        Patterns(ThreatModel("Linf", 0.02), starts=1, near=1, chains=2, hops=51, steps=1, probes=60),
    )
    target = Target(model).counting(3)
    together = attack(target, x, y, Noise(0, torch.arange(3)))
    budget, spent = attack.passes(CLASSES), target.passes_per_image
    assert (spent[0] <= budget.forward).all() and (spent[1] == budget.backward).all()
    assert (spent[0] >= budget.forward - 60 - 6 + 36).all(), "two programmes at least"
    alone = torch.cat([attack(Target(model, 1), x[i, None], y[i, None], Noise(0, torch.tensor([i]))) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)
    without = Patterns(attack.threat, 1, 1, 2, 51, 1, probes=0)(Target(model), x, y, Noise(0, torch.arange(3)))
    assert (margin(model(together), y) >= margin(model(without), y)).all() and not torch.equal(together, without)


def test_hops_never_lose_a_margin_and_find_better_ones():
    model, x = dense(6), torch.rand(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(6))
    y = model(x).argmax(1)
    search = _Search(Patterns(ThreatModel("Linf", 0.02), near=1), Target(model), x, y, Noise(0, torch.arange(4)))
    search.start()
    first = search.ahead.clone()
    search.settled.fill_(True)
    for hop in range(3):
        before = search.ahead.clone()
        search.hop(hop)
        assert (search.ahead >= before).all()
    assert search.going.all() and (search.ahead > first).any()
    moved = (search.ahead > first).nonzero()[0].tolist()
    assert not search.settled[moved[0], moved[1]], "a chain that moved has a programme to come"
    logits = model(search.where.flatten(0, 1))
    assert torch.allclose(targeted_margin(logits, search.goal.flatten(0, 1)), search.ahead.flatten(), atol=1e-6)


def test_an_image_far_from_fooled_is_given_up_after_its_starts():
    model, x, y = barely(3, 1e-4)
    target = Target(model).counting(1)
    Patterns(LINF, starts=2, near=0, hops=5, probes=0)(target, x, y, Noise(0, torch.arange(1)))
    assert target.passes_per_image.tolist() == [[1 + 2 * 2 * (FIRST + 1)], [2 * 2 * FIRST]]


def test_a_hop_paints_a_patch_at_one_end_of_the_ball_another_one_for_each_chain():
    x, y = torch.rand(3, 2, 20, 30, generator=torch.Generator().manual_seed(0)), torch.zeros(3, dtype=torch.int64)
    search = _Search(Patterns(LINF), Target(nn.Identity().eval()), x, y, Noise(0, torch.arange(3)))
    search.where = x.unsqueeze(1).repeat(1, 200, 1, 1, 1)
    rows = torch.tensor([0, 2])
    painted = search._painted(rows, 7)
    patch = (painted != search.where[rows]).any(2)
    share = (patch.any(3).sum(2) / 20) * (patch.any(2).sum(2) / 30)
    assert (share > 0.6 * AREA[0]).all() and (share < 1.3 * AREA[1]).all()
    assert (patch.sum((2, 3)) == patch.any(3).sum(2) * patch.any(2).sum(2)).all(), "a rectangle"
    up = (painted == search.high[rows].unsqueeze(1)).all(2) & patch
    down = (painted == search.low[rows].unsqueeze(1)).all(2) & patch
    assert ((up.sum((2, 3)) == patch.sum((2, 3))) | (down.sum((2, 3)) == patch.sum((2, 3)))).all(), "one end"
    assert 60 < up.any(3).any(2).sum(1)[0] < 140 and patch.any(1).float().mean() > 0.9, "either end, anywhere"
    assert not torch.equal(patch[0], patch[1]) and not torch.equal(
        patch, (search._painted(rows, 8) != x[rows, None]).any(2)
    )


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.GELU(), nn.ReLU6(), nn.Sigmoid(), nn.InstanceNorm2d(1)], ids=str)
def test_a_network_that_is_not_of_relus_is_refused_and_searched_without_programmes(layer):
    model = nn.Sequential(Times12(), layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES)).eval()
    x, y = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    model(x)
    few = {"starts": 1, "chains": 1, "hops": 1}
    with pytest.raises(ModelError, match="networks of affine maps and ReLUs"):
        Patterns(LINF, **few)(Target(model), x, y, Noise(0, torch.arange(2)))
    found = Patterns(LINF, probes=0, **few)(Target(model), x, y, Noise(0, torch.arange(2)))
    assert LINF.contains(x, found).all() and not torch.equal(found, x)


def test_a_network_too_large_for_programmes_is_refused_in_one_pass():
    class Wide(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x.flatten(1).repeat(1, 300)).unflatten(1, (CLASSES, -1)).sum(2)

    x = torch.rand(1, 1, 500, 500)
    assert x.numel() ** 2 * 300 > MOST_ENTRIES
    target = Target(Wide().eval())
    with pytest.raises(ModelError, match=r"67,108,864 pixels times ReLUs, and the network has 18,750,000,000,000;"):
        check(target, x)
    assert target.forward_passes == 1


def test_settings_that_make_no_attack_are_refused():
    with pytest.raises(ValueError, match="works in Linf, not in L2"):
        Patterns(ThreatModel("L2", 0.5))
    for wrong in ({"starts": 0}, {"chains": 0}, {"steps": 0}, {"hops": -1}, {"probes": -1}, {"near": -0.1}):
        with pytest.raises(ValueError, match="patterns needs starts, chains and steps >= 1"):
            Patterns(LINF, **wrong)
