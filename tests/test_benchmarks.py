"""The scripts in benchmarks/ run: they use the suite as anybody would, and no change of it may leave them behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
    "null_experiment": ("--trials 20 --pairs 2".split(), ["McNemar"]),
}


@pytest.mark.parametrize("name", SCRIPTS)
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
