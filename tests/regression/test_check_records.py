"""Laws of bench.regression.check against another folder's records: image by image where possible, else by intervals."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from hand_made import fill, plan_2x2
from test_check import ALL, PLAN

from bench.ledger.evals import read_eval, write_eval
from bench.ledger.folder import Results
from bench.ledger.plan import Plan, write_plan
from bench.ledger.spec import Column
from bench.regression.check import check_records
from bench.regression.outcome import CheckResult


def held_to(folder: Path, verdicts: dict, plan: Plan = PLAN, before: Plan = PLAN) -> CheckResult:
    """The verdicts, as the results of `plan`, held to the records of ALL, as those of `before`."""
    now, then = Results(folder / "now"), Results(folder / "then")
    fill(plan, now, verdicts)
    fill(before, then, ALL)
    write_plan(then, before)
    return check_records(plan, now, then)


def test_records_are_held_image_by_image(tmp_path: Path):
    """5 images of 400 lost are inside any tolerance, and of 5 flips that all go one way p is 2 / 2^5: chance. 20 are
    not: p is 2 / 2^20, times 4 cells.
    """
    few = held_to(tmp_path / "few", ALL | {("AT", "C&W"): [1] * 195 + [0] * 205})
    assert few.ok and few.lines == [
        "tiny-dots: AT / C&W: -1.25 points [-2.50, -0.25] from 50.00 %, corrected p = 0.25; "
        "lost with seed 0: 195, 196, 197, 198, 199",
        f"tiny-dots: 4 cells compared image by image, none moved by more than chance ({tmp_path}/few/then)",
    ]
    many = held_to(tmp_path / "many", ALL | {("AT", "C&W"): [0] * 19 + [1] * 180 + [0] * 201})
    assert not many.ok and len(many.lines) == 2
    assert "AT / C&W: a worse model, or a stronger attack; -5.00 points [" in many.lines[0]
    assert "] from 50.00 %, corrected p = 7.6e-06; lost with seed 0: 0, 1, 2," in many.lines[0]
    assert ", 18, 199" in many.lines[0] and "won" not in many.lines[0]
    better = held_to(tmp_path / "better", ALL | {("AT", "C&W"): [1] * 225 + [0] * 175})
    assert "AT / C&W: a weaker attack, or a better model; +6.25 points" in better.lines[0]
    assert "219 and 5 more" in better.lines[0]


def test_what_flipped_both_ways_is_told_by_network(tmp_path: Path):
    plan = plan_2x2(images=400, seeds=(3, 8))
    swapped = ALL | {("AT", "C&W"): [0] * 200 + [1] * 200}
    outcome = held_to(tmp_path, swapped, plan, plan)
    assert outcome.ok, "as many lost as won"
    worse = held_to(tmp_path / "worse", ALL | {("AT", "C&W"): [0] * 100 + [1] * 100 + [0] * 199 + [1]}, plan, plan)
    assert re.search(r"lost with seed 3: 0, .*won with seed 3: 399; lost with seed 8: 0, .*seed 8: 399", worse.lines[0])


def test_records_of_other_images_are_held_by_their_intervals(tmp_path: Path):
    """100 / 400 - 200 / 400: the ends are Newcombe's, by hand from the two Wilson intervals."""
    before = plan_2x2(images=400, images_sha256="others")
    now, then = Results(tmp_path / "now"), Results(tmp_path / "then")
    fill(PLAN, now, ALL | {("AT", "C&W"): [1] * 100 + [0] * 300})
    fill_others(before, then)
    outcome = check_records(PLAN, now, then)
    assert "compared by their intervals, as images or seeds are others, 1 failed" in outcome.summary
    assert "model, or a stronger attack; -25.00 points [-31.30, -18.39] from 50.00 %" in outcome.lines[0]
    assert "seed" not in outcome.lines[0], "no image has a partner that it could have flipped from"


def test_other_seeds_are_no_pairs(tmp_path: Path):
    """Networks of two seeds differ, rightly: 20 images that only one of two networks is right on are chance here."""
    before = plan_2x2(images=400, seeds=(1,))
    outcome = held_to(tmp_path, ALL | {("AT", "C&W"): [1] * 180 + [0] * 220}, PLAN, before)
    assert outcome.ok and "by their intervals, as images or seeds are others, none moved" in outcome.lines[0]


def test_a_mean_that_has_got_another_column_is_compared_by_its_mean(tmp_path: Path):
    """Of AT 3/4 before, the mean of both columns; with their union as a third it is 2/3: 200 lose 1/6."""
    union = Column("again", union=("Clean", "C&W"))
    now = plan_2x2(images=400, more=[union, Column("mean", mean=("Clean", "C&W", "again"))])
    then = plan_2x2(images=400, more=[union, Column("mean", mean=("Clean", "C&W"))])
    outcome = held_to(tmp_path, ALL, now, then)
    told = {(cell.row, cell.column): cell for cell in outcome.cells}
    assert "-8.33 points" in told["AT", "mean"].words and "lost with seed 0: 200, 201" in told["AT", "mean"].words
    assert "attacked with mean of Clean, C&W, again (" in told["AT", "mean"].words and not told["AT", "mean"].ok


def fill_others(plan: Plan, results: Results) -> None:
    """As `fill` with ALL, of the images of `plan`."""
    fill(plan, results, ALL)
    for cell in plan.cells:
        record = read_eval(results, cell.run_id, cell.eval_id)
        write_eval(results, replace(record, images_sha256=plan.images_sha256))
    write_plan(results, plan)


def test_another_radius_fails_against_records_too(tmp_path: Path):
    plan = plan_2x2(images=400, eps=0.031)
    outcome = held_to(tmp_path, ALL, plan)
    assert [cell.ok for cell in outcome.cells] == [True, False, True, False]
    assert "attacked with Linf 0.031" in outcome.lines[0]


def test_a_cell_that_only_one_folder_has_fails(tmp_path: Path):
    without = {key: value for key, value in ALL.items() if key != ("AT", "C&W")}
    assert "AT / C&W: missing: " in held_to(tmp_path / "a", without).lines[0]
    now, then = Results(tmp_path / "now"), Results(tmp_path / "then")
    fill(PLAN, now, ALL)
    fill(PLAN, then, without)
    write_plan(then, PLAN)
    assert "then has no number: missing: " in check_records(PLAN, now, then).lines[0]
    write_plan(then, replace(PLAN, rows=PLAN.rows[:1], cells=[cell for cell in PLAN.cells if cell.row == "AT"]))
    assert f"MAT_h2 / Clean: not in {tmp_path}/then" in check_records(PLAN, now, then).lines[1]
    fewer = replace(PLAN, rows=PLAN.rows[:1], cells=[cell for cell in PLAN.cells if cell.row == "AT"])
    fill(PLAN, then, ALL)
    write_plan(then, PLAN)
    assert "MAT_h2 / C&W: not in the table" in check_records(fewer, now, then).lines[1]
