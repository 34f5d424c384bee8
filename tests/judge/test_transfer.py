"""Transfer: crafted on one network, judged on another; done once a source, judged as strictly as any other attack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hand_made import MADE_BY, eval_record, fill, frame, plan_2x2, run_record
from oracles import saturated_images, small_cnn
from torch import nn

from attacks.contract import ThreatModel
from attacks.model import ModelError
from attacks.pgd import PGD
from bench.commands.cli import main
from bench.ground.config import UserError
from bench.ground.progress import Progress
from bench.judge.evaluate import AttackError, check_transfer, craft, evaluate
from bench.ledger import spec
from bench.ledger.errors import ErrorRecord, write_error
from bench.ledger.evals import read_eval, write_eval
from bench.ledger.find import find
from bench.ledger.folder import Results, Source
from bench.ledger.runs import list_runs, read_run, write_run
from bench.ledger.spec import Column
from bench.running import run as run_module
from bench.running.run import TableRun
from bench.running.table import Options
from bench.subjects import models, registry
from bench.subjects.data import Images

BUDGET = ThreatModel("Linf", 0.1)
LAST = PGD(BUDGET, 4, 0.05, start="none", stop="last")


class Linear(nn.Module):
    """Two classes and two pixels: class 1 where weights . x > bias."""

    def __init__(self, weights, bias):
        super().__init__()
        self.weights, self.bias = nn.Parameter(torch.tensor(weights)), bias

    def forward(self, x):
        score = x.flatten(1) @ self.weights - self.bias
        return torch.stack([torch.zeros_like(score), score], 1)


def dots(*pixels):
    """Images of two pixels, all of class 1."""
    x = torch.tensor(pixels).view(-1, 1, 1, 2)
    return Images(x, torch.ones(len(x), dtype=torch.int64), torch.arange(len(x)))


def test_a_transfer_by_hand():
    """The source pushes the first pixel down and the second up; the target looks at their sum, at 0.8 and 1.0."""
    source = Linear([1.0, -1.0], 0.0).eval()
    images = dots([0.6, 0.5], [0.9, 0.0], [0.2, 0.9], [0.05, 0.95], [0.1, 0.1])
    crafted = craft(source, LAST, images, 2, name="pgd")
    expected = torch.tensor([[0.5, 0.6], [0.8, 0.1], [0.1, 1.0], [0.0, 1.0], [0.0, 0.2]])
    assert torch.allclose(crafted.x_adv.flatten(1), expected), "the last iterate of all images, right or wrong"
    table = evaluate(Linear([1.0, 0.5], 0.8).eval(), LAST, images, 2, name="pgd", crafted=crafted).table
    # 0.85 -> 0.8 (not above), 0.9 -> 0.85, 0.65 is wrong, 0.525 is wrong, 0.15 is wrong
    assert table["clean_prediction"].tolist() == [1, 1, 0, 0, 0]
    assert table["robust"].tolist() == [False, True, False, False, False]
    assert table["linf"].tolist() == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.1])


def test_a_network_against_itself_is_the_white_box_attack():
    model, x = small_cnn(), saturated_images(30, (3, 12, 12), 3)
    y = model(x).argmax(1)
    y[:5] = (y[:5] + 1) % 10
    images, attack = Images(x, y, torch.arange(30)), PGD(ThreatModel("Linf", 0.05), 5, 0.01, stop="last")
    own = evaluate(model, attack, images, 10, name="pgd")
    crafted = craft(model, attack, images, 10, name="pgd")
    transferred = evaluate(model, attack, images, 10, name="pgd", crafted=crafted)
    assert own.table["robust"].tolist() == transferred.table["robust"].tolist()
    assert 0 < own.table["robust"].sum() < 25, "the sample must hold both kinds"
    assert torch.allclose(own.x_adv[5:], transferred.x_adv[5:], atol=1e-6) and not torch.equal(
        x[:5], transferred.x_adv[:5]
    )
    forward, backward = (transferred.table[f"{way}_passes"] for way in ("forward", "backward"))
    assert (backward == 5).all() and (forward == own.table["forward_passes"].max() + 1).all(), (
        "one look at each network"
    )
    assert (transferred.cost.forward_passes, transferred.cost.backward_passes) == (forward.sum(), backward.sum())
    assert transferred.cost.seconds > crafted.seconds > 0


@dataclass(frozen=True)
class Trick:
    """Returns whatever `trick` makes of the images."""

    trick: object
    closest: bool = False
    threat: ThreatModel = BUDGET
    version: int = 1

    def __call__(self, target, x, y, noise):
        return self.trick(target, x)


@pytest.mark.parametrize(
    "trick, message",
    [
        (lambda target, x: x + 0.2, "left its threat model"),
        (lambda target, x: (target.model.train(), x)[1], "changed the model"),
        (lambda target, x: (target.model.weights.data.add_(1), x)[1], "changed the model"),
    ],
)
def test_an_attack_that_breaks_its_promise_on_the_source_is_an_error(trick, message):
    with pytest.raises(AttackError, match=message):
        craft(Linear([1.0, -1.0], 0.0).eval(), Trick(trick), dots([0.6, 0.5]), 2, name="trick")


def test_the_judge_believes_no_crafted_image():
    model, images = Linear([1.0, 0.5], 0.8).eval(), dots([0.6, 0.5], [0.9, 0.0])
    crafted = craft(model, LAST, images, 2, name="pgd")
    for spoiled in (crafted.x_adv - 0.05, crafted.x_adv[:1], crafted.x_adv.double()):
        with pytest.raises(AttackError, match=r"left its threat model|returned"):
            evaluate(model, LAST, images, 2, name="pgd", crafted=replace(crafted, x_adv=spoiled))


def test_what_does_not_run_to_its_last_iterate_is_refused():
    assert check_transfer("pgd", LAST) is LAST
    for attack in (None, replace(LAST, stop="first")):
        with pytest.raises(UserError, match=r"'pgd' cannot be crafted on another network.*pgd-100-last"):
            check_transfer("pgd", attack)
    with pytest.raises(ModelError, match="training mode"):
        craft(Linear([1.0, -1.0], 0.0).train(), LAST, dots([0.6, 0.5]), 2, name="pgd")


@pytest.fixture
def transferred(tmp_path):
    """A plan of one transfer, AT -> MAT_h2, with all networks and its record; the cell; the results."""
    plan, results = plan_2x2(more=[Column("from AT", "cw", source="at")]), Results(tmp_path)
    fill(plan, results, {})
    cell = next(one for one in plan.cells if (one.row, one.column) == ("MAT_h2", "from AT"))
    record = eval_record(cell.run_id, cell.eval_id, frame([1, 1, 0, 0]))
    write_eval(results, replace(record, source=Source(cell.source_run_id, "w")))
    return plan, cell, results


def test_the_record_keeps_its_source(transferred):
    plan, cell, results = transferred
    found = find(plan, cell, results)
    assert found.state == "ok" and read_eval(results, cell.run_id, cell.eval_id).source == Source(
        cell.source_run_id, "w"
    )


def test_other_weights_of_the_source_make_the_record_stale(transferred):
    plan, cell, results = transferred
    write_run(results, run_record(cell.source_run_id, weights="new"))
    found = find(plan, cell, results)
    assert found.state == "stale" and f"crafted on other weights than {cell.source_run_id} has now" in found.reason


@pytest.mark.parametrize("source", [None, Source("mat-dots-cnn-s0-12345678.h1-best", "w")])
def test_a_record_of_no_source_or_of_another_is_stale(transferred, source):
    plan, cell, results = transferred
    write_eval(results, replace(eval_record(cell.run_id, cell.eval_id, frame([1] * 4)), source=source))
    assert find(plan, cell, results).state == "stale"


def test_a_source_that_is_gone_or_failed_is_no_number(transferred):
    plan, cell, results = transferred
    results.run(cell.source_run_id).unlink()
    found = find(plan, cell, results)
    assert found.state == "missing" and found.reason.endswith(f"there is no trained network {cell.source_run_id}")
    write_error(results, ErrorRecord(cell.source_run_id, None, "NaN loss", "", MADE_BY))
    found = find(plan, cell, results)
    assert found.state == "error" and found.reason.endswith("NaN loss")


def table4(results: Path, *change: str) -> TableRun:
    """The real table on a few images, its networks untrained. change: a text in its TOML, and what it becomes."""
    own = results / "table4.toml"
    own.write_text((Path(spec.__file__).parent / "specs" / "table4.toml").read_text().replace(*change or ("", "")))
    job = TableRun(str(own), Options(Results(results), images=12, assignments=("pgd-100-last-digits.steps=3",)))
    for seed, run_id in enumerate(sorted({run_id for cell in job.plan.cells for run_id in cell.networks})):
        if run_id not in list_runs(job.results):
            register(job, run_id, seed)
    return job


def register(job: TableRun, run_id: str, seed: int) -> None:
    torch.manual_seed(seed)
    state = models.create("cnn-small", (1, 8, 8), 10).state_dict()
    whole = replace(run_record(run_id), arch="cnn-small", dataset="digits")
    registry.register(job.results, state, whole)


def test_a_table_of_transfers_crafts_once_a_source_and_only_what_is_missing(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(run_module, "craft", lambda model, *a, **k: (made.append(model), craft(model, *a, **k))[1])
    summary = table4(tmp_path).execute(Progress(quiet=True))
    assert (summary.trained, summary.attacked, summary.failures) == (0, 2 + 2 * 5, []) and len(made) == 5
    again = table4(tmp_path)
    assert again.execute(Progress(quiet=True)).kept == 12 and len(made) == 5
    sources = {cell.column: cell.source_run_id for cell in again.plan.cells if cell.source_run_id}
    register(again, sources["from AT"], seed=99)
    assert sum("attack " in line for line in again.describe()) == 2
    assert again.execute(Progress(quiet=True)).attacked == 2 and len(made) == 6
    for cell in again.plan.cells:
        if cell.source_run_id:
            source = read_eval(again.results, cell.run_id, cell.eval_id).source
            assert source == Source(cell.source_run_id, read_run(again.results, cell.source_run_id).weights_sha256)


@pytest.mark.slow
def test_few_crafted_sets_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "CRAFTED_KEPT", 2)
    job = table4(tmp_path)
    assert job.execute(Progress(quiet=True)).failures == [] and len(job._crafted) == 2


def test_a_source_that_is_missing_is_trained_once_and_before_it_is_needed(tmp_path, monkeypatch):
    job = table4(tmp_path, 'label = "MAT-h2", method = "mat", member = 1', 'label = "TRADES", method = "trades"')
    missing = next(cell.source_run_id for cell in job.plan.cells if cell.column == "from AT")
    job.results.run(missing).unlink()
    assert [line for line in job.describe() if line.startswith("  train")] == [f"  train   {missing[: -len('.best')]}"]
    asked = []
    monkeypatch.setattr(TableRun, "_train", lambda self, one, *_: asked.append(one.training_id) is not None)
    summary = job.execute(Progress(quiet=True))
    assert asked == [missing[: -len(".best")]], "two networks need it"
    assert summary.attacked == 10, "all but the two cells of the source that is still missing"


def test_columns_that_an_attack_cannot_fill_are_refused_before_anything_runs(tmp_path):
    first = ("pgd-100-last-digits.stop=first",)
    with pytest.raises(UserError, match="cannot be crafted on another network"):
        TableRun("table4", Options(Results(tmp_path), images=2, assignments=first))
    with pytest.raises(UserError, match=r"'from AT' reads 'pgd-100-last' at another radius.*no minimal-norm"):
        table4(tmp_path, 'attack = "pgd-100-last", source = "at"', 'attack = "pgd-100-last", at = 0.1')


def test_the_command_crafts_on_another_model_and_says_so(tmp_path, capsys):
    job = table4(tmp_path)
    model, source = sorted({cell.run_id for cell in job.plan.cells})
    arguments = ["attack", model, "pgd-100-last-digits", "--images", "10", "--results", str(tmp_path)]
    arguments += ["--set", "pgd-100-last-digits.steps=2"]
    assert main([*arguments, "--source", source]) == 0
    assert f"crafted on {source}, judged on {model}" in capsys.readouterr().out
    assert main(arguments) == 0
    (one, other) = (read_eval(job.results, model, path.stem) for path in sorted((tmp_path / "evals" / model).iterdir()))
    assert {one.source, other.source} == {None, Source(source, read_run(job.results, source).weights_sha256)}
    assert main([*arguments, "--source", source, "--set", "pgd-100-last-digits.stop=first"]) == 2
    assert "runs to its last iterate" in capsys.readouterr().err
    assert main([*arguments, "--source", "nobody"]) == 2
    assert "'nobody' is no registered run" in capsys.readouterr().err
