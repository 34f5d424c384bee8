"""The commands of docs/data.md work as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import own_sets as own
import pytest
from own_sets import TEXTS, X, Y
from safetensors.torch import save_file

from bench.commands.cli import main
from bench.subjects import models

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
SMALL = X[:, :8, :8, :1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    at = tmp_path_factory.mktemp("page")
    save_file(models.create("cnn-small", (1, 8, 8), 3, seed=0).state_dict(), at / "net.safetensors")
    own.pictures(at / "pictures", SMALL, Y)
    own.pictures(at / "photos", X[..., :1], Y)
    own.npz(at / "test.npz", x=SMALL, y=Y)
    own.npz(at / "some.npz", x=SMALL[:30], y=Y[:30])
    own.saved(at / "arrays", x_test=SMALL, y_test=Y)
    own.safetensors(at / "test.safetensors", images=SMALL, labels=Y)
    cells = [own.coded(one) for one in SMALL]
    own.parquet(at / "shop.parquet", "photo", "kind", TEXTS, cells, price=np.arange(60))
    own.arrow(at / "saved_by_datasets", SMALL)
    for part, rows in (("train", slice(0, 60, 2)), ("test", slice(1, 60, 2))):
        own.pictures(at / "parts" / part, SMALL[rows], Y[rows])
    return at


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_works(command, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    words = shlex.split(command)
    assert words[0] == "bench" and main(words[1:]) == 0, capsys.readouterr().err


def test_the_page_shows_every_option():
    assert len(COMMANDS) > 10 and all(f"{one} " in PAGE for one in ("--columns", "--size", "--crop", "--classes"))
