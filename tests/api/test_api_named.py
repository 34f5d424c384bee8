"""Models and data sets by their names: Python and the command do the same, at the radius that belongs to them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hand_made import fill, plan_2x2

import bench
from bench.api.evaluating import verdict
from bench.commands.cli import main
from bench.ledger.evals import read_eval
from bench.ledger.folder import Results
from bench.ledger.plan import write_plan
from bench.running.attack import How
from bench.subjects.chosen import Choice
from bench.subjects.standard import DATASETS, RADII

QUICK = {"at-digits.schedule.epochs": 1, "at-digits.inner.steps": 1, "at-digits.inner.eps": 0.02}
CALM = ("apgd-ce-digits.steps=3", "apgd-linf-digits.steps=3", "fab-t-digits.steps=3", "square-digits.queries=10")
MODELS = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of results with one network, trained for an epoch against a radius of 0.02."""
    results = tmp_path_factory.mktemp("named") / "results"
    best, last = bench.train("at-digits", results=results, settings=QUICK)
    assert (best.rpartition(".")[2], last.rpartition(".")[2]) == ("best", "last")
    return results, best


def calm(choice):
    return verdict(choice, ("standard",), How(assignments=CALM, keep=False), say=lambda line: None)


def test_the_command_ends_with_what_python_shows(folder, capsys):
    results, run_id = folder
    options = [word for one in CALM for word in ("--set", one)]
    assert main(["attack", run_id, "--images", "60", "--results", str(results), *options]) == 0
    out, err = capsys.readouterr()
    settings = dict(one.split("=") for one in CALM)
    result = bench.evaluate(run_id, images=60, results=results, settings=settings)
    times = re.compile(r"\d+\.\d s")
    assert times.sub("", out) == times.sub("", repr(result) + "\n")
    assert "pgd-20-digits            breaks" in err and f"bench diagnose {run_id} --results" in out
    assert (result.norm, result.eps) == ("Linf", 0.02), "the radius of its training"
    assert read_eval(Results(results), run_id, result.record.stem).attack == "standard-digits"


def test_python_and_the_command_write_one_record(folder, capsys):
    results, run_id = folder
    assert main(["attack", run_id, "fgsm-digits", "--images", "30", "--results", str(results)]) == 0
    out = capsys.readouterr().out
    assert "robust accuracy after fgsm-digits" in out and "record: " in out, "as it ever was"
    before = read_eval(Results(results), run_id, Path(out.split("record: ")[1].strip()).stem)
    result = bench.attack(run_id, "fgsm-digits", images=30, results=results)
    after = read_eval(Results(results), run_id, result.record.stem)
    assert result.record == Path(out.split("record: ")[1].strip()) and result.model == run_id
    pd.testing.assert_frame_equal(before.images, after.images)


def test_without_a_named_attack_the_radius_is_that_of_the_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "made_here.py").write_text(MODELS)
    result = calm(Choice("made_here:make", Results(tmp_path / "results"), images=20))
    assert (result.norm, result.eps, result.name) == ("Linf", 0.15, "standard-digits")
    assert result.next[0] == "bench diagnose made_here:make --results " + str(tmp_path / "results") + (
        " --norm Linf --eps 0.15  # all checks"
    )
    assert set(RADII) <= set(DATASETS) and RADII["cifar10"]["Linf"] == 8 / 255


def test_other_norms_have_their_own_attacks(tmp_path):
    from linear import images, network

    x, y = images(20)
    few = {"apgd-l1.steps": 3, "apgd-t-l1.steps": 3, "fab-t-l1.steps": 3, "salt-and-pepper.queries": 50}
    result = bench.evaluate(network(), x, y, norm="L1", eps=0.5, settings=few)
    assert (result.name, result.norm) == ("standard-l1", "L1") and result.attacks["attack"][0] == "apgd-l1"
    assert (result.images.loc[result.images["fell_under"] != "", "l1"] <= 0.5 + 1e-5).all()


def test_a_registered_network_is_loaded_ready_to_use(folder):
    results, run_id = folder
    model = bench.load(run_id, results=results)
    assert not model.training and model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    by_hand = bench.attack(model, "fgsm-digits", "digits", images=30)
    by_name = bench.attack(run_id, "fgsm-digits", images=30, results=results)
    assert by_hand.images["robust"].equals(by_name.images["robust"])
    with pytest.raises(bench.UserError, match="unknown run 'at'; known: at-digits"):
        bench.load("at", results=results)


def test_a_table_is_read_from_its_records(tmp_path):
    plan, folder = plan_2x2(), Results(tmp_path)
    write_plan(folder, plan)
    fill(plan, folder, {("AT", "Clean"): [True] * 4, ("AT", "C&W"): [True, False, True, True]})
    frame = bench.table("tiny", results=tmp_path)
    cell = frame[(frame["row"] == "AT") & (frame["column"] == "C&W")].iloc[0]
    assert (cell["n"], cell["accuracy"], cell["state"]) == (4, 0.75, "ok")
    assert set(frame.loc[frame["row"] == "MAT_h2", "state"]) == {"missing"}
    assert bench.table(plan.name, results=tmp_path).equals(frame)
    with pytest.raises(bench.UserError, match="unknown planned table 'tinny'"):
        bench.table("tinny", results=tmp_path)


def test_columns_of_a_file_are_named_as_on_the_command_line(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)
    kinds, others = np.arange(12) % 10, (np.arange(12) + 1) % 10
    np.savez(tmp_path / "own.npz", pixels=pixels, noise=255 - pixels, kind=kinds, other=others)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    given = {"classes": 10, "norm": "Linf", "eps": 0.1}
    for columns, labels in (
        ({"image": "pixels", "label": "kind"}, kinds),
        ({"image": "pixels", "label": "other"}, others),
    ):
        result = bench.attack(network, "fgsm", str(tmp_path / "own.npz"), columns=columns, **given)
        assert result.images["label"].tolist() == labels[result.images["image"]].tolist()
