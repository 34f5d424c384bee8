"""The contract, over every entry of ATTACKS: what an attack may change and what it promises."""

from __future__ import annotations

import pytest
import torch
from oracles import linear_problem, saturated_images, small_cnn

from attacks import ATTACKS
from attacks.contract import ThreatModel
from attacks.noise import Noise
from attacks.target import Target
from bench.evaluate import check_contract, fingerprint

GRADIENT = {"steps": 6, "step": 0.02}
SETTINGS = {
    "fgsm": [
        {"threat": ThreatModel(n, e), "start": s}
        for n, e in (("Linf", 0.05), ("L2", 0.5), ("L1", 3.0))
        for s in ("none", "uniform")
    ],
    "pgd": [
        {"threat": ThreatModel("Linf", 0.05), "restarts": 2, **GRADIENT},
        {"threat": ThreatModel("L2", 0.5), "steps": 6, "step": 0.2, "loss": "margin"},
        {"threat": ThreatModel("L1", 4.0), "steps": 6, "step": 1.0, "stop": "last"},
        {"threat": ThreatModel("Linf", 0.05), "targets": 9, "loss": "bce", **GRADIENT},
    ],
    "mim": [{"threat": ThreatModel("Linf", 0.05), **GRADIENT}],
    "cw": [{"threat": ThreatModel("Linf", 0.05), "steps": 8}],
    "fog": [{"threat": ThreatModel("own", 2000), "steps": 8}],
    "gabor": [{"threat": ThreatModel("own", 25), "steps": 4}],
    "elastic": [{"threat": ThreatModel("own", 0.5), "steps": 4, "kernel": 5, "std": 1.0}],
}
CASES = [
    pytest.param(ATTACKS[name](**settings), id=f"{name}-{index}")
    for name in ATTACKS
    for index, settings in enumerate(SETTINGS[name])
]


def run(attack, model, x, y, ids=None, seed=0, batch_size=None):
    ids = torch.arange(len(x)) if ids is None else ids
    return attack(Target(model, batch_size), x, y, Noise(seed, ids))


def problem(shape=(3, 12, 12), classes=10, count=24):
    model = small_cnn(shape[0], classes).double()
    x = saturated_images(count, shape, 3).double()
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("attack", CASES)
def test_stays_in_its_threat_model_and_does_something(attack):
    model, x, y = problem()
    x_adv = run(attack, model, x, y)
    check_contract("attack", attack, x, x_adv)
    assert (model(x_adv).argmax(1) != y).any(), "an attack that fools nobody proves nothing here"


@pytest.mark.parametrize("attack", CASES)
def test_touches_neither_the_model_nor_its_input_nor_the_global_random_state(attack):
    model, x, y = problem()
    before, state, copies = fingerprint(model), torch.random.get_rng_state(), (x.clone(), y.clone())
    run(attack, model, x, y)
    assert fingerprint(model) == before
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(x, copies[0]) and torch.equal(y, copies[1])


@pytest.mark.parametrize("attack", CASES)
def test_an_image_does_not_see_the_others(attack):
    """Same seed, same result; batches of 5 and 100; shuffled; alone."""
    model, x, y = problem()
    whole = run(attack, model, x, y)
    assert torch.equal(whole, run(attack, model, x, y))
    assert torch.allclose(whole, run(attack, model, x, y, batch_size=5), atol=1e-7)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    assert torch.allclose(whole[order], run(attack, model, x[order], y[order], ids=order), atol=1e-7)
    assert torch.allclose(whole[3:4], run(attack, model, x[3:4], y[3:4], ids=order.new_tensor([3])), atol=1e-7)


@pytest.mark.parametrize("attack", CASES)
@pytest.mark.parametrize("shape, classes", [((1, 8, 8), 2), ((3, 32, 32), 1000), ((3, 64, 64), 10)])
def test_other_sizes_and_class_counts(attack, shape, classes):
    model, x, y = problem(shape, classes, count=3)
    check_contract("attack", attack, x, run(attack, model, x, y))


@pytest.mark.parametrize("attack", CASES)
def test_images_that_cannot_be_fooled_and_no_images_at_all_are_no_exception(attack):
    model, x, y = linear_problem(3, (1, 8, 8), 1)
    with torch.no_grad():
        model.weight.mul_(0)
        model.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    y = torch.zeros_like(y)
    x_adv = run(attack, model, x, y)
    check_contract("attack", attack, x, x_adv)
    assert len(run(attack, model, x[:0], y[:0])) == 0


def test_every_attack_is_tested_here_and_has_a_version():
    assert set(SETTINGS) >= set(ATTACKS)
    assert all(ATTACKS[name](**SETTINGS[name][0]).version >= 1 for name in ATTACKS)
