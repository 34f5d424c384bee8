"""Salt-and-pepper noise: the search, query by query; what is cheapest in each norm; least shares; costs."""

from __future__ import annotations

import pytest
import torch
from attacking import run
from oracles import Linear, exact_margin, linear_problem, saturated_images, small_cnn

from attacks.contract import ThreatModel
from attacks.noise import Noise
from attacks.norms import distance
from attacks.salt_and_pepper import SaltAndPepper
from attacks.target import Target


def salt_and_pepper(norm="L1", **settings):
    return SaltAndPepper(ThreatModel(norm, 12), **settings)


def counted(attack, model, x, y):
    """-> (x_adv, forward passes of each image)."""
    target = Target(model).counting(len(x))
    return attack(target, x, y, Noise(0, torch.arange(len(x)))), target.passes_per_image[0]


def problem(count=10, shape=(3, 8, 8)):
    model = small_cnn().double()
    x = saturated_images(count, shape, 3).double()
    return model, x, model(x).argmax(1)


class Changed(torch.nn.Module):
    """Class 1 where at least `least` values differ from 0.4, wherever they are."""

    def __init__(self, least):
        super().__init__()
        self.least = least

    def forward(self, x):
        changed = ((x - 0.4).abs() > 1e-6).flatten(1).sum(1).to(x) - self.least + 0.5
        return torch.stack([-changed, changed], 1)


def masks(noise, step, pixels):
    """One image's mask of a step: its pixels in order, and which of them turn white."""
    order = noise.fork("order", step).uniform(pixels)[0].argsort(stable=True)
    return order, noise.fork("salt", step).uniform(pixels)[0] < 0.5


def noisy(x, order, salt, count):
    image = x.clone().flatten(1)
    image[:, order[:count]] = salt[order[:count]].to(x)
    return image.view_as(x)


def slow(model, norm, x, y, noise, queries, levels):
    """The search for one image in plain loops -> (x_adv, queries used)."""

    def fools(image):
        return int(model(image[None]).argmax()) != y

    def length(image):
        return float(distance(norm, x[None], image[None]))

    pixels = x[0].numel()
    every = torch.arange(pixels)
    single = [noisy(x, every.roll(p), torch.full((pixels,), s), 1) for p in range(pixels) for s in (False, True)]
    least = min(length(image) for image in single if not torch.equal(image, x))
    best, shortest, used = x, float("inf"), 1
    low = high = 0
    for step in range(queries - 1):
        if shortest <= least + 1e-9:
            break
        if high - low <= 1:
            low = high = 0
            order, salt = masks(noise, step, pixels)
            costs = [length(noisy(x, order, salt, c)) for c in range(1, pixels + 1)]
            count = sum(cost < shortest - 1e-9 for cost in costs)
            if shortest == float("inf"):
                count = min(count, -(-pixels * (step % levels + 1) // levels))
        else:
            count = (low + high) // 2
        image = noisy(x, order, salt, count)
        used += 1
        if fools(image):
            best, shortest, high = image, length(image), count
        elif high > 0:
            low = count
    return best, used


@pytest.mark.parametrize("norm", ["L0", "L1", "L2"])
@pytest.mark.parametrize("queries, levels", [(15, 5), (40, 40)])
def test_every_query_is_the_search(norm, queries, levels):
    model, x, y = problem(5, (3, 6, 6))
    x_adv, passes = counted(salt_and_pepper(norm, queries=queries, levels=levels), model, x, y)
    for i in range(len(x)):
        expected, used = slow(model, norm, x[i], int(y[i]), Noise(0, torch.tensor([i])), queries, levels)
        assert torch.equal(x_adv[i], expected) and passes[i] == used
    assert (x_adv != x).flatten(1).any(1).sum() >= 2, "some must be fooled"


def test_the_last_mask_fools_with_no_smaller_share():
    """The masks of a step are nested; the answer is one of them, and one pixel less of it does not fool."""
    model, x, y = problem(6, (3, 6, 6))
    x_adv = run(salt_and_pepper("L0", queries=60), model, x, y)
    found = 0
    for i in (x_adv != x).flatten(1).any(1).nonzero().flatten().tolist():
        for step in range(59):
            order, salt = masks(Noise(0, torch.tensor([i])), step, 36)
            images = torch.stack([noisy(x[i], order, salt, count) for count in range(37)])
            same = (images == x_adv[i]).flatten(1).all(1).nonzero().flatten()
            if len(same):
                least = int(same[0])  # pixels that had their value already make no difference
                assert (model(images[least - 1][None]).argmax() == y[i]).all()
                assert (model(x_adv[i : i + 1]).argmax() != y[i]).all()
                found += 1
                break
    assert found >= 3 and found == (x_adv != x).flatten(1).any(1).sum()


@pytest.mark.parametrize("least", [1, 2, 5, 13, 64])
def test_where_only_the_number_counts_the_first_mask_is_enough(least):
    """One query for each level up to the share, and a bisection."""
    x, y = torch.full((10, 1, 8, 8), 0.4), torch.zeros(10, dtype=torch.int64)
    levels = 4
    reach = -(-least // 16)  # 16 pixels a level
    queries = 1 + reach + (16 * reach - 1).bit_length()
    x_adv = run(salt_and_pepper("L0", queries=queries, levels=levels), Changed(least).eval(), x, y)
    assert (distance("L0", x, x_adv) == least).all()


def test_all_channels_of_a_pixel_change_together_and_only_to_black_or_white():
    model, x, y = problem()
    x = x.clamp(0.1, 0.9)
    y = model(x).argmax(1)
    x_adv = run(salt_and_pepper(queries=60), model, x, y)
    changed = x_adv != x
    assert changed.any() and (changed.all(1) == changed.any(1)).all()
    salt, pepper = (((x_adv == value) | ~changed).all(1) & changed.any(1) for value in (1, 0))
    assert (salt ^ pepper)[changed.any(1)].all() and salt.any() and pepper.any()


def test_the_norm_decides_which_image_is_closest():
    """Any 3 values fool. Black costs 0.1 here and white 0.9 in L1; both cost 1 in L0. 3 black ones are soon found."""
    x, y = torch.full((4, 1, 3, 3), 0.1), torch.zeros(4, dtype=torch.int64)

    class Three(Changed):
        def forward(self, images):
            return super().forward(images + 0.3)

    found = {n: run(salt_and_pepper(n, queries=300), Three(3).eval(), x, y) for n in ("L0", "L1", "L2")}
    for norm, best in (("L0", 3.0), ("L1", 0.3), ("L2", 0.03**0.5)):
        assert (distance(norm, x, found[norm]) - best).abs().max() < 1e-6
    assert (distance("L1", x, found["L0"]) > 1).any()


def test_the_single_pixel_that_flips_a_linear_model_is_found_and_ends_the_search():
    """L1 distance 0.3 to black; every other single pixel changes nothing."""
    weight = torch.zeros(2, 9)
    weight[1, 4] = -1
    model = Linear(weight, torch.tensor([-0.1, 0.0])).eval()  # class 1 where the middle is below 0.1
    x, y = torch.full((8, 1, 3, 3), 0.3), torch.zeros(8, dtype=torch.int64)
    x_adv, passes = counted(salt_and_pepper(queries=2000, levels=9), model, x, y)
    assert ((x_adv != x).flatten(1).sum(1) == 1).all() and (x_adv[:, 0, 1, 1] == 0).all()
    assert (passes < 2000).all() and len(passes.unique()) > 1


def test_no_answer_is_closer_than_the_fewest_values_of_a_linear_model():
    model, x, y = linear_problem(3, (1, 8, 8), 1)
    for norm in ("L0", "L1"):
        least = torch.tensor([exact_margin(norm, model, image, int(k)) for image, k in zip(x, y, strict=True)])
        few, many = (distance(norm, x, run(salt_and_pepper(norm, queries=q), model, x, y)) for q in (60, 400))
        assert (least <= many).all() and (many <= few).all() and (many < few).any()


@pytest.mark.parametrize("queries", [50, 77, 200])
def test_queries_are_kept_and_an_image_that_nothing_fools_costs_them_all(queries):
    model, x, y = linear_problem(3, (1, 8, 8), 1)
    _, passes = counted(salt_and_pepper(queries=queries), model, x, y)
    assert passes.max() == queries
    stuck = Linear(torch.zeros(3, 64), torch.tensor([1.0, 0, 0])).eval()
    x_adv, passes = counted(salt_and_pepper(queries=queries), stuck, x, torch.zeros_like(y))
    assert torch.equal(x_adv, x) and (passes == queries).all()


def test_wrong_images_cost_one_look():
    model, x, y = problem()
    y = torch.where(torch.arange(10) < 3, (y + 1) % 10, y)
    x_adv, passes = counted(salt_and_pepper(queries=60), model, x, y)
    assert torch.equal(x_adv[:3], x[:3]) and (passes[:3] == 1).all() and (passes[3:] > 1).all()


def test_an_image_does_not_see_the_others():
    model, x, y = problem(6, (3, 6, 6))
    attack = salt_and_pepper(queries=80)
    whole = run(attack, model, x, y)
    for size in (1, 5):
        assert torch.equal(whole, run(attack, model, x, y, batch_size=size))
    order = torch.arange(5, -1, -1)
    assert torch.equal(whole[order], attack(Target(model), x[order], y[order], Noise(0, order)))
    assert not torch.equal(whole, run(attack, model, x, y, seed=1))


@pytest.mark.parametrize(
    "norm, settings, message",
    [
        ("Linf", {}, "not in Linf"),
        ("L1", {"queries": 0}, "queries = 0"),
        ("L1", {"levels": 0}, "levels = 0"),
        ("L1", {"queries": 10, "levels": 11}, "levels = 11"),
    ],
)
def test_bad_settings_are_refused(norm, settings, message):
    with pytest.raises(ValueError, match=message):
        SaltAndPepper(ThreatModel(norm, 1), **settings)
