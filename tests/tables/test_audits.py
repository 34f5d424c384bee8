"""What a table says of an audit: in the cell, under the table, in the CSV; and nothing where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hand_made import fill, frame, of_cell, plan_2x2, run_record

from bench.ledger.audits import Audit
from bench.ledger.evals import read_eval, write_eval
from bench.ledger.folder import Results
from bench.ledger.runs import write_run
from bench.tables import cells, report

# strong: 20 + 20 passes an image, 4 images stand; autoattack: 200 on the two of them that were drawn
FOUND_NOTHING = Audit(
    "autoattack", ["apgd", "square"], 4, 2, {"apgd": 0, "square": 0}, {}, [80, 80], [300, 100], [0, 0]
)


def made(tmp_path: Path, audits: list[Audit | None], style: str, seeds: tuple[int, ...] = (0,)) -> str:
    """The rendered table whose column C&W is audited so in row AT, one audit a seed, and not at all in the other."""
    plan, results = plan_2x2(seeds), Results(tmp_path)
    fill(plan, results, {(row, "Clean"): [True] * 4 for row in plan.rows})
    for cell in plan.cells:
        if cell.column == "C&W":
            write_run(results, run_record(cell.run_id))
            record = of_cell(plan, cell, frame([True] * 4))
            if cell.row == "AT":
                audit = audits[seeds.index(cell.seed)]
                record = replace(record, audit=audit, settings=record.settings | {"audit": 2 if audit else 0})
            write_eval(results, record)
    return report.render(plan, cells.table(plan, results), style)


@pytest.mark.parametrize("style", ["markdown", "text", "html"])
def test_the_cell_shows_the_number_the_bound_and_what_was_saved(tmp_path: Path, style: str):
    """0 of 2 leave 1 - 0.05^(1/2) = 77.64 % open, of all 4 images; 560 passes in place of 800."""
    told = made(tmp_path, [FOUND_NOTHING], style)
    assert told.count("(audit: at most -77.64, 30 % saved)") == 1 and told.count("not audited") == 0
    assert "Audit of C&amp;W: AT: " in told or "Audit of C&W: AT: " in told
    assert "autoattack breaks 0 of 2 drawn at random of the 4 that stand" in told


def test_what_it_broke_is_said_in_every_format(tmp_path: Path):
    broken = replace(FOUND_NOTHING, found={"apgd": 0, "square": 1}, broken_by={"square": [1, 3]}, rest_passes=[100, 0])
    for style in ("markdown", "latex", "html", "text"):
        told = made(tmp_path / style, [broken], style)
        assert "1 of 2 drawn at random" in told and "(square 1); run on the others too, these break 1 more" in told


def test_without_its_audit_the_cell_says_so(tmp_path: Path):
    told = made(tmp_path, [None], "text")
    assert "(not audited)" in told and "Audit of C&W: AT: not audited." in told
    told = made(tmp_path / "two", [FOUND_NOTHING, None], "text", (0, 1))
    assert told.count("(not audited)") == 1 and "AT: seed 0: autoattack breaks 0" in told
    assert "AT: seed 1: not audited" in told


def test_the_csv_has_its_columns_only_where_something_is_audited(tmp_path: Path):
    plan = plan_2x2()
    fill(plan, Results(tmp_path), {(row, column): [True] * 4 for row in plan.rows for column in plan.columns})
    assert "audit" not in report.render(plan, cells.table(plan, Results(tmp_path)), "csv")
    head, *lines = made(tmp_path / "audited", [FOUND_NOTHING], "csv").splitlines()
    assert head.startswith(
        "table,row,column,n,seeds,accuracy_percent,low_percent,high_percent,seed_spread_percent,audit_"
    )
    assert [",77.6393,30.0000," in line for line in lines] == [False, True, False, False]


def test_an_audit_is_read_as_it_was_written_and_records_without_one_are_as_ever(tmp_path: Path):
    plan, results = plan_2x2(), Results(tmp_path)
    cell = next(cell for cell in plan.cells if cell.column == "C&W")
    record = of_cell(plan, cell, frame([True] * 4))
    path = write_eval(results, record)
    assert b"audit" not in path.read_bytes()
    write_eval(results, replace(record, audit=FOUND_NOTHING))
    assert read_eval(results, cell.run_id, cell.eval_id).audit == FOUND_NOTHING
