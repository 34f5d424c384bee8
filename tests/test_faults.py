"""What goes wrong on real machines, caused for real: signals, full disks, damaged files, two runs at once, no memory.

Commands run in processes of their own. A fork server that has loaded torch starts them, so each begins at once.
"""

from __future__ import annotations

import ast
import contextlib
import datetime
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import small_cnn
from slowly import slow
from small_table import SMALL, TABLE, content, done
from torch import Tensor, nn

from attacks.losses import cross_entropy
from attacks.model import ModelError
from attacks.target import Target
from bench.commands.cli import main
from bench.ground import provenance
from bench.ledger.folder import Results
from bench.ledger.runs import list_runs, read_run
from trainers.at import AT

ROOT = Path(__file__).parents[1]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["bench.running.run", "bench.tables.figures", "bench.tables.report", "sklearn.datasets", "pyarrow.parquet"]
)
STOPPED = "bench: stopped; what is done is kept, and the same command goes on from there"


def child(folder: Path, arguments: list[str], output: Path, before: Callable[[], None] | None, barrier: Any) -> None:
    """`bench ARGUMENTS` in a folder; both streams go to a file."""
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a script begins without it
    os.chdir(folder)
    torch.set_num_threads(1)
    if barrier is not None:
        barrier.wait()
    if before is not None:
        before()
    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Command:
    """A `bench` command that runs."""

    def __init__(
        self, folder: Path, *arguments: object, before: Callable[[], None] | None = None, barrier: Any = None
    ) -> None:
        self.output = folder / f"output-{time.monotonic_ns()}"
        words = [str(argument) for argument in arguments]
        self.process = SERVER.Process(target=child, args=(folder, words, self.output, before, barrier), daemon=True)
        self.process.start()

    def wait(self) -> tuple[int, str]:
        """(exit code, everything it printed)."""
        self.process.join(120)
        assert self.process.exitcode is not None, "the command hangs"
        return self.process.exitcode, self.output.read_text()

    def until(self, there: Callable[[], object]) -> None:
        """Waits for something to be there while the command still runs."""
        while not there():
            assert self.process.is_alive(), f"it ended too early: {self.output.read_text()}"
            time.sleep(0.002)

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.toml").write_text(TABLE)
    return tmp_path


def run(folder: Path, *more: object, results: str | Path = "results", **given: Any) -> Command:
    return Command(folder, "run", "small.toml", *SMALL, "--results", results, *more, **given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "small.toml").write_text(TABLE)
    code, output = run(folder).wait()
    assert code == 0 and "trained 2, attacked 6, kept 0" in output
    return folder / "results"


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), *slow([(signal.SIGINT, 130)])])
def test_a_signal_in_training_writes_a_checkpoint_and_ends_with_a_sentence(folder, whole, number, code):
    """After it the same command ends in the same bits."""
    command, results = run(folder), folder / "results"
    command.until(lambda: list(results.glob("runs/at-*/checkpoint.pt")))
    time.sleep(0.02)
    command.send(number)
    found, output = command.wait()
    assert found == code and output.strip().splitlines()[-1] == STOPPED and "Traceback" not in output
    kept = torch.load(next(results.glob("runs/at-*/checkpoint.pt")), weights_only=True)
    assert len(kept["history"]) == 1 and kept["partial"]["batches"] > 0, "the second epoch was stopped, and is kept"
    assert run(folder).wait()[0] == 0
    assert content(results) == content(whole)


def slow_batches() -> None:
    """Every batch takes a minute."""

    def batch_loss(self: AT, cohort: object, x: Tensor, y: Tensor) -> list[Tensor]:
        Path("in a batch").touch()
        time.sleep(60)
        return []

    AT.batch_loss = batch_loss  # type: ignore[method-assign,assignment]


def test_the_second_signal_does_not_wait_for_the_end_of_the_batch(folder):
    command = run(folder, before=slow_batches)
    command.until(lambda: (folder / "in a batch").exists())
    command.send(signal.SIGINT)
    time.sleep(0.3)
    assert command.process.is_alive()
    command.send(signal.SIGINT)
    code, output = command.wait()
    assert code == 130 and output.strip().splitlines()[-1] == STOPPED


def test_a_signal_in_an_attack_keeps_every_cell_before_it(folder, whole):
    shutil.copytree(whole / "runs", folder / "results" / "runs")
    command = run(folder, "--set", "pgd-20-digits.steps=1000000", "--set", "pgd-20-digits.stop='last'")
    command.until(lambda: list(folder.glob("results/evals/*/pgd-20*.lock")))
    time.sleep(0.1)
    command.send(signal.SIGTERM)
    code, output = command.wait()
    assert code == 143 and output.strip().splitlines()[-1] == STOPPED
    kept = content(folder / "results")
    assert kept.items() <= content(whole).items() and any("/clean" in name for name in kept)


def test_a_command_stops_between_batches_only_while_it_trains():
    """The handlers of a user's own program come back."""
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    main(["list", "tables"])
    assert {one: signal.getsignal(one) for one in before} == before


# --- two at once ------------------------------------------------------------------------------------------------------


def test_two_runs_at_once_share_the_work(folder, whole):
    barrier = SERVER.Barrier(2)
    pair = [run(folder, barrier=barrier), run(folder, barrier=barrier)]
    ends = [command.wait() for command in pair]
    assert [code for code, _ in ends] == [0, 0], ends
    first, second = (done(output) for _, output in ends)
    assert first[0] + second[0] == 2 and first[1] + second[1] == 6, "nothing is done twice"
    assert first[0] == second[0] == 1, "and they share"
    assert first[1] + first[2] == second[1] + second[2] == 6, "each has the whole table"
    assert content(folder / "results") == content(whole)


def test_the_second_run_goes_on_where_the_first_one_died(folder, whole):
    first = run(folder, before=slow_batches)
    first.until(lambda: (folder / "in a batch").exists())
    second = run(folder)
    second.until(lambda: f"waiting for another process, which trains {at(whole)}" in read(second.output))
    first.send(signal.SIGKILL)
    assert first.wait()[0] == -signal.SIGKILL
    code, output = second.wait()
    assert code == 0 and done(output) == [2, 6, 0], output
    assert content(folder / "results") == content(whole)


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def at(results: Path) -> str:
    """The training id of AT."""
    return next(results.glob("runs/at-*")).name


# --- disks ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own, or a skip where this user may not mount one."""
    folder.mkdir()
    command = ["mount", *options, str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting needs root, and a container that allows it")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def one_sentence(output: str) -> str:
    """The last line, where everything before it is progress."""
    last = output.strip().splitlines()[-1]
    assert last.startswith("bench: ") and "Traceback" not in output, output
    return last


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_with_room_the_run_goes_on(folder, whole):
    with mounted(folder / "disk", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as disk:
        code, output = run(folder, results=disk).wait()
        assert code == 2 and re.search(r"cannot write .*No space left on device", one_sentence(output))
        assert not [path for path in disk.rglob("*") if path.suffix in (".part", ".lock") or path.name == "lock"]
        subprocess.run(["mount", "-o", "remount,size=32m", str(disk)], check=True)
        assert run(folder, results=disk).wait()[0] == 0
        assert content(disk) == content(whole)


def small_files() -> None:
    """No file of this process may grow beyond 100 kB; Python then gets an error when it writes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_is_a_sentence(folder):
    code, output = run(folder, before=small_files).wait()
    assert code == 2 and re.search(r"cannot write .*File too large", one_sentence(output))
    assert not list(folder.rglob("*.part"))


def test_a_read_only_folder_is_a_sentence_but_can_be_reported(folder, whole):
    with mounted(folder / "disk", "-o", "bind,ro", str(whole)) as disk:
        code, output = run(folder, results=disk).wait()
        assert code == 2 and re.search(r"cannot write .*Read-only file system", one_sentence(output))
        code, output = Command(folder, "report", "--results", disk).wait()
        assert code == 0 and "| AT" in output


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full here")
@pytest.mark.parametrize("command", [["report"], ["list", "recipes"], ["check", "--reference", "then"]])
def test_a_full_disk_below_the_standard_output_is_a_sentence(whole, command):
    """As in `bench check --format junit > robustness.xml`: no traceback, nor the exit code of a moved number."""
    shutil.copytree(whole, whole.parent / "then", dirs_exist_ok=True)
    words, where = [sys.executable, "-m", "bench", *command], os.environ | {"PYTHONPATH": str(ROOT)}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            words, cwd=whole.parent, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=where
        )
    assert done.returncode == 2
    assert done.stderr.strip() == "bench: cannot write the output: No space left on device"


def test_a_folder_that_is_a_file_is_a_sentence(folder):
    (folder / "results").write_text("no folder")
    code, output = run(folder, results="results/inside").wait()
    assert code == 2 and "cannot write results/inside" in one_sentence(output)


# --- damaged files ----------------------------------------------------------------------------------------------------


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    """One bit, where each of the formats has data."""
    place = len(data) // 5
    return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


@pytest.mark.parametrize("damage", [truncate, flip])
@pytest.mark.parametrize("kind", ["evals/at-*/pgd-20*.parquet", "runs/at-*/best.json", "runs/at-*/best.safetensors"])
def test_a_damaged_file_is_named_and_nothing_is_overwritten(folder, whole, kind, damage, capsys, monkeypatch):
    """A record may be damaged, edited, or of a newer release: the user decides. With it deleted, the run goes on."""
    monkeypatch.chdir(folder)
    results = Path(shutil.copytree(whole, "results"))
    path = next(results.glob(kind))
    if path.suffix == ".safetensors":  # looked at only where it is used
        next(results.glob("evals/at-*.best/fgsm*.parquet")).unlink()
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    assert main(["run", "small.toml", *SMALL]) == 2
    assert str(path) in one_sentence(capsys.readouterr().err)
    assert path.read_bytes() == damaged
    if path.suffix == ".parquet":
        path.unlink()
        assert main(["run", "small.toml", *SMALL]) == 0
        assert content(results) == content(whole)


@pytest.mark.parametrize("damage", [truncate, *slow([flip])])
def test_a_damaged_checkpoint_is_never_continued_from(folder, damage):
    """torch itself would load flipped bits."""
    command = run(folder)
    command.until(lambda: list(folder.glob("results/runs/at-*/checkpoint.pt")))
    command.send(signal.SIGKILL)
    command.wait()
    path = next(folder.glob("results/runs/at-*/checkpoint.pt"))
    path.write_bytes(damage(path.read_bytes()))
    code, output = run(folder).wait()
    assert code == 1 and f"{path.relative_to(folder)} is damaged; delete it" in output


# --- clocks and memory ------------------------------------------------------------------------------------------------


class Backwards(datetime.datetime):
    """A clock that goes back an hour whenever somebody looks."""

    looked = 0

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        cls.looked += 1
        return datetime.datetime(2026, 1, 1, tzinfo=tz) - datetime.timedelta(hours=cls.looked)


def backwards() -> None:
    provenance.datetime = Backwards  # type: ignore[misc]
    now = iter(range(10**9, 0, -3600))
    time.time = lambda: next(now)


@pytest.mark.slow
def test_a_clock_that_goes_backwards_changes_nothing(folder, whole):
    assert run(folder, before=backwards).wait()[0] == 0
    assert content(folder / "results") == content(whole)
    folder = Results(folder / "results")
    assert all(read_run(folder, run_id).cost.seconds > 0 for run_id in list_runs(folder))


def test_durations_never_come_from_the_wall_clock():
    """The one look at it says when a record was made."""
    for path in (path for room in ("attacks", "trainers", "bench") for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                where = f"{node.value.id}.{node.attr}"
                assert where not in ("time.time", "time.time_ns", "datetime.today", "os.utime"), path
                assert where != "datetime.now" or path.name == "provenance.py", path


class Greedy(nn.Module):
    """A model that needs more memory than there is for more than `most` images at once."""

    def __init__(self, most: int, kind: str) -> None:
        super().__init__()
        self.model, self.most, self.kind, self.largest = small_cnn(), most, kind, 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            if self.kind == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            torch.empty(1 << 60)  # an exbibyte
        self.largest = max(self.largest, len(x))
        return self.model(x)


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_a_batch_that_the_memory_does_not_hold_is_halved(kind):
    """Results, order and counts are those of a model with memory for all, and views learn from each other."""
    x, greedy = torch.rand(20, 3, 12, 12, generator=torch.Generator().manual_seed(0)), Greedy(3, kind).eval()
    y = torch.arange(20) % 4
    rich, poor = (Target(model, 20).counting(20) for model in (greedy.model, greedy))
    assert torch.allclose(rich[5:].logits(x[5:]), poor[5:].logits(x[5:]), atol=1e-6)
    assert poor._fits == [3], "what a view has found out, all know"
    for call in (
        lambda target: target.logits(x),
        lambda target: torch.cat(target.loss_grad(x, y, cross_entropy)[1:2]),
        lambda target: torch.cat([found[2] for found in target.margin_gradients(x, y, y[:, None].ne(1).long())]),
    ):
        assert torch.allclose(call(rich), call(poor), atol=1e-6)
    assert greedy.largest == 3 and poor._fits == [3]
    assert torch.equal(rich.passes_per_image, poor.passes_per_image)


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_memory_for_not_even_one_image_is_an_error(kind):
    with pytest.raises(RuntimeError, match=r"out of memory|can't allocate"):
        Target(Greedy(0, kind).eval(), 20).logits(torch.rand(4, 3, 12, 12))


def test_other_errors_of_a_model_are_not_tried_again():
    calls = []

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            raise RuntimeError("size mismatch")

    with pytest.raises(ModelError, match="RuntimeError: size mismatch"):
        Target(Broken().eval(), 20).logits(torch.rand(4, 3, 12, 12))
    assert calls == [4]
