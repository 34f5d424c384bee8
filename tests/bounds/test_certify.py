"""`bench certify`: a record beside the attacks', a bracket, and a stop where the two contradict each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.bounds.ball import Ball
from bench.commands.cli import main
from bench.ground.config import UserError
from bench.ledger.certificates import PROVEN, bracket, read_certificates, write_certificate
from bench.ledger.folder import Results
from bench.subjects.data import load

FACTORY = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

def pooled():
    return nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 10))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """A folder with a small network that was trained on the digits: its name, its weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bounded.py").write_text(FACTORY)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    train = load("digits").train
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        adam.zero_grad()
        nn.functional.cross_entropy(model(train.x), train.y).backward()
        adam.step()
    save_file(model.state_dict(), "weights.safetensors")
    return tmp_path


def certify(*more: str) -> int:
    return main(["certify", "bounded:net", "--weights", "weights.safetensors", "--images", "30", *more])


def record_of(folder, at: int = 0):
    results = Results(folder / "results")
    run_id = next(path.name for path in (folder / "results" / "certificates").iterdir())
    return results, read_certificates(results, run_id)[at]


def test_a_bracket_is_made_of_the_certificate_and_the_attacks(folder, capsys):
    attacked = ["attack", "bounded:net", "clean", "--weights", "weights.safetensors", "--images", "30"]
    assert main(attacked) == 0
    attacked[2] = "pgd-20-digits"
    assert main([*attacked, "--eps", "0.05"]) == 0
    assert certify("--eps", "0.05", "--budget", "50") == 0
    said = capsys.readouterr().out
    results, record = record_of(folder)
    found = bracket(results, record)
    assert len(found.by) == 2 and max(found.by.values()) > 0, "both attack records were read"
    assert 0 < len(found.proven) and found.low <= found.high
    assert f"robust accuracy lies in [{found.low:.2%}, {found.high:.2%}]" in said
    assert certify("--eps", "0.05", "--budget", "50") == 0
    again = record_of(folder)[1]
    assert (again.verdicts, again.figures, again.domains) == (record.verdicts, record.figures, record.domains)


def test_a_wrong_bound_is_caught_by_an_attack(folder, capsys, monkeypatch: pytest.MonkeyPatch):
    attacked = ["attack", "bounded:net", "pgd-20-digits", "--weights", "weights.safetensors", "--images", "30"]
    assert main([*attacked, "--eps", "0.1"]) == 0

    def only_x(self: Ball, rows: Tensor) -> Tensor:
        return (rows.flatten(2) @ self.x.flatten(1).unsqueeze(2)).squeeze(2)

    monkeypatch.setattr(Ball, "least", only_x)
    assert certify("--eps", "0.1") == 2
    said = capsys.readouterr().err
    assert "is proven by" in said and "one of the two is wrong, which is a bug" in said


def test_an_attack_that_comes_later_or_in_another_norm_is_seen_too(folder):
    assert certify("--eps", "0.03", "--budget", "0") == 0
    results, record = record_of(folder)
    assert not bracket(results, record).by
    attacked = ["attack", "bounded:net", "deepfool-l2-digits", "--weights", "weights.safetensors", "--images", "30"]
    if main(attacked) != 0:
        attacked[2] = "pgd-20-digits"
        assert main(attacked) == 0
    low = bracket(results, record)
    wide = replace(record, eps=1.0, verdicts=["open"] * 30)
    assert len(low.broken) < len(bracket(results, wide).broken), "the distances decide"


def test_where_bounds_prove_nothing_that_is_said(folder, capsys):
    assert certify("--eps", "0.5", "--budget", "0") == 0
    said = capsys.readouterr().out
    assert "these bounds say nothing about this network" in said and "lies in" not in said


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ((), "say at which radius"),
        (("--eps", "8"), "did you mean 8/255"),
        (("--eps", "0"), "nothing to prove"),
        (("--eps", "0.1", "--norm", "L1"), "bounds are known in Linf and L2, not in L1"),
        (("--eps", "0.1", "--norm", "Linf", "--smoothing", "0.25"), "--smoothing proves in L2, not in Linf"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(folder, capsys, more: tuple[str, ...], sentence: str):
    assert certify(*more) == 2
    assert sentence in capsys.readouterr().err


def test_an_operation_without_bounds_is_named(folder, capsys):
    assert main(["certify", "bounded:pooled", "--images", "5", "--eps", "0.1"]) == 2
    assert "the operation 'MaxPool2d'; there are bounds for" in capsys.readouterr().err


def test_smoothing_is_a_record_of_its_own_that_attacks_do_not_contradict(folder, capsys):
    assert certify("--eps", "0.05", "--smoothing", "0.1", "--draws", "100") == 0
    assert "which is not the network that attacks are run on" in capsys.readouterr().out
    results, record = record_of(folder)
    assert record.method == "smoothing" and record.of(PROVEN)
    with pytest.raises(ValueError, match="another classifier"):
        bracket(results, record)


def test_a_record_that_contradicts_itself_is_refused(folder):
    assert certify("--eps", "0.01", "--budget", "0") == 0
    results, record = record_of(folder)
    at = record.verdicts.index(PROVEN)
    with pytest.raises(ValueError, match="contradicts its figure"):
        replace(record, figures=[*record.figures[:at], -1.0, *record.figures[at + 1 :]])
    with pytest.raises(ValueError, match="each once"):
        replace(record, images=[0] * 30)
    path = write_certificate(results, record)
    path.write_text(path.read_text().replace('"open"', '"proven"', 1).replace('"broken"', '"proven"', 1))
    with pytest.raises(UserError, match="delete it"):
        read_certificates(results, record.run_id)
