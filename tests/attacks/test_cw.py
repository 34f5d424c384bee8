"""C&W in Linf: exact margins, saturated pixels included; the line search, step by step; best iterate; batches."""

from __future__ import annotations

import pytest
import torch
from attacking import run
from oracles import exact_margin, linear_problem, saturated_images, small_cnn
from slowly import slow

from attacks.contract import ThreatModel
from attacks.cw import CarliniWagnerLinf
from attacks.losses import margin
from attacks.noise import Noise
from attacks.target import Target
from bench.subjects.fingerprint import fingerprint


class Scaled(torch.nn.Module):
    """Logits of a model times a power of two, which is exact in floating point."""

    def __init__(self, model, factor):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x):
        return self.model(x) * self.factor


def cw(eps, **settings):
    return CarliniWagnerLinf(ThreatModel("Linf", eps), **settings)


def problem(count=40):
    model = small_cnn().double()
    x = saturated_images(count, (3, 12, 12), 3).double()
    return model, x, model(x).argmax(1)


def broken(classes, shape, seed, share, **settings):
    """[images] bool on a linear model: is each image fooled at `share` of its exact margin in the box?"""
    model, x, y = linear_problem(classes, shape, seed)
    fooled = []
    for image, label in zip(x.split(1), y.split(1), strict=True):
        eps = exact_margin("Linf", model, image[0], int(label))
        if share * eps <= 1:
            fooled.append(model(run(cw(share * eps, **settings), model, image, label)).argmax(1).ne(label).item())
    assert len(fooled) >= 8
    return torch.tensor(fooled)


@pytest.mark.parametrize(
    "classes, shape, settings",
    [
        (2, (1, 5, 5), {}),
        (2, (3, 8, 8), {}),
        *slow([(6, (3, 4, 4), {"targets": 5}), (3, (3, 8, 8), {"targets": 2})]),
    ],
)
def test_linear_margin_is_met_within_one_percent(classes, shape, settings):
    for seed in range(3):
        assert broken(classes, shape, seed, 1.01, **settings).all()
        assert not broken(classes, shape, seed, 0.99, **settings).any()


def test_images_of_only_0_and_1_are_attacked():
    """Every pixel is saturated; starting them at the wall, as the original does, leaves them there."""
    model, x, _ = linear_problem(2, (1, 8, 8), 3)
    x = x.round()
    y = model(x).argmax(1)
    fooled = {0.99: 0, 0.999999: 0}
    for image, label in zip(x.split(1), y.split(1), strict=True):
        eps = 1.05 * exact_margin("Linf", model, image[0], int(label))
        for edge in fooled:
            attack = CarliniWagnerLinf(ThreatModel("Linf", eps), edge=edge)
            fooled[edge] += int(model(run(attack, model, image, label)).argmax(1) != label)
    assert fooled[0.99] == len(x) and fooled[0.999999] < len(x)


def slow(model, x, y, eps, steps, step=0.01, edge=0.9):
    """The rule for one image in plain loops -> the last iterate."""
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)

    def image(w):
        return low + (high - low) * (w.tanh() + 1) / 2

    def value_at(w):
        logits = model(image(w)[None])[0]
        return max(logits[k] for k in range(len(logits)) if k != y) - logits[y]

    w = torch.atanh((2 * (x - low) / (high - low) - 1).clamp(-edge, edge))
    value = value_at(w)
    for _ in range(steps):
        variable = w.clone().requires_grad_(True)
        (grad,) = torch.autograd.grad(value_at(variable), variable)
        grad, first = grad / grad.abs().max(), value
        factor = 2 if value_at(w + step * grad) > first else 0.5
        lengths = [step * factor**k for k in range(6)]
        values = [value_at(w + length * grad) for length in lengths]
        if factor == 2:
            last = next((k for k in range(1, 6) if values[k - 1] > 0 or values[k] <= values[k - 1]), 6) - 1
        else:
            last = next((k for k in range(6) if values[k] > first), None)
        step = lengths[5 if last is None else last]
        if last is not None:
            w, value = w + step * grad, values[last]
        if value > 0:
            break
    return image(w).detach()


@pytest.mark.parametrize("eps, first", [(0.01, 0.01), (0.03, 0.01), (0.03, 8.0)])
def test_every_iteration_is_the_line_search(eps, first):
    model, x, y = problem(8)
    for steps in (1, 2, 4):
        found = run(cw(eps, steps=steps, step=first), model, x, y)
        expected = torch.stack([slow(model, x[i], int(y[i]), eps, steps, first) for i in range(len(x))])
        best = margin(model(expected), y) > margin(model(x), y)
        assert best.any()
        assert (found - torch.where(best[:, None, None, None], expected, x)).abs().max() < 1e-9


@pytest.mark.parametrize("eps", [0.0, 0.003, 0.03, 0.4, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stays_in_its_ball_and_leaves_no_trace(eps, dtype):
    model, x, y = problem()
    model, x = model.to(dtype), x.to(dtype)
    before, state = fingerprint(model), torch.random.get_rng_state()
    x_adv = run(cw(eps, restarts=2), model, x, y)
    assert ThreatModel("Linf", eps).contains(x, x_adv).all() and x_adv.dtype == dtype
    assert fingerprint(model) == before and torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
def test_results_do_not_depend_on_batch_size_or_order():
    model, x, y = problem()
    attack = cw(0.03, restarts=2)
    first = run(attack, model, x, y, 1000)
    fooled = model(first).argmax(1) != y
    assert 0 < fooled.sum() < len(x), "the sample must hold both kinds"
    for size in (1, 7, 64):
        assert torch.allclose(first, run(attack, model, x, y, size), atol=1e-9)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(first[order], run(attack, model, x[order], y[order], 7, ids=order), atol=1e-9)
    assert torch.equal(first, run(attack, model, x, y, 1000))


@pytest.mark.slow
def test_the_margin_never_falls_and_restarts_only_add():
    model, x, y = problem()
    clean = margin(model(x), y)
    once, more = (margin(model(run(cw(0.03, restarts=r), model, x, y)), y) for r in (1, 6))
    assert (once >= clean).all() and (once > clean).any()
    left = once <= 0
    assert (more[left] >= once[left]).all() and (more[left] > once[left]).any()
    assert torch.equal(more[~left], once[~left])
    assert not torch.equal(run(cw(0.03, restarts=6), model, x, y), run(cw(0.03, restarts=6), model, x, y, seed=1))


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])
def test_scaling_the_logits_changes_nothing(factor):
    """In float32, where the plain gradient times 0.01 is lost to rounding on large or small logits."""
    model, x, y = problem()
    model, x = model.float(), x.float()
    found = run(cw(0.03), model, x, y)
    assert (model(found).argmax(1) != y).any()
    assert torch.equal(found, run(cw(0.03), Scaled(model, factor).eval(), x, y))


def test_images_leave_when_fooled_or_out_of_patience():
    model, x, y = problem()
    target = Target(model).counting(len(x))
    x_adv = cw(0.03, patience=2)(target, x, y, Noise(0, torch.arange(len(x))))
    robust = model(x_adv).argmax(1) == y
    backward = target.passes_per_image[1]
    assert 0 < robust.sum() < len(x)
    assert backward[robust].min() >= 2 and backward.max() < 100
    assert backward[~robust].double().mean() < backward[robust].double().mean()
    assert (target.passes_per_image[0] <= 3 + 7 * backward).all(), "at most 1 + 5 trials an iteration"


def test_kappa_is_the_margin_that_counts_as_done():
    model, x, y = problem()
    plain, wide = (margin(model(run(cw(0.05, kappa=k), model, x, y)), y) for k in (0.0, 0.1))
    assert ((plain > 0) & (plain < 0.1)).any(), "without kappa some stop short of it"
    assert (wide >= 0.1).sum() > (plain >= 0.1).sum()
    assert ((wide > 0) >= (plain > 0)).all()


@pytest.mark.parametrize(
    "threat, settings, message",
    [
        (ThreatModel("L2", 1.0), {}, "works in Linf"),
        (ThreatModel("Linf", 0.1), {"steps": 0}, "steps"),
        (ThreatModel("Linf", 0.1), {"edge": 1.0}, "edge < 1"),
        (ThreatModel("Linf", 0.1), {"kappa": -1.0}, "kappa"),
    ],
)
def test_bad_settings_are_refused(threat, settings, message):
    with pytest.raises(ValueError, match=message):
        CarliniWagnerLinf(threat, **settings)


def test_no_images_at_all():
    model, x, y = problem(2)
    assert run(cw(0.03), model, x[:0], y[:0]).shape == (0, 3, 12, 12)
