"""Laws of bench.tables.cells and bench.ground.stats: no number without its records, and intervals checked by hand."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hand_made import MADE_BY, eval_record, fill, frame, of_cell, plan_2x2, run_record, with_distances

from bench.ground.config import UserError
from bench.ground.stats import mcnemar, over_seeds, wilson
from bench.ledger.errors import ErrorRecord, write_error
from bench.ledger.evals import write_eval
from bench.ledger.folder import Results
from bench.ledger.plan import Plan
from bench.ledger.runs import write_run
from bench.ledger.spec import Column
from bench.tables.cells import Broken, table, union_robust

ALL = {("AT", "Clean"): [1, 1, 1, 1], ("AT", "C&W"): [1, 1, 1, 0]}
ALL |= {("MAT_h2", "Clean"): [1, 1, 0, 1], ("MAT_h2", "C&W"): [0, 1, 0, 1]}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path)


def cell(results: Results, row: str = "MAT_h2", column: str = "C&W", **plan: object) -> dict:
    made = table(plan_2x2(**plan), results)
    return made[(made["row"] == row) & (made["column"] == column)].to_dict("records")[0]


def test_wilson_by_hand():
    # p = 0.8, n = 10, z = 1.959964: (0.8 + 0.1920729 -+ 1.959964 * 0.1600114) / 1.3841459
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.490162, abs=1e-6) and high == pytest.approx(0.943318, abs=1e-6)
    assert wilson(0, 4)[0] == 0.0 and wilson(4, 4)[1] == 1.0
    assert wilson(4, 4)[0] == pytest.approx(4 / (4 + 1.959964**2), abs=1e-6)


def test_wilson_agrees_with_scipy():
    from scipy.stats import binomtest

    for k, n in [(0, 7), (3, 7), (7, 7), (4321, 10_000)]:
        peer = binomtest(k, n).proportion_ci(0.95, "wilson")
        assert wilson(k, n) == pytest.approx((peer.low, peer.high), abs=1e-12)


@pytest.mark.parametrize("arguments", [(5, 4), (-1, 4), (0, 0)])
def test_what_is_no_share_has_no_interval(arguments: tuple[int, int]):
    with pytest.raises(ValueError, match="no share"):
        wilson(*arguments)


def test_seeds_by_hand():
    flags = np.array([[1, 1, 0, 0], [1, 1, 1, 0]], dtype=bool)
    share, spread = over_seeds(flags)
    assert (share.n, share.value) == (4, 0.625)
    assert spread == pytest.approx(sqrt(2 * 0.125**2))  # shares 0.5 and 0.75 around 0.625, S - 1 = 1


def test_the_interval_over_seeds_and_images_by_hand():
    from scipy.stats import t

    # shares 0.4 ... 0.6, nested: spread^2 / 5 = 0.00625 / 5; 400 images with mean 1, then 50 each with 0.8,
    # 0.6, 0.4 and 0.2, 400 with 0: the sum of squares around 0.5 is 210
    flags = np.arange(1000) < np.array([[400], [450], [500], [550], [600]])
    share, spread = over_seeds(flags)
    from_seeds, from_images = 0.00125, 210 / 999 / 1000
    half = sqrt(t(4).ppf(0.975) ** 2 * from_seeds + t(999).ppf(0.975) ** 2 * from_images)
    assert spread == pytest.approx(sqrt(0.00625)) and 0.1 < half < 0.11
    assert (share.low, share.high) == pytest.approx((0.5 - half, 0.5 + half))


def test_seeds_that_disagree_widen_the_interval_and_one_seed_is_wilson():
    rng = np.random.default_rng(0)
    agree = np.tile(rng.random(400) < 0.5, (3, 1))
    disagree = np.stack([rng.random(400) < p for p in (0.3, 0.5, 0.7)])
    (narrow, none), (wide, spread) = over_seeds(agree), over_seeds(disagree)
    assert none == 0 and spread is not None and spread > 0.1
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    one, no_spread = over_seeds(agree[:1])
    assert no_spread is None and (one.low, one.high) == wilson(agree[0].sum(), 400)


def test_the_interval_over_seeds_and_images_covers_what_it_says():
    """Seeds and images both drawn anew: 95 % intervals must hold the truth in about 95 % of 300 trials."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(300):
        score = rng.normal(0, 1, (1, 200)) + rng.normal(0, 0.2, (3, 1)) + rng.normal(0, 0.5, (3, 200))
        share, _ = over_seeds(score > 0)
        hits += share.low <= 0.5 <= share.high
    assert 0.92 <= hits / 300 <= 1.0


def test_mcnemar_by_hand():
    first, second = [1] * 5 + [0] + [1] * 10, [0] * 5 + [1] + [1] * 10
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 6) / 2**6)  # 5 against 1 of 6 differing images
    assert mcnemar(first, first) == 1.0
    with pytest.raises(ValueError, match="not the same images"):
        mcnemar([1], [1, 0])


def test_a_full_table_has_numbers_in_the_plans_order(results: Results):
    fill(plan_2x2(), results, ALL)
    made = table(plan_2x2(), results)
    assert made["accuracy"].tolist() == [1.0, 0.75, 0.75, 0.5]
    assert made["state"].tolist() == ["ok"] * 4 and made["error"].tolist() == [None] * 4
    assert made["n"].tolist() == [4] * 4 and made["seed_spread"].isna().all()


def test_a_missing_record_is_named_and_no_number(results: Results):
    fill(plan_2x2(), results, {key: value for key, value in ALL.items() if key != ("MAT_h2", "C&W")})
    found = cell(results)
    assert found["state"] == "missing" and np.isnan(found["accuracy"])
    assert "MAT_h2 / C&W, seed 0" in found["error"]
    assert "no trained network" in cell(Results(results.root / "empty"))["error"]


def test_one_seed_missing_leaves_no_number(results: Results):
    fill(plan_2x2(seeds=(0,)), results, ALL)
    assert cell(results, seeds=(0,))["state"] == "ok"
    found = cell(results, seeds=(0, 1))
    assert found["state"] == "missing" and "seed 1" in found["error"] and np.isnan(found["accuracy"])


@pytest.mark.parametrize("whole_training", [True, False])
def test_an_error_record_is_an_error_cell(results: Results, whole_training: bool):
    plan = plan_2x2()
    target = next(c for c in plan.cells if (c.row, c.column) == ("MAT_h2", "C&W"))
    if not whole_training:
        write_run(results, run_record(target.run_id))
    sibling = target.run_id.replace("h2", "h1") if whole_training else target.run_id
    write_error(results, ErrorRecord(sibling, None if whole_training else target.eval_id, "NaN loss", "", MADE_BY))
    found = cell(results)
    assert found["state"] == "error" and "NaN loss" in found["error"] and np.isnan(found["accuracy"])


def test_a_checkpoint_that_was_chosen_with_test_images_is_no_number(tmp_path: Path):
    plan, results = plan_2x2(validation_sha256="validation"), Results(tmp_path)
    fill(plan, results, {("AT", "Clean"): [1] * 4, ("MAT_h2", "Clean"): [1] * 4})
    at, mat = (next(cell.run_id for cell in plan.cells if cell.row == row) for row in ("AT", "MAT_h2"))
    write_run(results, replace(run_record(at), validation_sha256="test"))
    write_run(results, replace(run_record(mat), validation_sha256="validation"))
    found = table(plan, results).set_index(["row", "column"])
    assert found.loc[("AT", "Clean"), "state"] == "stale"
    assert "chosen with other images than the validation images" in found.loc[("AT", "Clean"), "error"]
    assert found.loc[("MAT_h2", "Clean"), "state"] == "ok"


@pytest.mark.parametrize(
    ("change", "words"), [({"weights": "old"}, "other weights"), ({"images_sha256": "old"}, "other images")]
)
def test_a_record_of_other_weights_or_images_is_stale(results: Results, change: dict, words: str):
    fill(plan_2x2(), results, ALL)
    target = next(c for c in plan_2x2().cells if (c.row, c.column) == ("MAT_h2", "C&W"))
    write_eval(results, eval_record(target.run_id, target.eval_id, frame(ALL["MAT_h2", "C&W"]), **change))
    found = cell(results)
    assert found["state"] == "stale" and words in found["error"] and np.isnan(found["accuracy"])


def test_a_record_of_fewer_images_than_planned_is_stale(results: Results):
    fill(plan_2x2(), results, ALL | {("MAT_h2", "C&W"): [1, 1]})
    assert "2 images, the plan 4" in cell(results)["error"]


def test_records_of_another_setting_are_not_read(results: Results):
    fill(plan_2x2(eps=8 / 255), results, ALL)
    assert cell(results, eps=4 / 255)["state"] == "missing"


def test_a_union_is_not_the_smallest_column():
    run = "at-dots-cnn-s0-12345678.best"
    first = eval_record(run, "a-n4-00000000", frame([True, True, False, False]))
    shuffled = frame([False, False, True, True]).iloc[::-1].reset_index(drop=True)
    union = union_robust([first, eval_record(run, "b-n4-00000000", shuffled)])
    assert union.mean() == 0.0 < min(first.images["robust"].mean(), shuffled["robust"].mean())


@pytest.mark.parametrize("change", [{"images_sha256": "other"}, {"weights": "other"}])
def test_a_union_over_different_images_or_networks_is_refused(change: dict):
    run = "at-dots-cnn-s0-12345678.best"
    first = eval_record(run, "a-n1-00000000", frame([True]))
    with pytest.raises(UserError, match="union over different"):
        union_robust([first, eval_record(run, "b-n1-00000000", frame([True]), **change)])


UNION = (Column("DDN", "ddn"), Column("worst", union=("C&W", "DDN")), Column("both", mean=("C&W", "DDN")))
SIX = {("AT", "Clean"): [1, 1, 1, 1, 1, 0], ("AT", "C&W"): [1, 1, 0, 0, 0, 0], ("AT", "DDN"): [1, 0, 0, 1, 0, 0]}


def filled(results: Results, verdicts: dict, **plan: object) -> tuple[Plan, pd.DataFrame]:
    """A plan with UNION and its table; images that "Clean" has wrong are wrong without an attack everywhere."""
    made = plan_2x2(more=UNION, images=6, **plan)
    fill(made, results, verdicts)
    for one in made.cells:
        if (one.row, one.column) in verdicts:
            images = frame(verdicts[one.row, one.column], clean=verdicts[one.row, "Clean"])
            write_eval(results, of_cell(made, one, images))
    return made, table(made, results).set_index(["row", "column"])


def test_a_union_and_a_mean_by_hand(results: Results):
    _, made = filled(results, SIX)
    worst, both = made.loc["AT", "worst"], made.loc["AT", "both"]
    assert (worst["accuracy"], worst["n"], worst["state"]) == (pytest.approx(1 / 6), 6, "ok")
    assert (worst["low"], worst["high"]) == pytest.approx(wilson(1, 6))
    assert worst["broken_by"] == [Broken("C&W", 3, 1), Broken("DDN", 1, 1)], "the sixth is wrong without an attack"
    # the images' means are 1, .5, 0, .5, 0, 0: variance 1.5/6 - 1/9 = 5/36; 6 images know as much as 6 (2/9) / (5/36)
    assert both["accuracy"] == pytest.approx(1 / 3) and both["broken_by"] is None
    assert (both["low"], both["high"]) == pytest.approx(wilson(3.2, 9.6))


def test_a_part_of_a_union_may_be_a_union(results: Results):
    more = (*UNION, Column("all", union=("Clean", "worst")), Column("means", mean=("worst", "Clean")))
    made = plan_2x2(more=more, images=6)
    _, plain = filled(results, SIX)
    nested = table(made, results).set_index(["row", "column"]).loc["AT"]
    assert nested.loc["all", "accuracy"] == plain.loc[("AT", "worst"), "accuracy"]
    assert nested.loc["all", "broken_by"] == [Broken("Clean", 0, 0), Broken("worst", 4, 4)]
    assert nested.loc["means", "accuracy"] == pytest.approx((1 / 6 + 5 / 6) / 2)


def test_unions_and_means_over_seeds(results: Results):
    """Union and mean are of each seed's own records; then come the seeds."""
    made, _ = filled(results, SIX, seeds=(0, 1))
    for one in made.cells:
        if (one.row, one.column, one.seed) == ("AT", "DDN", 1):
            images = frame([1, 1, 1, 1, 1, 0], clean=SIX["AT", "Clean"])
            write_eval(results, of_cell(made, one, images))
    both = table(made, results).set_index(["row", "column"]).loc["AT"]
    worst, mean = both.loc["worst"], both.loc["both"]
    assert worst["accuracy"] == pytest.approx((1 / 6 + 2 / 6) / 2) and worst["seeds"] == 2
    assert worst["seed_spread"] == pytest.approx(sqrt(2) / 12)
    assert worst["broken_by"] == [Broken("C&W", 6, 4), Broken("DDN", 1, 1)], "summed over seeds"
    assert mean["accuracy"] == pytest.approx((4 + 7) / 24) and mean["low"] < 0.5 < mean["high"]


def test_a_union_of_a_missing_column_is_no_number(results: Results):
    _, made = filled(results, {key: value for key, value in SIX.items() if key[1] != "DDN"})
    for column in ("worst", "both"):
        found = made.loc["AT", column]
        assert found["state"] == "missing" and np.isnan(found["accuracy"]) and found["broken_by"] is None
        assert found["error"] == f"AT / {column}: no number for DDN"


def test_the_interval_of_a_mean_of_columns_covers_what_it_says():
    """Three columns on the same images, from unrelated to equal: about 95 % of 400 intervals hold the truth."""
    rng = np.random.default_rng(2)
    for together in (0.0, 0.7, 1.0):
        shared = rng.random((400, 150, 1)) < together
        flags = np.where(shared, rng.random((400, 150, 1)), rng.random((400, 150, 3))) < 0.3
        shares = [over_seeds(one[None])[0] for one in flags]
        assert 0.92 <= np.mean([share.low <= 0.3 <= share.high for share in shares]) <= 0.98
        width = np.mean([share.high - share.low for share in shares])
        assert width == pytest.approx(2 * 1.96 * sqrt(0.21 / 150 * (1 / 3 + 2 / 3 * together)), rel=0.05)


def test_a_mean_where_columns_agree_is_one_column_and_one_of_alike_images_is_not_certain():
    flags = np.array([[1, 1, 0, 0, 1]], dtype=bool)
    assert over_seeds(np.repeat(flags[..., None], 3, axis=2)) == over_seeds(flags)
    half = np.tile([True, False], (1, 5, 1))
    assert over_seeds(half)[0][2:] == pytest.approx(wilson(5, 10)), "k columns are at most k times the images"
    assert over_seeds(np.ones((1, 5, 2), dtype=bool))[0][2:] == pytest.approx(wilson(5, 5))


def test_the_distances_of_one_record_decide_at_every_radius(results: Results):
    """Fooled at 0.2, 0.5 and 0.8, never fooled, wrong without an attack."""
    radii = [0.0, 0.2, 0.49, 0.5, 1.0]
    plan = plan_2x2(more=[Column("DDN", "ddn"), *(Column(f"at {at}", "ddn", at=at) for at in radii)], images=5)
    fill(plan, results, {})
    evals = {cell.eval_id for cell in plan.cells if cell.column_attack == "ddn"}
    assert len(evals) == 1, "one record is all it takes"
    for one in plan.cells:
        if one.column == "DDN":
            write_eval(results, with_distances(one.run_id, one.eval_id, [0.2, 0.5, 0.8, 0.0, 0.0]))
    made = table(plan, results).set_index(["row", "column"])["accuracy"]["AT"]
    assert made["DDN"] == pytest.approx(0.4), "the record's own radius is 0.5"
    assert [made[f"at {at}"] for at in radii] == pytest.approx([0.8, 0.6, 0.6, 0.4, 0.2])


def test_an_attack_that_has_no_distances_has_no_other_radius(results: Results):
    plan = plan_2x2(more=[Column("DDN at 1", "ddn", at=1.0)])
    own = {"attack": "ddn", "version": 1, "settings": {"threat": {"norm": "own", "eps": 1.0}}}
    plan = replace(plan, attacks=plan.attacks | {cell.attack: own for cell in plan.cells if cell.at})
    fill(plan, results, {})
    for one in plan.cells:
        write_eval(results, of_cell(plan, one, frame([1] * 4)))
    with pytest.raises(UserError, match="norm 'own', which has no radius"):
        table(plan, results)
