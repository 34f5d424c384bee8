"""What the real commands say while they run, against docs/progress.md; the Tab key; examples of every --help."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from small_table import SMALL, TABLE

from bench.commands import completing
from bench.commands.cli import app, main
from bench.ground.events import KINDS
from bench.ground.progress import Progress

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "progress.md").read_text()
TYPES: dict[str, Any] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    "integer or null": lambda value: value is None or TYPES["integer"](value),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "list[string]": lambda value: isinstance(value, list) and all(map(TYPES["string"], value)),
    "list[number]": lambda value: isinstance(value, list) and all(map(TYPES["number"], value)),
}


def documented() -> dict[str, dict[str, str]]:
    """Event -> field -> type, as the page says."""
    rows = PAGE.partition("<!-- events -->")[2].partition("<!-- end -->")[0].strip().splitlines()[2:]
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        event, field, kind, _ = (part.strip() for part in row.strip("|").split("|"))
        found.setdefault(event, {})[field] = kind
    return found


def checked(output: str) -> list[dict[str, Any]]:
    """Every line, held to the page."""
    page = documented()
    lines = [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in output.splitlines()]
    for line in lines:
        about = {key: value for key, value in line.items() if key not in ("event", "time")}
        assert about.keys() == page[line["event"]].keys() and line["time"] > 0
        for field, value in about.items():
            assert TYPES[page[line["event"]][field]](value), (line["event"], field, value)
    return lines


@pytest.fixture
def table(tmp_path: Path) -> list[str]:
    (tmp_path / "small.toml").write_text(TABLE)
    return ["run", str(tmp_path / "small.toml"), *SMALL, "--results", str(tmp_path / "results")]


def test_the_page_has_every_event_and_every_field():
    assert documented().keys() == KINDS.keys()
    for kind, one in KINDS.items():
        assert list(documented()[kind]) == [field.name for field in fields(one)]


@pytest.mark.slow
def test_a_run_says_in_json_what_the_page_says(table, capsys, monkeypatch):
    monkeypatch.setattr(Progress, "EVERY", 0.005)
    assert main([*table, "--jobs", "1", "--json"]) == 0
    captured = capsys.readouterr()
    lines = checked(captured.out)
    kinds = [line["event"] for line in lines]
    assert captured.err == "" and kinds[0] == "run-begin" and kinds[-1] == "run-end"
    assert {"train-begin", "train-epoch", "train-end", "attack-begin", "attack-end"} <= set(kinds)
    assert {"train-progress", "attack-progress"} <= set(kinds), "what runs is looked at"
    ends = [line for line in lines if line["event"] == "attack-end"]
    assert len(ends) == 6 and all(one["low"] <= one["robust"] <= one["high"] for one in ends)
    assert lines[-1]["attacked"] == 6 and lines[-1]["trained"] == 2 and lines[-1]["outcome"] == "done"
    spent = sum(one["forward_passes"] for one in lines if one["event"] in ("attack-end", "train-epoch"))
    assert lines[-1]["forward_passes"] == spent > 0
    assert all(Path(path).exists() for path in lines[-1]["wrote"]) and lines[-1]["wrote"]
    _check_the_rest(table, capsys, monkeypatch)


def _check_the_rest(table: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same results, which took seconds: a quiet run that does nothing, and a cell that fails."""
    from attacks.pgd import PGD

    assert main([*table, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and "trained 0, attacked 0, kept 6" in captured.out

    def crash(self, target, x, y, noise):
        raise RuntimeError("it broke")

    monkeypatch.setattr(PGD, "__call__", crash)
    assert main([*table, "--jobs", "1", "--json", "--set", "pgd-20-digits.steps=3"]) == 1
    captured = capsys.readouterr()
    lines = checked(captured.out)
    failed = [line for line in lines if line["event"] == "cell-failed"]
    assert [(one["row"], one["column"]) for one in failed] == [("AT", "PGD"), ("Natural", "PGD")]
    assert all("it broke" in one["reason"] for one in failed) and captured.err.count("error: ") == 2
    assert (lines[-1]["outcome"], lines[-1]["failed"], lines[-1]["kept"]) == ("failed", 2, 4)


@pytest.mark.slow
def test_two_processes_write_whole_lines(table, capfd):
    """All through the first one, also what the other is at."""
    assert main([*table, "--jobs", "2", "--json"]) == 0
    lines = checked(capfd.readouterr().out)
    assert lines[-1]["event"] == "run-end" and lines[-1]["attacked"] == 6
    trained = [line["training"] for line in lines if line["event"] == "train-end"]
    assert len(trained) == len(set(trained)) == 2


@pytest.mark.slow
def test_a_training_writes_its_curves(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    from bench.ground.scalars import _steps

    given = ["train", "at-digits", *SMALL[:2], "--set", "at-digits.inner.steps=1", "--results", str(tmp_path / "r")]
    assert main([*given, "--json", "--tensorboard", str(tmp_path / "curves")]) == 0
    lines = checked(capsys.readouterr().out)
    (folder,) = (tmp_path / "curves").iterdir()
    assert folder.name == lines[-1]["networks"][0].partition(".")[0] and _steps(folder) == {1, 2}


SHOWN = re.compile(
    r"(\[[= ]{12}\] (?:training|epoch) [^\r\n]*)[\r\n]"
)  # a whole line of the view, not one of the forecast


def test_ctrl_c_gives_the_terminal_back(table):
    """A real terminal of 40 columns for standard error, the result to a file; stopped once a training is shown."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 40, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    environment |= {"TERM": "xterm", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench", *table, "--jobs", "1", "--set", "*-digits.schedule.epochs=100"]
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a suite in the background ignores Ctrl-C
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=theirs, preexec_fn=heeded
    )
    os.close(theirs)
    written, asked = "", False
    try:
        while piece := os.read(ours, 4096):
            written += piece.decode(errors="replace")
            if SHOWN.search(written) and not asked:
                process.send_signal(signal.SIGINT)
                asked = True
    except OSError:  # Linux's way to say that the other end is closed
        pass
    out, _ = process.communicate(timeout=120)
    os.close(ours)
    shown = SHOWN.findall(written)
    assert shown and all(len(line) == 40 and line.endswith("…") for line in shown), "cut at the edge"
    assert process.returncode == 130 and out == b""
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l"), "the cursor shows again"
    assert "bench: stopped; what is done is kept" in written[written.rindex("\x1b[?25h") :]


def commands() -> dict[str, click.Command]:
    return dict(app.commands)


@pytest.mark.parametrize("name", commands())
def test_every_help_has_an_example_whose_words_the_command_takes(name, capsys):
    assert main([name, "--help"]) == 0
    helped = capsys.readouterr().out
    examples = re.findall(r"^\s*(bench .*)$", helped.partition("Example:")[2].partition("Options:")[0], re.MULTILINE)
    assert examples, helped
    for example in examples:
        program, command, *words = shlex.split(example)
        assert (program, command) == ("bench", name)
        commands()[command].make_context(command, words)


COMPLETED = {
    "run tab": ["table2", "table3", "table4", "table5"],
    "run table2 --arch resnet1": ["resnet18"],
    "run table2 --dataset cif": ["cifar10", "cifar100"],
    "train trades-q": ["trades-quick"],
    "attack x autoattack-dig": ["autoattack-digits"],
    "attack --results RESULTS at-d": ["at-digits-cnn-small-s0-12345678.best"],
    "list trai": ["trainers"],
    "train at-digits --set pgd-100-dig": ["pgd-100-digits."],
}
ASK = (
    "import sys; from bench.commands.cli import main; code = main([]); sys.exit(9 if 'torch' in sys.modules else code)"
)


@pytest.mark.parametrize("typed", COMPLETED)
def test_the_tab_key_knows_names_and_loads_no_torch(typed, tmp_path):
    (tmp_path / "runs" / "at-digits-cnn-small-s0-12345678").mkdir(parents=True)
    (tmp_path / "runs" / "at-digits-cnn-small-s0-12345678" / "best.json").write_text("{}")
    words = ["bench", *typed.replace("RESULTS", str(tmp_path)).split()]
    environment = {"_BENCH_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    asked = subprocess.run(
        [sys.executable, "-c", ASK], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    assert asked.returncode == 0, asked
    assert [line.partition(",")[2] for line in asked.stdout.splitlines()] == COMPLETED[typed]


def test_what_is_completed_is_what_there_is(tmp_path):
    from bench.commands.listing import LISTS
    from bench.subjects.catalog import Catalog
    from bench.subjects.models import MODELS
    from bench.subjects.standard import DATASETS
    from trainers import TRAINERS

    catalog = Catalog()
    assert sorted(completing.recipes(tmp_path)) == sorted(catalog.recipe_tables)
    assert sorted(completing.attacks(tmp_path)) == sorted(["clean", *catalog.attack_tables, *catalog.suites])
    for names, known in (
        (completing.trainers, TRAINERS),
        (completing.archs, MODELS),
        (completing.datasets, DATASETS),
        (completing.lists, LISTS),
    ):
        assert names(tmp_path) == list(known)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_page_says_how_each_shell_gets_its_script(shell):
    assert f"_BENCH_COMPLETE={shell}_source bench" in PAGE
