"""What is exported is found again as the same network, by a card that says what the records say and no more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hand_made import run_record
from safetensors.torch import save_file

from bench.commands.cli import main
from bench.ground.config import UserError
from bench.ledger.folder import Results
from bench.ledger.runs import read_run
from bench.running.export import FORMATS, export
from bench.subjects import models, own, registry

RUN = "at-digits-mine-s0-aaaaaaaa.best"


@pytest.fixture
def results(tmp_path, monkeypatch) -> Results:
    """A registered network with its normalisation inside."""
    monkeypatch.chdir(tmp_path)
    found = Results(Path("results"))
    network = models.create("cnn-small", (1, 8, 8), 10, seed=0, normalize=([0.3], [0.4]))
    about = {"arch": "cnn-small", "dataset": "digits", "image_shape": [1, 8, 8], "classes": 10}
    registry.register(found, network.state_dict(), replace(run_record(RUN), **about))
    return found


def loaded(form: str) -> torch.nn.Module:
    if form == "torch-export":
        return torch.export.load("out/model.pt2").module()
    model = "hf:out" if form == "huggingface" else "out/model.safetensors"
    return own.find(model, own.About(), (1, 8, 8), 10).make()


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "robustbench"])
def test_an_export_is_the_same_network_without_a_word_of_its_architecture(results, form):
    assert main(["export", RUN, "--format", form, "--out", "out"]) == 0
    network, x = registry.load(results, RUN)[0], torch.rand(7, 1, 8, 8)
    assert torch.allclose(loaded(form)(x), network(x), atol=1e-5)
    assert "No attack on this network has a record" in Path("out/README.md").read_text()


def test_what_is_there_is_not_written_over_and_a_foreign_layout_is_refused(results):
    Path("out").mkdir()
    Path("out/mine").touch()
    with pytest.raises(UserError, match="is there already"):
        export(results, RUN, "safetensors", Path("out"), None)
    with pytest.raises(UserError, match="and not of digits"):
        export(results, RUN, "robustbench", None, None)


def test_an_export_that_is_another_network_is_an_error(results, monkeypatch):
    lying = own.Own(lambda: models.create("cnn-small", (1, 8, 8), 10, seed=1), "cnn-small", "")
    monkeypatch.setattr("bench.running.export.own.find", lambda *_: lying)
    with pytest.raises(UserError, match="it gives other logits; do not use it"):
        export(results, RUN, "safetensors", Path("out"), None)
    assert not Path("out/README.md").exists()


def test_the_card_has_every_record_of_these_weights_and_nothing_runs_in_it(results):
    assert main(["attack", RUN, "fgsm-digits", "--images", "30", "--arch", "cnn-small"]) == 0
    record = read_run(results, RUN)
    evil = replace(record, recipe="x` | <script>alert(1)</script> [a](javascript:b)", health=["**a\n# b"])
    from bench.running.card import card

    page = card(results, evil, "safetensors", "pass", 1)
    assert "| fgsm-digits | Linf 0.15 | 30 |" in page
    assert "<script>" not in page and "](javascript" not in page and "\n# b" not in page
    assert "fgsm" not in card(results, replace(record, weights_sha256="0" * 64), "safetensors", "pass", 1)


def test_an_imported_network_is_registered_with_its_inputs_and_labels_and_nothing_that_is_not_known(tmp_path, capsys):
    network = models.create("cnn-a", (1, 8, 8), 12, seed=0)
    save_file(network.state_dict(), tmp_path / "theirs.safetensors")
    (tmp_path / "labels").write_text("\n".join(str(11 - k) for k in range(10)))
    said = [
        "--arch",
        "cnn-a",
        "--range",
        "-1,1",
        "--labels",
        str(tmp_path / "labels"),
        "--results",
        str(tmp_path / "r"),
    ]
    assert main(["import", str(tmp_path / "theirs.safetensors"), "--dataset", "digits", *said]) == 0
    out = capsys.readouterr()
    run = out.out.strip()
    again, record = registry.load(Results(tmp_path / "r"), run)
    x = torch.rand(3, 1, 8, 8)
    assert torch.allclose(again(x), network(2 * x - 1)[:, 2:].flip(1), atol=1e-5)
    assert (record.trainer, record.images_sha256, record.settings["file"]) == ("imported", "", "theirs.safetensors")
    assert str(tmp_path) not in json.dumps(record.settings) and "clean accuracy on" in out.err
    assert main(["import", str(tmp_path / "theirs.safetensors"), "--dataset", "digits", *said]) == 0
    assert capsys.readouterr().out.strip() == run, "again is the same run"


def test_programs_are_not_imported(tmp_path, capsys):
    (tmp_path / "a.pt2").write_bytes(b"")
    assert main(["import", str(tmp_path / "a.pt2"), "--arch", "cnn-a", "--results", str(tmp_path)]) == 2
    assert "is a program of torch.export, which is code" in capsys.readouterr().err
