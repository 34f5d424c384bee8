"""SIGKILL in training and in attacking: running again ends in the same records as a run that nobody disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.records import Results, list_runs, read_eval, read_run

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "bench", "run", "table2", "--images", "40"]
COMMAND += ["--set", "*-digits.schedule.epochs=3", "--set", "*-digits.inner.steps=2"]
COMMAND += [part for name in ("pgd-100", "fog", "gabor", "elastic") for part in ("--set", f"{name}-digits.steps=20")]


def start(results: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*COMMAND, "--results", str(results)], cwd=ROOT, env=environment, **quiet)


def kill_when(results: Path, pattern: str) -> None:
    """Start, wait until a file of that pattern is there, and kill without warning."""
    process = start(results)
    while not list(results.glob(pattern)):
        assert process.poll() is None, f"the run ended before it wrote {pattern}"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def everything(results: Path) -> dict[str, object]:
    """What a run is about: weights and verdicts, without times."""
    folder = Results(results)
    found: dict[str, object] = {run_id: read_run(folder, run_id).weights_sha256 for run_id in list_runs(folder)}
    for path in sorted((results / "evals").glob("*/*.parquet")):
        record = read_eval(folder, path.parent.name, path.stem)
        found[f"{path.parent.name}/{path.stem}"] = record.images.to_csv()
    return found


def test_a_killed_run_ends_like_an_undisturbed_one(tmp_path):
    assert start(tmp_path / "whole").wait() == 0
    broken = tmp_path / "broken"
    for pattern in ("runs/at-*/checkpoint.pt", "runs/mat-*/checkpoint.pt", "evals/mat-*/pgd*.parquet"):
        kill_when(broken, pattern)
    assert start(broken).wait() == 0
    assert everything(broken) == everything(tmp_path / "whole")
