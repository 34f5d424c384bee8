"""The commands of docs/models.md run as they stand there, and its lists are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.commands.cli import main
from bench.subjects.factories import GIVEN
from bench.subjects.normalization import NAMED

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
COMMANDS = PAGE.partition("<!-- run -->\n```sh\n")[2].partition("```")[0].splitlines()


def test_every_command_runs_in_its_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) > 5
    run = ""
    for command in COMMANDS:
        words = [run if word == "RUN" else word for word in command.split()[1:]]
        assert main(words) == 0, (command, capsys.readouterr().err)
        said = capsys.readouterr().out
        run = run or said.split()[0]


@pytest.mark.parametrize("name", [*GIVEN, *NAMED])
def test_every_name_stands_there(name):
    assert f"`{name}`" in PAGE or f"{name}|" in PAGE or f"|{name}" in PAGE or f"--normalization {name}" in PAGE
