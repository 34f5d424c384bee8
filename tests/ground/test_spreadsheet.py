"""A name that a spreadsheet would run is text in every CSV, and comes back as it was."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pandas as pd
import pytest
from hand_made import fill, plan_2x2, renamed
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.ground.spreadsheet import guarded, read_csv, to_csv, unguarded
from bench.ledger.folder import Results
from bench.ledger.plan import write_plan
from bench.regression.reference import read_reference, write_reference
from bench.tables import report
from bench.tables.cells import table

NAMES = [
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=HYPERLINK(\"http://x\",\"y\")", "=cmd|' /C calc'!A0", "'=1",
    "''+1",
    "a;=1", "a|=1", "a\n=1", "a\t@x", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201", "- item", "'",
    "=\"quoted, and more\"",
]  # fmt: skip
HARMLESS = ["AT", "'s", "a=1", "MAT_h2", "1e-05", "", "at.best;mat.best", "8/255 - or so", "NA", "'quoted'", "a\nb"]
RUNS = re.compile("^[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20]")


@pytest.mark.parametrize("name", NAMES)
def test_a_formula_is_text_and_comes_back(name):
    assert guarded(name) == name == "'" or guarded(name) != name
    assert all(not RUNS.match(part) for part in re.split("[;|\n\r\t]", guarded(name)))
    assert unguarded(guarded(name)) == name and unguarded(guarded(guarded(name))) == guarded(name)


@pytest.mark.parametrize("name", HARMLESS)
def test_other_names_are_written_as_they_are(name):
    assert guarded(name) == name == unguarded(name)


@settings(database=None, deadline=None)
@given(st.text(st.sampled_from("=+-@'\t\r\n;|a \"\uff1d,"), max_size=8))
def test_any_name_comes_back(name):
    assert unguarded(guarded(name)) == name
    assert not any(RUNS.match(part) for part in re.split("[;|\n]", guarded(name)) if "'" not in part[:1])


@pytest.mark.parametrize("name", [one for one in NAMES + HARMLESS if one not in ("", "MAT_h2")])
def test_a_table_and_a_reference_hold_the_names_of_their_plan(name, tmp_path: Path):
    """Through a real CSV reader, and back through ours."""
    results = Results(tmp_path)
    plan = renamed(plan_2x2(), "AT", name)
    fill(plan, results, {(cell.row, cell.column): [True, False] * 2 for cell in plan.cells})
    write_plan(results, plan)
    made = table(plan, results)
    path = report.write_table(plan, made, results)
    for file in (path, write_reference(plan, made, tmp_path / "reference.csv")):
        lines = list(csv.reader(io.StringIO(file.read_bytes().decode(), newline="")))
        assert lines[1][1] == guarded(name) and not any(RUNS.match(cell) for line in lines for cell in line)
    assert set(read_csv(path)["row"]) == {name, "MAT_h2"}
    assert (name, "Clean") in read_reference(tmp_path / "reference.csv", plan.name)


def test_numbers_below_0_stay_numbers():
    assert to_csv(pd.DataFrame({"a": [-1.5, 2.0], "=b": ["-1", "x"]})) == "a,'=b\n-1.5,'-1\n2.0,x\n"
