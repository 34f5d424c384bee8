"""The contract, over every entry of ATTACKS: what an attack may change and what it promises."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import torch
from attacking import run
from oracles import linear_problem, saturated_images, small_cnn

from attacks import ATTACKS
from attacks.contract import ThreatModel
from bench.judge.evaluate import check_contract
from bench.subjects.fingerprint import fingerprint

pytestmark = pytest.mark.usefixtures("short_autoattack")

GRADIENT = {"steps": 6, "step": 0.02}
HOPS = {"steps": 1, "initial_gradient_eval_steps": 20}
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
    "fab": [
        {"threat": ThreatModel(n, e), "steps": 6, "targets": 3} for n, e in (("Linf", 0.05), ("L2", 0.5), ("L1", 3))
    ],
    "autoattack": [
        {"threat": ThreatModel(n, e), "steps": 5, "targets": 2, "queries": 9} for n, e in (("Linf", 0.05), ("L2", 0.5))
    ],
    "msd": [
        {
            "threat": ThreatModel("own", 0),
            "linf": 0.05,
            "l2": 0.5,
            "l1": 4.0,
            "linf_step": 0.02,
            "l2_step": 0.2,
            "steps": 6,
        }
    ],
    "square": [
        {"threat": ThreatModel("Linf", 0.1), "queries": 40},
        {"threat": ThreatModel("L2", 1.5), "queries": 60},
    ],
    "apgd": [
        {"threat": ThreatModel("Linf", 0.05), "steps": 10, "restarts": 2},
        {"threat": ThreatModel("L2", 0.5), "steps": 10, "loss": "dlr"},
        {"threat": ThreatModel("L1", 6.0), "steps": 20, "targets": 9},
    ],
    "cw": [{"threat": ThreatModel("Linf", 0.05), "steps": 8}],
    "cw-l2": [{"threat": ThreatModel("L2", 0.5), "steps": 12, "lr": 0.1, "initial_c": 1.0, "binary_search_steps": 2}],
    "ddn": [{"threat": ThreatModel("L2", 0.5), "steps": 8, "levels": levels} for levels in (0, 256)],
    "deepfool": [{"threat": ThreatModel("L2", 0.5), "steps": 8}],
    "fog": [
        {"threat": ThreatModel("own", 2000), "steps": 8, "decay": decay, "normalization": normalization}
        for decay, normalization in ((1.0, "global"), (2.0, "image"))
    ],
    "gabor": [{"threat": ThreatModel("own", 25), "steps": 4}],
    "jpeg": [{"threat": ThreatModel("own", 8), "steps": 6}],
    "elastic": [{"threat": ThreatModel("own", 0.5), "steps": 4, "kernel": 5, "std": 1.0}],
    "salt-and-pepper": [{"threat": ThreatModel(n, 12), "queries": 60} for n in ("L1", "L0")],
    "pointwise": [{"threat": ThreatModel(n, 1), "restarts": 2, "queries": 60} for n in ("L0", "L1", "L2")],
    "gaussian-noise": [{"threat": ThreatModel("L2", 3.0), "repeats": 5}],
    "boundary": [{"threat": ThreatModel("L2", 0.5), "steps": 20, "restarts": 2, "candidates": 3}],
    "foolbox": [
        {"threat": ThreatModel("Linf", 0.05), "name": "LinfPGD", "settings": {"steps": 6, "abs_stepsize": "2/100"}},
        {"threat": ThreatModel("L2", 0.5), "name": "L2DeepFoolAttack"},
        {"threat": ThreatModel("L2", 0.5), "name": "HopSkipJumpAttack", "settings": HOPS},
    ],
    "torchattacks": [
        {"threat": ThreatModel("Linf", 0.05), "name": "PGD", "settings": {"steps": 6, "alpha": 0.02}},
        {"threat": ThreatModel("L2", 0.5), "name": "CW", "settings": {"c": 10, "steps": 10, "lr": 0.1}},
    ],
    "pyautoattack": [{"threat": ThreatModel(norm, eps)} for norm, eps in (("Linf", 0.05), ("L2", 1.0), ("L1", 10.0))],
}
CASES = [
    pytest.param(ATTACKS[name](**settings), id=f"{name}-{index}")
    for name in ATTACKS
    for index, settings in enumerate(SETTINGS[name])
]


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


def test_the_docs_list_every_attack_of_the_suite_and_no_other():
    root = Path(__file__).parents[2]
    suite = tomllib.loads((root / "attacks" / "suite.toml").read_text())
    suites = suite.pop("suites")
    section = (root / "docs" / "attacks.md").read_text().split("## Every attack")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert set(re.findall("`([^`]+)`", " ".join(rows))) == {name for name in suite if not name.endswith("-digits")}
    assert all(f"`{name}`" in (root / "docs" / "attacks.md").read_text() for name in suites)


def test_every_attack_is_tested_here_and_has_a_version():
    assert set(SETTINGS) >= set(ATTACKS)
    assert all(ATTACKS[name](**SETTINGS[name][0]).version >= 1 for name in ATTACKS)
