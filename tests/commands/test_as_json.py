"""`--format json` of attack and diagnose: one object, the numbers of the words and of the record."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench.commands.cli import main
from bench.ledger.evals import read_eval
from bench.ledger.folder import Results

LOUD = """
import torch
from torch import nn


class Loud(nn.Linear):
    def forward(self, x):
        print("{not json")
        return super().forward(x.flatten(1))


def make_model():
    torch.manual_seed(0)
    return Loud(64, 10)
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "loud_model.py").write_text(LOUD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return ["loud_model:make_model", "--dataset", "digits", "--images", "60", "--format", "json"]


def test_an_attack_as_json_has_the_numbers_of_its_record(model, capsys):
    assert (
        main(["attack", model[0], "fgsm-digits", "pgd-20-digits", *model[1:], "--eps", "0.02", "--images", "300"]) == 0
    )
    captured = capsys.readouterr()
    told = json.loads(captured.out, parse_constant=pytest.fail)
    path = Path(told["record"])
    table = read_eval(Results(Path("results")), path.parent.name, path.stem).images
    right = table["clean_prediction"] == table["label"]
    assert told["clean"]["value"] == right.mean() and told["robust"]["value"] == table["robust"].mean() < right.mean()
    assert told["robust"]["low"] < told["robust"]["value"] < told["robust"]["high"] and told["robust"]["n"] == 300
    assert sorted(image for ids in told["fell"].values() for image in ids) == sorted(
        table["image"][right & ~table["robust"]]
    )
    assert [one["fell"] for one in told["attacks"] if one["fell"]] == [len(ids) for ids in told["fell"].values()]
    assert (
        told["name"] == "fgsm-digits+pgd-20-digits" and told["norm"] == "Linf" and "near guessing" in told["signs"][0]
    )
    assert "{not json" in captured.err, "what the model prints is beside it"


def test_json_and_words_say_the_same(model, capsys):
    given = ["attack", model[0], "fgsm-digits", *model[1:-2]]
    assert main(given) == 0
    words = capsys.readouterr().out
    assert main([*given, "--format", "json"]) == 0
    robust = json.loads(capsys.readouterr().out)["robust"]["value"]
    assert re.search(r"robust accuracy after fgsm-digits: ([\d.]+)%", words).group(1) == f"{100 * robust:.2f}"


@pytest.mark.slow
def test_a_diagnosis_as_json_is_its_record(model, capsys):
    code = main(["diagnose", *model, "--eps", "0.1", "--images", "20"])
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    failed = [one["check"] for one in told["findings"] if one["verdict"] == "fail"]
    assert code == int(bool(failed)) and told["eps"] == 0.1 and told["images"] == 20
    (path,) = Path("results").rglob("*.json")
    kept = json.loads(path.read_text())
    assert {key: kept[key] for key in told} == told
