"""No text of a record, a plan or a name reaches the terminal as anything but signs that show."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hand_made import fill, plan_2x2, renamed, run_record

from bench.commands.cli import main
from bench.ground.terminal import visible
from bench.ledger.folder import Results
from bench.ledger.plan import write_plan
from bench.ledger.runs import write_run

HOSTILE = {
    "colour": "\x1b[31mred", "title": "\x1b]0;owned\x07", "link": "\x1b]8;;http://x\x1b\\", "clear": "\x1bc",
    "back": "100\b\b\b99", "return": "bad\rgood", "8-bit": "\x9b31m", "delete": "a\x7f", "null": "a\0b",
    "right to left": "\u202e%001", "isolate": "\u2066a\u2069", "mark": "\u200fa", "hidden": "a\u200bb",
    "bom": "\ufeffa",
    "lines": "a\u2028b\u2029c\x85d\x0b\x0c", "tags": "a\U000e0041",
}  # fmt: skip


def shows(text: str) -> bool:
    return all(s in "\n\t" or unicodedata.category(s) not in ("Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn") for s in text)


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_that_is_printed_moves_the_cursor_or_hides(kind, tmp_path: Path, capsys):
    """Titles, rows, notes, budgets, health, messages, names that are given on the command line."""
    evil, results = HOSTILE[kind], Results(tmp_path)
    assert not shows(evil)
    plan = renamed(plan_2x2(), "AT", f"AT {evil}")
    fill(plan, results, {(cell.row, cell.column): [True, False] * 2 for cell in plan.cells})
    for cell in plan.cells:
        write_run(results, run_record(cell.run_id, health=[f"sick {evil}"]))
    write_plan(results, replace(plan, title=f"T {evil}", source=evil, note=evil, dataset=f"d{evil}"))
    out = tmp_path / "out.md"
    where = ["--results", str(tmp_path)]
    for style in ("markdown", "text", "latex", "html", "csv"):
        assert main(["report", "--format", style, *where]) == 0
    assert main(["report", "--out", str(out), *where]) == 0 and shows(out.read_text())
    for words in (
        ["list", "runs"],
        ["check"],
        ["report", evil],
        ["report", "--baseline", evil],
        ["list", evil],
        ["diff", f"x{evil}", "y"],
        ["verify", evil],
        ["check", "--reference", str(tmp_path), "--format", "json"],
    ):
        main([*words, *where])
    captured = capsys.readouterr()
    assert shows(captured.out) and shows(captured.err), ascii(captured)
    assert "\\" in captured.out and "AT" in captured.out


@pytest.mark.parametrize("text", ["plain", "caf\u00e9 \u4e2d\u6587 \U0001f600", "a\tb\nc", "\u05d0\u05d1 \u0639"])
def test_what_shows_is_printed_as_it_is(text):
    assert visible(text) == text
