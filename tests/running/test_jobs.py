"""Several processes on one table: they share its work, none does another's again, and all end together."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from small_table import SMALL, TABLE, content, done

from bench.ground.events import Note
from bench.ground.locks import locked
from bench.ground.progress import Progress
from bench.ledger.folder import Results
from bench.ledger.ids import training_of
from bench.running.jobs import _Sent, fill, fitting
from bench.running.run import TableRun
from bench.running.table import Options
from trainers.at import AT

LONG = [*SMALL, "--set", "natural-digits.schedule.epochs=12"]  # so that the helper's training is met while it lasts
ASSIGNMENTS = tuple(LONG[1::2])
WAIT = 120.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.toml").write_text(TABLE)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one process."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "small.toml").write_text(TABLE)
    TableRun(str(folder / "small.toml"), options(folder)).execute(Progress(quiet=True))
    return folder / "results"


def options(folder: Path) -> Options:
    return Options(Results(folder / "results"), assignments=ASSIGNMENTS)


def until(there: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT
    while not there():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def in_first_batch(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """What this process, and no helper, does before its first batch of AT."""
    step, waiting = AT.batch_loss, [act]

    def batch_loss(self, cohort, x, y):
        if waiting:
            waiting.pop()()
        return step(self, cohort, x, y)

    monkeypatch.setattr(AT, "batch_loss", batch_loss)


@pytest.mark.slow
def test_a_helper_does_the_other_half(folder, whole, monkeypatch, capfd):
    """This process stays in its first batch until all of the other training is there, which only a helper can do."""
    evals = folder / "results" / "evals"
    in_first_batch(monkeypatch, lambda: until(lambda: len(list(evals.glob("natural-*/*.parquet"))) == 3))
    job, summary = fill(str(folder / "small.toml"), options(folder), jobs=2)
    assert (summary.trained, summary.attacked, summary.kept, summary.failures) == (2, 6, 0, [])
    assert content(job.results.root) == content(whole)
    said = capfd.readouterr().err
    assert said.count("Natural  PGD") == 1 and said.count("200 test images") == said.count("30 test images") - 1 == 0
    assert said.count(" left (") == said.count(" left") == 1, "nothing is left when its own part is done"
    again = fill(str(folder / "small.toml"), options(folder), jobs=2)[1]
    assert (again.trained, again.attacked, again.kept) == (0, 0, 6)


@pytest.mark.slow
def test_a_helper_that_dies_costs_nothing(folder, whole, monkeypatch):
    def kill() -> None:
        (helper,) = multiprocessing.active_children()
        until(lambda: list((folder / "results" / "runs").glob("natural-*/lock")))
        os.kill(helper.pid, signal.SIGKILL)
        helper.join(WAIT)

    in_first_batch(monkeypatch, kill)
    job, summary = fill(str(folder / "small.toml"), options(folder), jobs=2)
    assert (summary.trained, summary.attacked, summary.failures) == (2, 6, [])
    assert content(job.results.root) == content(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
)
def test_helpers_end_with_the_first_process_and_nothing_is_lost(folder, whole, number, code):
    """Then the same command ends in the same bits. A terminal sends Ctrl-C to all processes."""
    command = [sys.executable, "-m", "bench", "run", "small.toml", *LONG, "--jobs", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: list((folder / "results" / "runs").glob("natural-*/checkpoint.pt")) or process.poll() is not None)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, error = process.communicate(timeout=WAIT)
    assert process.returncode == code and "Traceback" not in error, error
    until(lambda: not alive(process.pid))
    assert list((folder / "results" / "runs").glob("natural-*/checkpoint.pt")), "the helper's training was stopped"
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=WAIT)
    assert ended.returncode == 0, ended.stderr
    trained, attacked, kept = done(ended.stdout)
    assert trained <= 2 and attacked + kept == 6
    assert content(folder / "results") == content(whole)


def alive(group: int) -> bool:
    """Whether any process of the group is there, but for dead ones that nobody asked after."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, 0)
        states = [Path(f"/proc/{one}/stat") for one in os.listdir("/proc") if one.isdigit()]
        fields = [read(path).rpartition(")")[2].split() for path in states]
        return any(len(one) > 2 and int(one[2]) == group and one[0] != "Z" for one in fields)
    return False


def read(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return path.read_text()
    return ""


@pytest.mark.slow
def test_a_student_waits_for_a_teacher_that_another_process_trains(tmp_path):
    """It was an error once: "its teacher is not there"."""
    spec = tmp_path / "student.toml"
    spec.write_text(
        TABLE.replace('rows = [{ label = "AT", method = "at" }', 'rows = [{ label = "ARD", method = "ard" }')
    )
    given = Options(Results(tmp_path), images=5, assignments=("*-digits.schedule.epochs=1", "*-digits.inner.steps=1"))
    job = TableRun(str(spec), given)
    (teacher,) = set(job.plan.teachers.values())
    holding = contextlib.ExitStack()
    assert holding.enter_context(locked(job.results.training(training_of(teacher)) / "lock", wait=False))

    class Watched(Progress):
        def say(self, line: str) -> None:
            if "waiting for another process, which trains trades" in line:
                holding.close()

    summary = job.execute(Watched(quiet=True))
    assert (summary.trained, summary.attacked, summary.failures) == (3, 6, [])


@pytest.mark.slow
def test_how_much_a_table_lacks_does_not_change_the_threads_of_a_process(folder, monkeypatch):
    """Sums of floats in another order have other last bits, and the records' ids are the same."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    measured = [4, 4]  # what an estimate is made with, and back
    fill(str(folder / "small.toml"), options(folder), jobs=2)
    fill(str(folder / "small.toml"), options(folder), jobs=2)
    assert used == [2, *measured, 4, 2, *measured, 4]


@pytest.mark.parametrize("arch, threads, jobs", [("cnn-small", 3, 3), ("cnn-small", 1, 1), ("resnet18", 3, 1)])
def test_small_networks_get_a_process_for_each_thread(folder, monkeypatch, arch, threads, jobs):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    job = TableRun(str(folder / "small.toml"), Options(Results(folder / "results"), arch=arch))
    assert fitting(job) == jobs


def test_a_helper_whose_first_process_is_gone_has_nobody_to_tell():
    theirs, ours = multiprocessing.Pipe(duplex=False)
    sent = _Sent(ours, heard=True)
    sent.say("heard")
    assert theirs.recv() == Note("heard")
    theirs.close()
    sent.say("not heard")
    sent.done("a cell", 1.0)
