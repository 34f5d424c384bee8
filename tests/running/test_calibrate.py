"""`bench calibrate`: its search against curves that are known, and the command on a network that is attacked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from attacks.contract import ThreatModel
from attacks.pgd import PGD
from attacks.snow import Snow
from bench.commands.cli import main
from bench.running.calibrate import bisect, widest
from bench.subjects.catalog import Catalog

MODEL = """
import copy
import torch
from torch import nn
from bench.subjects import data

with torch.random.fork_rng():
    torch.manual_seed(0)
    NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    train = data.load("digits").train
    optimizer = torch.optim.Adam(NETWORK.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(NETWORK(train.x), train.y).backward()
        optimizer.step()


def make_model():
    return copy.deepcopy(NETWORK).eval()
"""


def curve(eps):
    """Falls through one half at eps = 3."""
    return 1 / (1 + (eps / 3) ** 4)


@pytest.mark.parametrize("start", [0.02, 1.0, 3.0, 40.0])
def test_the_radius_is_the_crossing_from_wherever_it_starts(start):
    found = bisect(curve, start, 1000.0, 0.5, 6)
    assert 3.0 <= found.eps <= 3.0 * 2 ** (1 / 2**6) and found.accuracy == curve(found.eps) <= 0.5
    assert found.low.eps < 3.0 < found.low.accuracy * 6.1 and not found.sign and not found.why
    assert [one.eps for one in found.tried] == sorted(one.eps for one in found.tried)


def test_what_is_below_without_strength_and_what_never_falls_are_sentences():
    found = bisect(lambda eps: 0.4 / (1 + eps), 1.0, 64.0, 0.5, 5)
    assert found.eps is None and found.why == "it leaves 40.0 % even at eps = 0, which is not above that"
    assert len(found.tried) == 2
    found = bisect(lambda eps: 0.9 - 0.001 * eps, 1.0, 20.0, 0.5, 5)
    assert found.eps is None and found.why == "it leaves 88.0 % even at eps = 20, the largest that was tried"
    assert [one.eps for one in found.tried] == [1, 2, 4, 8, 16, 20]


def test_an_accuracy_that_is_known_at_0_is_not_asked_for():
    asked = []
    bisect(lambda eps: asked.append(eps) or curve(eps), 4.0, 10.0, 0.5, 2, at_zero=1.0)
    assert 0.0 not in asked and len(asked) == 5, "two to start with, two rounds, and twice the radius"


def test_accuracy_that_rises_again_at_twice_the_radius_is_said():
    found = bisect(lambda eps: curve(eps) if eps < 5 else 0.7, 4.0, 100.0, 0.5, 4)
    assert 3.0 <= found.eps < 3.2 and found.sign.startswith("accuracy does not fall steadily: at 6.")
    assert found.sign.endswith("it leaves 70.0 %")
    assert bisect(lambda eps: curve(eps) if eps < 5 else 0.7, 4.0, 4.5, 0.5, 4).sign == "", "beyond what is allowed"


def test_how_far_a_search_goes():
    assert widest(PGD(ThreatModel("Linf", 0.1), 1, 0.1), 64) == 1 and widest(PGD(ThreatModel("L2", 1), 1, 0.1), 64) == 8
    assert widest(Snow(ThreatModel("own", 2)), 64) == 128


def test_steps_that_the_radius_bounds_scale_with_it():
    catalog = Catalog(None, ("glitch.step=0.5",))
    assert catalog.at_radius("pixel", 10.0).step == 2 and catalog.at_radius("glitch", 0.1).step == 0.5
    assert catalog.at_radius("pgd-20", 0.1).step == pytest.approx(0.003 * 0.1 * 255 / 8)
    assert catalog.at_radius("fog", 64.0).threat == ThreatModel("own", 64)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "fit.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return ["calibrate", "fit:make_model", "--dataset", "digits", "--images", "40"]


def test_the_radius_is_where_bench_attack_finds_that_accuracy(model, capsys):
    short = ["--set=pixel-digits.steps=3"]
    assert (
        main([*model, "pixel-digits", "fgsm-digits", "--to", "0.6", "--rounds", "1", "--format", "json", *short]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 40 and told["to"] == 0.6 < told["clean_accuracy"]
    own, linf = told["attacks"]
    assert (own["norm"], linf["norm"]) == ("own", "Linf") and own["settings"]["threat"]["eps"] == own["found"]["eps"]
    for one in (own, linf):
        assert one["found"]["accuracy"] <= 0.6 < one["found"]["low"]["accuracy"]
        assert one["forward_passes"] >= one["backward_passes"] > 40 * len(one["found"]["tried"]) / 4
    assert not Path("results").exists(), "it writes no record"
    at, found = own["settings"], own["found"]["accuracy"]
    again = ["attack", *model[1:], "pixel-digits", f"--set=pixel-digits.threat.eps={at['threat']['eps']}", *short]
    assert main(again) == 0
    (share,) = re.findall(r"robust accuracy after pixel-digits: ([\d.]+)%", capsys.readouterr().out)
    assert float(share) == pytest.approx(100 * found, abs=0.06)


@pytest.mark.slow  # every day the radius itself is held to `bench attack`, and each refusal to its sentence
def test_a_table_says_the_radius_and_an_exit_code_that_there_is_none(model, capsys):
    given = [*model, "wood-digits", "--to", "0.6", "--rounds", "0", "--set=wood-digits.steps=2", "--most", "0.001"]
    assert main(given) == 1
    told = capsys.readouterr()
    assert "even at eps = 0.001, the largest that was tried; 1 radii" in told.out and "wood-digits:" in told.err
    (head, line) = told.out.splitlines()
    assert "of 40 images right without an attack" in head and line.startswith("wood-digits ")


@pytest.mark.parametrize(
    "words, message",
    [
        (["pixel-digits", "--to", "0.999"], "there is nothing to calibrate"),
        (
            ["pixel-digits", "--to", "50"],
            "--to 50 is not an accuracy that a network can fall to; write a share such as 0.5",
        ),
        (["pixel-digits", "--to", "0.5", "--most", "0"], "--most 0 is not a radius to search up to"),
        (["msd-digits", "--to", "0.5"], "'msd-digits' has no radius to calibrate"),
        (["clean", "--to", "0.5"], "'clean' has no radius to calibrate"),
        (["hsv", "--to", "0.5"], "hsv: HSV knows images of 3 channels; these have 1; take another attack"),
    ],
)
def test_bad_input_is_one_sentence(model, words, message, capsys):
    assert main([*model, *words]) == 2
    assert message in capsys.readouterr().err
