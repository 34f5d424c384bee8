"""The boundary attack: its steps by geometry; exact distances, saturated pixels included; who is left alone; costs."""

from __future__ import annotations

import pytest
import torch
from attacking import run
from oracles import TwoPieces, exact_margin, linear_problem, saturated_images, small_cnn, smallest

from attacks.boundary import Boundary, proposals
from attacks.contract import ThreatModel
from attacks.noise import Noise
from attacks.norms import distance
from attacks.target import Target


def boundary(**settings):
    return Boundary(ThreatModel("L2", 0.5), **settings)


def counted(attack, model, x, y):
    """-> (x_adv, forward passes of each image)."""
    target = Target(model).counting(len(x))
    return attack(target, x, y, Noise(0, torch.arange(len(x)))), target.passes_per_image[0]


def through(model):
    """A list that fills with the batches of images that go through the model."""
    seen = []
    model.register_forward_hook(lambda module, given, logits: seen.append(given[0].clone()))
    return seen


# --- one step ---------------------------------------------------------------------------------------------------------


def test_candidates_are_the_geometry_of_the_paper():
    """Orthogonal, back onto the sphere, inwards: where no value meets 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    x = torch.full((4, 3, 5, 5), 0.5, dtype=torch.float64)
    x_adv = x + torch.rand(x.shape, generator=generator, dtype=torch.float64) / 10
    direction = torch.randn(4, 6, 3, 5, 5, generator=generator, dtype=torch.float64)
    length = torch.tensor([0.01, 0.1, 0.5, 1.0], dtype=torch.float64)
    found = proposals(x, x_adv, direction, length)
    for i in range(4):
        away = (x_adv[i] - x[i]).flatten()
        radius = away.norm()
        for k in range(6):
            d = direction[i, k].flatten()
            d = d - away * (d @ away) / radius**2
            point = away + length[i] * radius * d / d.norm()
            point = point / point.norm() * radius * (1 - length[i] ** 2 / 2)
            assert (found[i, k].flatten() - x[i].flatten() - point).abs().max() < 1e-12


@pytest.mark.parametrize("length", [0.001, 0.1, 1.0])
def test_candidates_stay_in_the_box_and_are_never_farther(length):
    x, x_adv = saturated_images(8, (3, 6, 6), 1), saturated_images(8, (3, 6, 6), 2).round()
    direction = torch.randn(8, 4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    found = proposals(x, x_adv, direction, torch.full((8,), length))
    assert found.min() >= 0 and found.max() <= 1
    far = (found - x[:, None]).flatten(2).norm(dim=2)
    assert (far <= (x_adv - x).flatten(1).norm(dim=1)[:, None] * (1 - length**2 / 2) * (1 + 1e-6)).all()


def test_candidates_come_in_opposite_pairs():
    model, x, y = linear_problem(2, (1, 5, 5), 0)
    seen = through(model)
    run(boundary(steps=1, candidates=4), model, x[:1], y[:1])
    first, second, third, fourth = seen[-1].double() - x[:1].double()
    start = seen[-1].double().mean(0) - x[0].double()  # the pairs' parts across cancel where nothing is clipped
    assert len(seen[-1]) == 4
    for one, other in ((first, third), (second, fourth)):
        across = [d - start * (d * start).sum() / start.square().sum() for d in (one, other)]
        cosine = (across[0] * across[1]).sum() / across[0].norm() / across[1].norm()
        assert cosine < -0.5


# --- exact answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_the_distance_to_a_half_space_is_met_within_one_percent(seed):
    """At the default budget."""
    model, x, y = linear_problem(2, (1, 5, 5), seed)
    x_adv = run(boundary(), model, x, y)
    least = torch.tensor([exact_margin("L2", model, image, int(label)) for image, label in zip(x, y, strict=True)])
    ratio = distance("L2", x, x_adv) / least
    assert (model(x_adv).argmax(1) != y).all()
    assert (ratio > 0.9999).all() and (ratio < 1.01).all()


@pytest.mark.slow
def test_with_more_classes_it_ends_at_the_nearest_point_of_one_of_them():
    """Not always of the nearest one: that is what restarts are for. 1000 steps."""
    model, x, y = linear_problem(6, (3, 4, 4), 0)
    weight = model.weight.detach()
    least = torch.tensor([exact_margin("L2", model, image, int(label)) for image, label in zip(x, y, strict=True)])
    missed = []
    for restarts in (1, 3):
        x_adv = run(boundary(steps=1000, restarts=restarts), model, x, y)
        found, ended = distance("L2", x, x_adv), model(x_adv).argmax(1)
        assert (ended != y).all() and (found > 0.9999 * least).all()
        for i, (k, label) in enumerate(zip(ended.tolist(), y.tolist(), strict=True)):
            rise = weight[k] - weight[label]
            there = smallest("L2", x[i].flatten(), rise, -float(rise.double() @ x[i].flatten().double()))
            assert found[i] < 1.03 * there
        missed.append(int((found > 1.1 * least).sum()))
    assert missed[0] > 0 == missed[1]


def test_on_two_linear_pieces_it_ends_at_the_nearest_point_of_one_of_them():
    """The fooling images are a union of two half spaces, and a walk stays in the one where it started."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(2, 16, generator=generator) / 4
    x = saturated_images(8, (1, 4, 4), 9)
    model = TwoPieces(weight, -(x.flatten(1) @ weight.t()).amax(0) - 0.1).eval()
    found = distance("L2", x, run(boundary(), model, x, torch.zeros(8, dtype=torch.int64)))
    needs = -(x.flatten(1).double() @ weight.double().t() + model.bias.detach().double())
    near = [[smallest("L2", x[i].flatten(), weight[k], float(needs[i, k])) for k in range(2)] for i in range(8)]
    pieces = torch.tensor(near)
    assert (found > 0.9999 * pieces.amin(1)).all()
    assert ((found[:, None] / pieces - 1).abs().amin(1) < 0.01).all()
    assert 0 < (found < 1.01 * pieces.amin(1)).sum() < 8, "both must occur"


def test_more_steps_and_more_starts_are_never_farther():
    model, x, y = linear_problem(10, (1, 8, 8), 0)
    lengths = [distance("L2", x, run(boundary(steps=s, restarts=r), model, x, y)) for s, r in ((50, 1), (300, 1))]
    assert (lengths[1] <= lengths[0]).all() and lengths[1].median() < 0.8 * lengths[0].median()
    assert (distance("L2", x, run(boundary(steps=300, restarts=2), model, x, y)) <= lengths[1]).all()


# --- starts -----------------------------------------------------------------------------------------------------------


class Grainy(torch.nn.Module):
    """Class 1 where a quarter of the image is white and the rest black; class 0 for fine noise and all else."""

    def forward(self, x):
        halves = torch.nn.functional.avg_pool2d(x.mean(1, keepdim=True), x.shape[-1] // 2).flatten(1)
        rise = halves.amax(1) - halves.amin(1) - 0.9
        return torch.stack([-rise, rise], 1)


def test_coarse_noise_fools_where_fine_noise_does_not():
    x, y = saturated_images(6, (3, 16, 16), 0), torch.zeros(6, dtype=torch.int64)
    fine = Noise(0, torch.arange(6)).uniform(3, 16, 16).round()
    assert (Grainy()(fine).argmax(1) == 0).all()
    x_adv = run(boundary(steps=20), Grainy().eval(), x, y)
    assert (Grainy()(x_adv).argmax(1) == 1).all()


def test_an_image_without_a_start_comes_back_unchanged_and_stops_nobody():
    """The third has class 0 whatever is done; a start costs at most its draws."""

    class Stubborn(torch.nn.Module):
        def forward(self, x):
            rise = x.flatten(1).mean(1) - 0.4
            return torch.stack([-rise, rise, torch.full_like(rise, -1)], 1)

    x = torch.full((3, 1, 6, 6), 0.1)
    y = torch.tensor([0, 0, 0])
    free, _ = counted(boundary(steps=50), Stubborn().eval(), x, y)
    assert (Stubborn()(free).argmax(1) == 1).all()
    stuck = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3)).eval()
    with torch.no_grad():
        stuck[1].weight.zero_()
        stuck[1].bias.copy_(torch.tensor([1.0, 0, 0]))
    x_adv, passes = counted(boundary(draws=30), stuck, x, y)
    assert torch.equal(x_adv, x) and (passes == 1 + 30).all()


# --- who sees what ----------------------------------------------------------------------------------------------------


def test_wrong_images_cost_one_look():
    model, x, y = linear_problem(3, (3, 8, 8), 0)
    y = torch.where(torch.arange(12) < 4, (y + 1) % 3, y)
    x_adv, passes = counted(boundary(steps=20), model, x, y)
    assert torch.equal(x_adv[:4], x[:4]) and (x_adv[4:] != x[4:]).flatten(1).any(1).all()
    assert (passes[:4] == 1).all()


@pytest.mark.parametrize("candidates", [1, 2, 5])
def test_a_step_costs_its_candidates_and_a_start_at_most_its_draws_and_ten(candidates):
    model, x, y = linear_problem(3, (3, 8, 8), 0)
    _, short = counted(boundary(steps=10, candidates=candidates), model, x, y)
    _, longer = counted(boundary(steps=25, candidates=candidates), model, x, y)
    assert (longer - short == 15 * candidates).all()
    start = short - 10 * candidates
    assert (start >= 1 + 1 + 10).all() and (start <= 1 + 100 + 10).all()


def test_an_image_leaves_when_its_steps_are_too_short_to_matter():
    model, x, y = linear_problem(2, (1, 5, 5), 0)
    _, passes = counted(boundary(steps=5000), model, x, y)
    assert (passes < 3000).all() and len(passes.unique()) > 1


@pytest.mark.slow
def test_an_image_does_not_see_the_others():
    model = small_cnn().double()
    x = saturated_images(10, (3, 12, 12), 3).double()
    y = model(x).argmax(1)
    attack = boundary(steps=40, restarts=2)
    whole = run(attack, model, x, y)
    for size in (1, 3):
        assert torch.allclose(whole, run(attack, model, x, y, batch_size=size), atol=1e-9)
    order = torch.arange(9, -1, -1)
    assert torch.allclose(whole[order], attack(Target(model), x[order], y[order], Noise(0, order)), atol=1e-9)
    assert not torch.equal(whole, run(attack, model, x, y, seed=1))


def test_float32_answers_fool_in_every_batch_size():
    model = small_cnn()
    x = saturated_images(20, (3, 12, 12), 3)
    y = model(x).argmax(1)
    x_adv = run(boundary(steps=300), model, x, y)
    for size in (1, 7, 20):
        assert (torch.cat([model(part) for part in x_adv.split(size)]).argmax(1) != y).all()


@pytest.mark.parametrize(
    "threat, settings, message",
    [
        (ThreatModel("Linf", 0.1), {}, "works in L2"),
        (ThreatModel("L2", 0.5), {"steps": 0}, "steps = 0"),
        (ThreatModel("L2", 0.5), {"candidates": 0}, "candidates = 0"),
        (ThreatModel("L2", 0.5), {"draws": 0}, "draws = 0"),
        (ThreatModel("L2", 0.5), {"restarts": 0}, "restarts = 0"),
        (ThreatModel("L2", 0.5), {"length": 2.0}, "got 2"),
        (ThreatModel("L2", 0.5), {"length": 0.0}, "got 0"),
    ],
)
def test_bad_settings_are_refused(threat, settings, message):
    with pytest.raises(ValueError, match=message):
        Boundary(threat, **settings)
