"""The contract, over every entry of ATTACKS: what an attack may change and what it promises."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from slowly import slow

from attacks import ATTACKS
from attacks.contract import ThreatModel
from bench.contracts.attacks import LAWS

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
        {"threat": ThreatModel("Linf", 0.05), "steps": 10, "targets": 2, "order": "nearest"},
    ],
    "pma": [{"threat": ThreatModel(n, e), "steps": 6} for n, e in (("Linf", 0.05), ("L2", 0.5))],
    "a3": [{"threat": ThreatModel(n, e), "steps": 4, "rounds": 3} for n, e in (("Linf", 0.05), ("L2", 0.5))],
    "strong": [{"threat": ThreatModel(n, e)} for n, e in (("Linf", 0.05), ("L2", 0.5), ("L1", 6.0))],
    "patterns": [{"threat": ThreatModel("Linf", 0.05), "starts": 1, "chains": 2, "hops": 2, "steps": 3, "probes": 0}],
    "cw": [{"threat": ThreatModel("Linf", 0.05), "steps": 8}],
    "cw-l2": [{"threat": ThreatModel("L2", 0.5), "steps": 12, "lr": 0.1, "initial_c": 1.0, "binary_search_steps": 2}],
    "ddn": [{"threat": ThreatModel("L2", 0.5), "steps": 8, "levels": levels} for levels in (0, 256)],
    "deepfool": [{"threat": ThreatModel("L2", 0.5), "steps": 8}],
    "fmn": [{"threat": ThreatModel("Linf", 0.05), "steps": 8}],
    "sigma-zero": [{"threat": ThreatModel("L0", 5), "steps": 8, "restore": restore} for restore in (0, 4)],
    "fog": [
        {"threat": ThreatModel("own", 2000), "steps": 8, "decay": decay, "normalization": normalization}
        for decay, normalization in ((1.0, "global"), (2.0, "image"))
    ],
    "gabor": [{"threat": ThreatModel("own", 25), "steps": 4}],
    "jpeg": [{"threat": ThreatModel("own", 8), "steps": 6}],
    "elastic": [{"threat": ThreatModel("own", 0.5), "steps": 4, "kernel": 5, "std": 1.0}],
    "blur": [{"threat": ThreatModel("own", 1), "steps": 3, "kernel": 3, "std": 2.0, "share_kernel": 1}],
    "fbm": [{"threat": ThreatModel("own", 0.3), "steps": 3, "cells": 2}],
    "glitch": [{"threat": ThreatModel("own", 0.2), "steps": 3, "lines": 5}],
    "hsv": [{"threat": ThreatModel("own", 0.1), "steps": 3}],
    "kaleidoscope": [{"threat": ThreatModel("own", 0.2), "steps": 3, "size": 2, "edge": 3}],
    "pixel": [{"threat": ThreatModel("own", 3), "steps": 3, "size": 3}],
    "snow": [{"threat": ThreatModel("own", 5), "steps": 3, "grid": 4}],
    "whirlpool": [{"threat": ThreatModel("own", 5), "steps": 4, "radius": 2.0, "centres": True}],
    "wood": [{"threat": ThreatModel("own", 0.2), "steps": 6, "resolution": 6, "sharpness": 2.0}],
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
    "corruption": [{"name": "impulse-noise", "severity": 5}],
    "pyautoattack": [{"threat": ThreatModel(norm, eps)} for norm, eps in (("Linf", 0.05), ("L2", 1.0), ("L1", 10.0))],
}
LONG = ("strong", "foolbox", "pyautoattack", "pointwise")  # of these the first is enough for every day
EVERY = [
    (name, index, pytest.param(ATTACKS[name](**settings), id=f"{name}-{index}"))
    for name in ATTACKS
    for index, settings in enumerate(SETTINGS[name])
]
WAITS = [case for name, index, case in EVERY if index and name in LONG]
CASES = [*(case for *_, case in EVERY if case not in WAITS), *slow(WAITS)]


@pytest.mark.parametrize("attack", CASES)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_an_attack_keeps_its_promises(law, attack):
    law(attack)


def test_the_docs_list_every_attack_of_the_suite_and_no_other():
    root = Path(__file__).parents[2]
    suite = tomllib.loads((root / "attacks" / "suite.toml").read_text())
    suites, corruptions = suite.pop("suites"), suite.pop("corruptions")
    section = (root / "docs" / "attacks.md").read_text().split("## Every attack")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = {name for name in suite if not name.endswith("-digits")} | {"c-NAME-SEVERITY"}
    assert set(re.findall("`([^`]+)`", " ".join(rows))) == listed
    page = (root / "docs" / "corruptions.md").read_text()
    assert all(f"`{name}`" in page for name in corruptions["names"])
    assert all(f"`{name}`" in (root / "docs" / "attacks.md").read_text() for name in suites)


def test_every_attack_is_tested_here_and_has_a_version():
    assert set(SETTINGS) >= set(ATTACKS)
    assert all(ATTACKS[name](**SETTINGS[name][0]).version >= 1 for name in ATTACKS)
