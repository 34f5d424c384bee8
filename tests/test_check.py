"""Laws of bench.check: a moved number fails both ways, and so does whatever cannot be compared."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import scipy.stats
from hand_made import fill, plan_2x2

from bench.check import check, reference_path, write_reference
from bench.config import UserError
from bench.plan import Plan
from bench.records import Results
from bench.tables import table

ALL = {("AT", "Clean"): [1] * 400, ("AT", "C&W"): [1] * 200 + [0] * 200}
ALL |= {("MAT_h2", "Clean"): [1] * 399 + [0], ("MAT_h2", "C&W"): [1] * 240 + [0] * 160}
PLAN = plan_2x2(images=400)


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    results = Results(tmp_path / "results")
    fill(PLAN, results, ALL)
    return table(PLAN, results)


@pytest.fixture
def reference(frame: pd.DataFrame, tmp_path: Path) -> Path:
    return write_reference(PLAN, frame, tmp_path / "reference.csv")


def moved(frame: pd.DataFrame, points: float, column: str = "C&W") -> pd.DataFrame:
    return frame.assign(accuracy=frame["accuracy"].where(frame["column"] != column, frame["accuracy"] + points / 100))


def failures(frame: pd.DataFrame, reference: Path, plan: Plan = PLAN) -> list[str]:
    outcome = check(plan, frame, reference)
    assert outcome.ok == (len(outcome.lines) == 1), "one line for every failure and the summary"
    return outcome.lines[:-1]


def test_the_numbers_that_made_the_reference_pass(frame: pd.DataFrame, reference: Path):
    assert failures(frame, reference) == []


def test_the_tolerance_is_half_the_interval_and_at_least_two_points(frame: pd.DataFrame, reference: Path):
    tolerance = pd.read_csv(reference)["tolerance_percent"].tolist()
    assert tolerance[0] == 2.0 and tolerance[1] == pytest.approx(50 * (frame["high"] - frame["low"])[1], abs=1e-3)
    assert 4 < tolerance[1] < 6


def test_with_seeds_the_tolerance_is_the_prediction_interval_of_one_more(tmp_path: Path):
    """The spread is pooled over the rows of a column; 2 rows x (3 - 1) degrees of freedom, 4 cells."""
    plan, results = plan_2x2(seeds=(0, 1, 2), images=400), Results(tmp_path / "results")
    fill(plan, results, ALL)
    seeds = table(plan, results).assign(seed_spread=[0.003, 0.02, 0.004, 0.04])
    tolerance = pd.read_csv(write_reference(plan, seeds, tmp_path / "r.csv"))["tolerance_percent"].tolist()
    t = scipy.stats.t(4).ppf(1 - 0.001 / 2 / 4)
    clean, attacked = ((a**2 + b**2) / 2 for a, b in ((0.3, 0.4), (2, 4)))
    assert tolerance[0] == tolerance[2] == pytest.approx(t * (clean * 4 / 3) ** 0.5, abs=1e-3)
    assert tolerance[1] == tolerance[3] == pytest.approx(t * (attacked * 4 / 3) ** 0.5, abs=1e-3)


def test_within_the_tolerance_passes(frame: pd.DataFrame, reference: Path):
    assert failures(moved(frame, 4.5), reference) == failures(moved(frame, -4.5), reference) == []


@pytest.mark.parametrize(("points", "words"), [(6, "weaker attack"), (-6, "worse model")])
def test_a_number_that_moved_fails_both_ways_and_says_which(
    frame: pd.DataFrame, reference: Path, points: float, words: str
):
    found = failures(moved(frame, points), reference)
    assert len(found) == 2 and all(words in line and f"{points:+.2f} points" in line for line in found)
    assert "AT / C&W" in found[0]


def test_a_clean_column_blames_no_attack(frame: pd.DataFrame, reference: Path):
    found = failures(moved(frame, -3, "Clean"), reference)
    assert len(found) == 2 and all("worse model" in line and "attack" not in line for line in found)


def test_a_cell_without_a_number_fails(tmp_path: Path, reference: Path):
    results = Results(tmp_path / "other")
    fill(PLAN, results, {key: value for key, value in ALL.items() if key != ("AT", "C&W")})
    found = failures(table(PLAN, results), reference)
    assert len(found) == 1 and "missing" in found[0]
    with pytest.raises(UserError, match="no reference"):
        write_reference(PLAN, table(PLAN, results), tmp_path / "x.csv")
    assert not (tmp_path / "x.csv").exists()


def test_a_cell_that_only_one_side_has_fails(frame: pd.DataFrame, reference: Path):
    assert "not in the table" in failures(frame.iloc[1:], reference)[0]
    reference.write_text("".join(reference.read_text().splitlines(keepends=True)[:-1]))
    assert "not in the reference" in failures(frame, reference)[0]


def test_another_number_of_images_fails(frame: pd.DataFrame, reference: Path):
    found = failures(frame.assign(n=399), reference)
    assert len(found) == 4 and "399 images, the reference on 400" in found[0]


def test_no_or_a_broken_reference_is_a_sentence(frame: pd.DataFrame, reference: Path, tmp_path: Path):
    with pytest.raises(UserError, match="bench check --update"):
        check(PLAN, frame, tmp_path / "none.csv")
    for text in ("", "a,b\n1,2\n", reference.read_text().replace("400", "")):
        reference.write_text(text)
        with pytest.raises(UserError, match=r"reference\.csv"):
            check(PLAN, frame, reference)


def test_the_reference_lies_beside_the_papers():
    assert reference_path("table2-digits").as_posix() == "results/reference/table2-digits.csv"
