"""The committed tables are what their records come to, to the byte: a change of an interval, a test or a column is seen
here, and the table is written anew with the release that says so.

BENCH_TABLES=write python -m pytest tests/tables/test_committed.py rewrites the files.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.commands.cli import main
from bench.ledger.folder import Results
from bench.ledger.plan import list_plans, read_plan
from bench.tables import cells, figures, report

ROOT = Path(__file__).parents[2]
FOLDERS = ("digits-cnn-small", "cifar10-cnn-a")


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_committed_tables_are_what_their_records_come_to(folder: str):
    results = Results(ROOT / "results" / folder)
    assert list_plans(results), "the plans are in the repository"
    for name in list_plans(results):
        plan = read_plan(results, name)
        frame = cells.table(plan, results)
        assert (frame["state"] == "ok").all()
        made = {results.table(name): report.render(plan, frame, "csv")}
        if plan.figure is not None:
            shown = figures.points(plan, frame, results)
            made[results.table(name).with_name(f"{name}-figure.csv")] = shown.to_csv(index=False)
        for path, text in made.items():
            if os.environ.get("BENCH_TABLES") == "write":
                path.write_text(text)
            assert path.read_text() == text, f"{path} is not what its records come to now"


@pytest.mark.parametrize("folder", FOLDERS)
def test_bench_report_writes_the_committed_table(folder: str, tmp_path: Path):
    results, out = Results(ROOT / "results" / folder), tmp_path / "table.csv"
    (name,) = list_plans(results)
    assert main(["report", name, "--results", str(results.root), "--format", "csv", "--out", str(out)]) == 0
    assert out.read_bytes() == results.table(name).read_bytes()
