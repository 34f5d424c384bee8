"""SIGKILL in training and in attacking: running again ends in the same records as a run that nobody disturbed."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from methods import INNER, THREE
from safetensors.torch import save_file

from bench.ground.progress import Progress
from bench.ledger.evals import read_eval
from bench.ledger.folder import Results
from bench.ledger.runs import RunRecord, list_runs, read_run
from bench.running.train import Training
from bench.subjects import data, models, registry
from bench.subjects.catalog import Catalog
from trainers.contract import Trainer
from trainers.loop import fit
from trainers.mat import MAT
from trainers.mat_mp import MATMP
from trainers.schedule import Schedule
from trainers.validation import Split

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "bench", "run", "table2", "--images", "40"]
COMMAND += ["--set", "*-digits.schedule.epochs=3", "--set", "*-digits.inner.steps=2"]
COMMAND += ["--set", "*-digits.schedule.batch_size=128", "--set", "*-digits.schedule.validation_steps=2"]
for attack in ("pgd-100", "cw", "fog", "gabor", "elastic"):
    COMMAND += ["--set", f"{attack}-digits.steps=20"]

TABLE5 = [sys.executable, "-m", "bench", "run", "table5", "--fast", "--images", "10"]
TABLE5 += [
    part
    for key in ("epochs=1", "batch_size=256", "validation_steps=2")
    for part in ("--set", f"*-digits.schedule.{key}")
]
for attack in ("pgd-linf", "pgd-l2", "pgd-l1", "apgd-linf", "apgd-l2", "apgd-l1", "ddn", "deepfool", "msd"):
    TABLE5 += ["--set", f"{attack}-digits.steps=5"]


def start(results: Path, command: list[str] = COMMAND) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*command, "--results", str(results)], cwd=ROOT, env=environment, **quiet)


def kill_when(results: Path, pattern: str) -> None:
    """Start, wait until a file of that pattern is there, and kill without warning."""
    process = start(results)
    while not list(results.glob(pattern)):
        assert process.poll() is None, f"the run ended before it wrote {pattern}"
        time.sleep(0.01)
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


def test_a_training_that_dies_between_two_of_its_records_writes_the_others_later(tmp_path, monkeypatch):
    """Found by the test below: the table had the best networks that it wanted, and the last ones were forgotten."""
    recipe = Catalog(None, ["*-digits.schedule.epochs=1", "*-digits.inner.steps=1"]).recipe("mat-digits")
    training = Training(recipe, data.load("digits"), "cnn-small", 0, torch.device("cpu"))
    results, quiet, write = Results(tmp_path), Progress(quiet=True), registry.write_run
    best, written = training.run_ids[:2], []

    def dies_at_the_third(results: Results, record: RunRecord) -> None:
        written.append(record.run_id)
        if len(written) == 3:
            raise KeyboardInterrupt
        write(results, record)

    monkeypatch.setattr(registry, "write_run", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        training.run(results, quiet)
    assert list_runs(results) == sorted(best)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*best*")}
    monkeypatch.setattr(registry, "write_run", write)
    assert training.to_do(results, best) == [training]
    assert training.run(results, quiet) and training.to_do(results) == []
    assert list_runs(results) == sorted(training.run_ids)
    assert times and all(path.stat().st_mtime_ns == time for path, time in times.items())


def finished(results: Path) -> dict[Path, tuple[int, int]]:
    """When the files of all that is done were written, to the nanosecond, and their length."""
    done = [*results.glob("evals/*/*.parquet"), *results.glob("runs/*/*.json"), *results.glob("runs/*/*.safetensors")]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in done}


@pytest.mark.slow
def test_a_table_that_is_killed_again_and_again_loses_nothing_and_repeats_nothing(tmp_path):
    """In training and in attacking; then 1 or 2 files later each time, and at any moment after. BENCH_KILLS=100 kills a
    run of table5 so often.
    """
    kills, command = int(os.environ.get("BENCH_KILLS", "2")), TABLE5 if "BENCH_KILLS" in os.environ else COMMAND
    chance, broken = random.Random(5), tmp_path / "broken"
    assert start(tmp_path / "whole", command).wait() == 0
    if command is COMMAND:
        for pattern in ("runs/at-*/checkpoint.pt", "runs/mat-*/checkpoint.pt", "evals/mat-*/pgd*.parquet"):
            kill_when(broken, pattern)
    done, killed = finished(broken), 0
    while killed < kills:
        process, more = start(broken, command), chance.choice([1, 2])
        while process.poll() is None and len(finished(broken)) < len(done) + more:
            time.sleep(0.01)
        time.sleep(0.3 * chance.random())
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        now = finished(broken)
        assert done.items() <= now.items(), "what was done is as it was: not lost, not made again"
        done = now
        if process.returncode == 0:  # all of it: once more from the start
            assert everything(broken) == everything(tmp_path / "whole")
            shutil.rmtree(broken)
            done = {}
    assert start(broken, command).wait() == 0
    assert done.items() <= finished(broken).items()
    assert everything(broken) == everything(tmp_path / "whole")
    print(f"{killed} kills, {len(finished(broken))} files")


KILLS = 10
TINY = Schedule(epochs=4, batch_size=16, lr=0.05, kind="cyclic", augment=False, validation_steps=2)


def train_tiny(trainer: Trainer, folder: Path, steps: Any, schedule: Schedule = TINY) -> None:
    """160 digits and cnn-small, with a checkpoint after every batch; the states end in folder/*.safetensors.

    steps: a shared number that counts the batches of this process.
    """
    torch.set_num_threads(1)
    images = data.load("digits", None)
    train, validation = (
        Split(part.x[:count], part.y[:count], part.ids[:count])
        for part, count in ((images.train, 160), (images.validation, 20))
    )
    networks = [models.create("cnn-small", images.image_shape, images.classes, n) for n in range(trainer.members)]

    def count() -> None:
        steps.value += 1

    path = folder / "checkpoint.pt"
    result = fit(trainer, networks, train, validation, schedule, 0, checkpoint=path, minutes=0, on_step=count)
    for n, (best, last) in enumerate(zip(result.best, result.last, strict=True)):
        save_file(best.state, folder / f"{n}-best.safetensors")
        save_file(last.state, folder / f"{n}-last.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    "trainer", [MAT(INNER), pytest.param(MATMP(THREE[:2]), marks=pytest.mark.slow)], ids=["mat", "mat-mp"]
)
def test_ten_kills_at_random_moments_of_a_training_change_no_byte(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A fork server that has trained once (see warm_training) starts the trainings, each a process of its own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))  # where it finds that module
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["warm_training"])

    def start(folder: Path) -> tuple[Any, Any]:
        folder.mkdir(exist_ok=True)
        steps = server.Value("i", 0)
        process = server.Process(target=train_tiny, args=(trainer, folder, steps))
        process.start()
        return process, steps

    process, steps = start(tmp_path / "whole")
    while steps.value < 1 and process.is_alive():  # the server has to load first
        time.sleep(0.001)
    begun = time.monotonic()
    process.join()
    assert process.exitcode == 0 and steps.value == 40
    one_step = (time.monotonic() - begun) / 39
    chance, places = random.Random(0), []
    for _ in range(KILLS):
        process, steps = start(tmp_path / "broken")
        wanted = chance.randint(1, 2)
        while steps.value < wanted:
            assert process.is_alive(), "the training ended before it could be killed"
            time.sleep(0.001)
        time.sleep(chance.uniform(0, one_step))  # anywhere: in an attack, a step, a validation or a write
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        found = torch.load(tmp_path / "broken" / "checkpoint.pt", weights_only=True)
        places.append((len(found["history"]), found["partial"]["batches"]))
    assert places == sorted(set(places)), "each training goes on from the one before"
    assert sum(batches > 0 for _, batches in places) > KILLS / 2, "most kills are inside an epoch"
    process, _ = start(tmp_path / "broken")
    process.join()
    assert process.exitcode == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.safetensors")}
    assert len(whole) == 2 * trainer.members
    assert whole == {path.name: path.read_bytes() for path in (tmp_path / "broken").glob("*.safetensors")}
