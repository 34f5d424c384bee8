"""bench.tables.cost: every training and record counted once, with teachers; nothing where one lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hand_made import MADE_BY, fill, frame, of_cell, plan_2x2, run_record

from bench.commands.cli import main
from bench.ground.config import UserError
from bench.ground.provenance import Cost, TrainingCost
from bench.ledger.evals import write_eval
from bench.ledger.folder import Results, Source
from bench.ledger.runs import read_run, write_run
from bench.ledger.spec import Column
from bench.tables.cost import FORMATS, costs, render

ALL = {(row, column): [1, 1, 1, 0] for row in ("AT", "MAT_h2") for column in ("Clean", "C&W")}


def test_a_row_costs_its_training_and_every_record_once(tmp_path: Path):
    plan, results = plan_2x2(seeds=(0, 1)), Results(tmp_path)
    fill(plan, results, ALL)
    found = costs(plan, results).set_index("row")
    assert found.loc["AT", "training_forward_passes"] == 100 and found.loc["AT", "training_seconds"] == 1.5
    assert found.loc["AT", "attack_forward_passes"] == 40, "20 of each of two columns, a mean over two seeds"
    assert found.loc["AT", "attack_backward_passes"] == 20 and found.loc["AT", "attack_seconds"] == 1.0
    assert list(found["machines"]) == ["cpu, 2 threads"] * 2 and list(found["seeds"]) == [2, 2]


def test_seeds_of_different_cost_have_their_mean_and_every_machine(tmp_path: Path):
    plan, results = plan_2x2(seeds=(0, 1)), Results(tmp_path)
    fill(plan, results, ALL)
    second = next(cell for cell in plan.cells if cell.seed == 1 and (cell.row, cell.column) == ("AT", "C&W"))
    record = of_cell(plan, second, frame([1, 1, 1, 0]))
    made = replace(MADE_BY, device="NVIDIA H100", threads=1)
    write_eval(results, replace(record, cost=Cost(8.5, 100, 10), provenance=made))
    line = costs(plan, results).set_index("row").loc["AT"]
    assert (line["attack_forward_passes"], line["attack_seconds"]) == (80.0, 5.0)
    assert line["machines"] == "NVIDIA H100, 1 thread; cpu, 2 threads"


def test_teachers_are_counted_and_one_that_two_seeds_share_once(tmp_path: Path):
    plan, results = plan_2x2(), Results(tmp_path)
    fill(plan, results, ALL)
    teacher = replace(run_record("at-dots-cnn-s7-12345678.best"), cost=TrainingCost(10.0, 1000, 500, 1.0, 1))
    write_run(results, teacher)
    student = next(cell.run_id for cell in plan.cells if cell.row == "AT")
    write_run(results, replace(read_run(results, student), teacher=Source(teacher.run_id, "w")))
    line = costs(plan, results).set_index("row").loc["AT"]
    assert (line["training_forward_passes"], line["training_backward_passes"]) == (1100, 600)
    assert line["training_seconds"] == 11.5


def test_a_record_read_at_two_radii_is_counted_once(tmp_path: Path):
    at = [Column("near", "ddn", at=0.1), Column("far", "ddn", at=0.4)]
    plan, results = plan_2x2(more=at), Results(tmp_path)
    fill(plan, results, ALL | {(row, one.label): [1] * 4 for row in ("AT", "MAT_h2") for one in at})
    assert list(costs(plan, results)["attack_forward_passes"]) == [60, 60]


def test_a_row_without_all_its_records_has_no_number(tmp_path: Path):
    plan, results = plan_2x2(), Results(tmp_path)
    fill(plan, results, {key: value for key, value in ALL.items() if key != ("MAT_h2", "C&W")})
    found = costs(plan, results).set_index("row")
    assert found.loc["MAT_h2"].filter(like="passes").isna().all() and found.loc["AT"].notna().all()
    for style in FORMATS:
        text = render(plan, costs(plan, results).reset_index(drop=True), style)
        assert "missing" in text or style == "csv"
    with pytest.raises(UserError, match="'excel'"):
        render(plan, costs(plan, results), "excel")


def test_the_command_says_what_rows_cost_and_what_does_not_go_with_it(tmp_path: Path, capsys: pytest.CaptureFixture):
    results = Path(__file__).parents[2] / "results" / "digits-cnn-small"
    out = tmp_path / "cost.csv"
    given = ["report", "like-for-like", "--results", str(results), "--cost"]
    assert main([*given, "--format", "csv", "--out", str(out)]) == 0
    passes = pd.read_csv(out).set_index("row")
    both = passes["training_forward_passes"] + passes["training_backward_passes"]
    assert both["MAT3-h1"] == both["MAT3-h3"] == pytest.approx(3 * both["AT"], rel=0.1)
    assert both["ARD"] > 2 * both["AT"], "with its teacher"
    capsys.readouterr()
    for more in (
        ["--baseline", "AT"],
        ["--no-intervals"],
        ["--figures"],
        ["--format", "html", "--out", f"{tmp_path}/"],
    ):
        assert main([*given, *more]) == 2
        assert capsys.readouterr().err.count("--cost goes with --format and --out FILE alone") == 1
