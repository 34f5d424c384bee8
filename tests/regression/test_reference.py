"""Numbers that were typed in: how many, and a few read again from the paper; and ours in the docs, from records."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.ledger import plan
from bench.ledger.folder import Results
from bench.tables import cells, figures

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "results" / "reference"


@pytest.fixture(scope="module")
def mat() -> pd.DataFrame:
    return pd.read_csv(FOLDER / "mat.csv")


def test_every_number_of_mats_tables_is_there_once(mat: pd.DataFrame):
    assert len(mat) == 294 and mat["accuracy_percent"].between(0, 100).all()
    assert mat.groupby("table").size().to_dict() == {2: 140, 3: 80, 4: 20, 5: 54}
    assert not mat.duplicated(["table", "dataset", "arch", "method", "column"]).any()
    assert not mat.isna().any(axis=None)


@pytest.mark.parametrize(
    ("number", "method", "column", "value"),
    [(2, "AT", "clean", 84.21), (2, "TRADES", "pgd-100", 52.26), (2, "MAT-h2", "elastic", 57.11),
     (5, "MAT-MAX", "r_worst", 48.0)],
)  # fmt: skip
def test_numbers_of_cifar10_with_resnet18(mat: pd.DataFrame, number: int, method: str, column: str, value: float):
    where = {"table": number, "dataset": "cifar10", "arch": "resnet18", "method": method, "column": column}
    found = mat[(mat[list(where)] == pd.Series(where)).all(axis=1)]
    assert found["accuracy_percent"].tolist() == [value]


def test_cats_numbers_are_there():
    cat = pd.read_csv(FOLDER / "cat.csv")
    assert len(cat) == 34 and cat["accuracy_percent"].between(0, 100).all()
    assert set(cat["column"]) == {"clean", "autoattack"} and not cat.duplicated(["method", "column"]).any()


def test_table2_of_ours_finds_its_reference(mat: pd.DataFrame):
    from bench.ledger.spec import load_spec

    spec = load_spec("table2")
    file, _, number = spec.reference.partition(":")
    published = mat[mat["table"] == int(number)]
    assert (FOLDER / file).exists()
    assert {row.label for row in spec.rows} == set(published["method"])
    assert {column.attack for column in spec.columns} == set(published["column"])


@pytest.mark.parametrize(
    ("folder", "name", "heading"),
    [
        ("cifar10-cnn-a", "like-for-like-cifar10-cnn-a", "## What came out: CIFAR-10"),
        ("digits-cnn-small", "like-for-like-digits", "## What came out: digits"),
    ],
)
def test_the_docs_say_what_the_committed_records_say(folder: str, name: str, heading: str):
    """Every figure of the table below a heading of docs/training.md is made again from the records."""
    results = Results(ROOT / "results" / folder)
    found = plan.read_plan(results, name)
    frame = cells.table(found, results)
    assert set(frame["state"]) == {"ok"} and len(frame) == 15 * 6
    passes = figures.points(found, frame, results).set_index("line")["x"]
    text = (ROOT / "docs" / "training.md").read_text().partition(heading)[2].partition("\n## ")[0]
    said = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in text.splitlines()}
    for row in found.rows:
        told, mean = said[row], frame[frame["row"] == row].set_index("column")["accuracy"]
        assert float(told[0]) == pytest.approx(passes[row] / 1e6, abs=0.051)
        numbers = [float(number.split()[0]) for number in told[1:]]
        assert numbers == pytest.approx([100 * mean[column] for column in found.columns], abs=0.051)
