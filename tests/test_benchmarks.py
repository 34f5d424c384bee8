"""The scripts in benchmarks/ run: they use the suite as anybody would, and no change of it may leave them behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from slowly import slow

SCRIPTS = {
    "train_speed": (
        "--images 16 --batch 8 --steps 1 --repeats 1 --methods at,dd,regmix".split(),
        ["at ", "dd ", "regmix ", "AT as published"],
    ),
    "step_speed": (
        [
            "--levers",
            "none,bf16",
            "--before",
            str(Path(__file__).parents[1]),
            *"--arch cnn-a --batch 4 --inner 1 --turns 1 --methods at".split(),
        ],
        ["AT, before", "AT, none", "AT, bf16", "AT, bare"],
    ),
    "attack_optimality": (
        "--arch cnn-a --images 4 --queries 100 --train-images 64 --norms L0 --data-dir=".split(),
        ["ours: sigma-zero", "ours: pointwise", "foolbox: FMN"],
    ),
    "null_experiment": ("--trials 20 --pairs 2".split(), ["McNemar"]),
}

SLOW = ("attack_optimality", "step_speed", "train_speed")


@pytest.mark.parametrize("name", [*(name for name in SCRIPTS if name not in SLOW), *slow(SLOW)])
def test_a_benchmark_runs_and_prints_its_rows(name):
    options, expected = SCRIPTS[name]
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert ran.returncode == 0, ran.stderr
    for row in expected:
        assert row in ran.stdout


@pytest.mark.slow
def test_the_speed_of_attacks_runs_for_all_of_them():
    for library in ("foolbox", "torchattacks"):
        pytest.importorskip(library)
    script = Path(__file__).parents[1] / "benchmarks" / "attack_speed.py"
    options = "--images 4 --steps 2 --repeats 1 --train-images 64 --arch cnn-a --data-dir=".split()
    ran = subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "bare passes" in ran.stdout and "foolbox" in ran.stdout


def test_optimality_is_that_of_the_paper():
    """The best has 1, one that finds nothing 0, and one that is half way between them a half."""
    from benchmarks.attack_optimality import optimality

    best = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert optimality(best, best) == 1.0 and optimality(torch.full((4,), torch.inf), best) == 0.0
    assert optimality(torch.tensor([2.5, 3.0, 3.5, 4.0]), best) == 0.5
    assert optimality(torch.tensor([1.0, 2.0, 3.0, 9.0]), best) == 1.0, "beyond the best attack's last image all is one"
