"""The stream of events and who listens: the view on a real pseudo-terminal, plain lines, JSON, TensorBoard."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import sys
import threading
from pathlib import Path

import pytest

from bench.ground import events
from bench.ground.config import UserError
from bench.ground.listeners import Lines, Live, said
from bench.ground.progress import Progress, Told
from bench.ground.scalars import _steps

CELL = ("at-x-s0-1.best", "pgd-n9-2", "AT", "PGD-20")
BEGUN = events.RunBegin("run", "table2-digits", "digits", 9, cells=5, kept=1)
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def epoch(number: int, again: bool = False, loss: float = 1.5) -> events.TrainEpoch:
    return events.TrainEpoch("at-x-s0-1", number, 3, loss, 0.1, [0.5], [0.25], 1.0, 100, 50, again)


class Terminal:
    """A pseudo-terminal in place of standard error; `read` is what was written to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int = 100, **environment: str) -> None:
        self.ours, theirs = pty.openpty()
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm-256color", "COLUMNS": str(columns), **environment}.items():
            monkeypatch.setenv(name, value)
        self.file = os.fdopen(theirs, "w")
        monkeypatch.setattr(sys, "stderr", self.file)
        self._written, self._thread = io.BytesIO(), threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            while piece := os.read(self.ours, 4096):
                self._written.write(piece)
        except OSError:  # the other end is closed
            return

    def read(self) -> str:
        self.file.close()
        self._thread.join()
        os.close(self.ours)
        return self._written.getvalue().decode()


def run_of_events(progress: Progress) -> None:
    """What a table tells; the view is drawn at its end."""
    progress.tell(BEGUN)
    progress.say("a line that stays")
    progress.tell(events.TrainBegin("at-x-s0-1", 3, 36))
    progress.tell(epoch(1))
    progress.tell(events.TrainProgress("at-x-s0-1", 2, 3, 1, 36, 77.0))
    progress.tell(events.AttackBegin(*CELL, "pgd-20", 9))
    progress.tell(events.AttackProgress(*CELL, 1_500_000, 2, 7, 1234.0))
    for one in progress.listeners:
        if isinstance(one, Live):
            one.screen.refresh()


@pytest.mark.parametrize("columns", [100, 40])
def test_a_terminal_has_a_view_that_fits_and_gets_its_cursor_back(monkeypatch, columns):
    terminal = Terminal(monkeypatch, columns)
    with Progress() as progress:
        run_of_events(progress)
    written = terminal.read()
    assert written.count(HIDE) == 1 and written.index(HIDE) < written.rindex(SHOW)
    shown = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", written)]
    assert any(line.startswith("table2-digits: 1/5 cells, 1 running, 3 ") for line in shown)
    assert any("a line that stays" in line for line in shown)
    assert max(map(len, shown)) <= columns
    if columns == 100:
        assert any("epoch 2/3, 77 images/s: training at-x-s0-1; epoch 1/3, loss 1.500" in line for line in shown)
        assert any("AT / PGD-20: 7 stand, 1,234 images/s" in line for line in shown)
        assert any("passes: 1.5M forward, 52 backward" in line for line in shown), "the epoch's 50 and the attack's 2"


def test_the_view_is_gone_when_the_command_is_stopped(monkeypatch):
    terminal = Terminal(monkeypatch)
    with pytest.raises(KeyboardInterrupt), Progress() as progress:
        run_of_events(progress)
        raise KeyboardInterrupt
    written = terminal.read()
    assert written.rindex(HIDE) < written.rindex(SHOW) and "\x1b[2K" in written[written.rindex("to come") :]


def test_no_color_is_respected(monkeypatch):
    terminal = Terminal(monkeypatch, NO_COLOR="1")
    with Progress() as progress:
        run_of_events(progress)
    assert not re.search(r"\x1b\[[0-9;]*[1-9][0-9;]*m", terminal.read())


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    terminal = Terminal(monkeypatch, TERM="dumb")
    with Progress() as progress:
        run_of_events(progress)
    assert terminal.read().splitlines() == ["a line that stays"]


def test_a_file_gets_plain_lines_also_where_colour_is_asked_for(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress() as progress:
        run_of_events(progress)
    assert isinstance(progress.listeners[0], Lines) and not isinstance(progress.listeners[0], Live)
    assert capsys.readouterr().err == "a line that stays\n"


def test_quiet_says_nothing_and_looks_at_nothing(capsys, monkeypatch):
    monkeypatch.setattr(Progress, "EVERY", 0.0)
    monkeypatch.setattr(Told, "FIRST", -1.0)
    with Progress(quiet=True) as progress:
        run_of_events(progress)
        with progress.watching(lambda: pytest.fail("somebody looked")):
            Told("reading images", 10).at(1)
    assert capsys.readouterr() == ("", "")
    Told("reading images", 10).at(1)
    assert capsys.readouterr().err == "bench: reading images: 1 of 10\n", "it is heard again afterwards"


def test_what_runs_is_looked_up_while_it_runs(monkeypatch, capsys):
    monkeypatch.setattr(Progress, "EVERY", 0.001)
    looked = threading.Event()

    def look() -> events.Event | None:
        looked.set()
        return events.AttackProgress(*CELL, 5, 6, None, 0.0)

    with Progress() as progress:
        with progress.watching(look):
            assert looked.wait(60)
        assert progress.tally.passes == (5, 6)


def test_json_has_a_number_or_null(capsys):
    with Progress(json=True) as progress:
        print("of a model's own code")
        progress.tell(epoch(1, loss=float("nan")))
    captured = capsys.readouterr()
    (line,) = map(json.loads, captured.out.splitlines())
    assert line["event"] == "train-epoch" and line["loss"] is None and line["clean"] == [0.5]
    assert captured.err == "of a model's own code\n"


def test_the_end_tells_what_all_came_to(capsys):
    with Progress(json=True) as progress:
        run_of_events(progress)
        progress.tell(events.AttackEnd(*CELL, "pgd-20", 9, 1.0, 0.5, 0.4, 0.6, 1.0, 7, 8, []))
        progress.tell(events.CellKept(*CELL))
        progress.tell(events.CellFailed("a", "b", "AT", "C&W", "no reason"))
        progress.tell(events.CellFailed("a", "b", "AT", "C&W", "no reason"))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines[-3:]] == ["attack-end", "cell-failed", "run-end"], "each is said once"
    about = {key: lines[-1][key] for key in ("outcome", "attacked", "kept", "failed")}
    assert about == {"outcome": "failed", "attacked": 1, "kept": 1, "failed": 1}
    assert (lines[-1]["forward_passes"], lines[-1]["backward_passes"]) == (107, 58)


def test_every_kind_of_work_has_its_line():
    """A view with an empty line would be one that forgot a kind."""
    about = [events.TrainBegin("t", 3, 5), events.TrainProgress("t", 1, 3, 2, 5, 9.0), epoch(1)]
    about += [events.AttackBegin(*CELL, "pgd", 9), events.AttackProgress(*CELL, 1, 2, None, 3.0)]
    assert all(map(said, about)) and said(events.Note("x")) == ""


def told(folder: Path, *about: events.Event) -> None:
    with Progress(quiet=True, tensorboard=folder) as progress:
        for event in about:
            progress.tell(event)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_curves_go_on_after_a_kill_without_a_gap_or_a_double(tmp_path):
    """Killed after epoch 2 was in the checkpoint and before it was told."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    told(tmp_path, events.TrainBegin("at-x-s0-1", 3, 36), epoch(1))
    told(tmp_path, events.TrainBegin("at-x-s0-1", 3, 36, epoch=2), epoch(1, True), epoch(2, True), epoch(3))
    read = accumulator.EventAccumulator(str(tmp_path / "at-x-s0-1"), purge_orphaned_data=False)
    read.Reload()
    assert [one.step for one in read.Scalars("loss")] == [1, 2, 3]
    assert [one.value for one in read.Scalars("validation/robust")] == [0.25] * 3
    told(tmp_path, events.TrainBegin("at-x-s0-1", 3, 36), epoch(1, loss=0.5))
    assert _steps(tmp_path / "at-x-s0-1") == {1}, "a training that begins anew has no points of the old one"


def test_without_tensorboard_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing", None)
    with pytest.raises(UserError, match=r"needs the package tensorboard.*pip install"):
        Progress(tensorboard=tmp_path)
