"""Laws of paired comparisons: exact tests by hand and by enumeration, error rates, what a table says."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hand_made import eval_record, fill, frame, plan_2x2, spec_2x2
from scipy.stats import binom, binomtest

from bench.ground.config import UserError, build
from bench.ground.stats import compare, compare_apart, foresight, holm, mcnemar, p_equal, widest, wilson
from bench.ledger.evals import write_eval
from bench.ledger.folder import Results
from bench.ledger.spec import Column, Row, TableSpec
from bench.tables import report
from bench.tables.cells import table
from bench.tables.compare import Robust, between_rows

ROWS = [Row("AT", "at"), Row("MAT_h1", "mat"), Row("MAT_h2", "mat", member=1)]


def correlated(rng: np.random.Generator, gap: float, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts of two networks that mostly agree; the second is right less often by `gap`."""
    easy = rng.normal(0, 1, shape)
    first, second = (easy + rng.normal(0, 0.5, shape) for _ in range(2))
    return first > 0, second > np.quantile(second, 0.5 + gap)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (3, 7), (5, 5), (700, 800)])
def test_mcnemar_is_the_exact_binomial_test(wins: int, losses: int):
    first = np.r_[np.ones(wins), np.zeros(losses), np.ones(9)]
    second = np.r_[np.zeros(wins), np.ones(losses), np.ones(9)]
    peer = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar(first, second) == p_equal(first[None], second[None]) == pytest.approx(peer, abs=1e-12)


def test_the_test_of_a_mean_of_columns_is_that_of_all_flips_of_signs():
    rng = np.random.default_rng(0)
    for columns, n in product((2, 3, 4), (1, 5, 8)):
        first, second = (rng.random((1, n, columns)) < 0.6 for _ in range(2))
        differences = first.mean((0, 2)) - second.mean((0, 2))
        sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=n)]
        expected = np.mean([one >= abs(differences.sum()) - 1e-9 for one in sums])
        assert p_equal(first, second) == pytest.approx(expected, abs=1e-12)


def test_columns_that_agree_are_one_column():
    first, second = correlated(np.random.default_rng(0), 0.02, 1, 300)
    doubled = [np.repeat(one[..., None], 2, axis=2) for one in (first, second)]
    assert p_equal(*doubled) == pytest.approx(p_equal(first, second))
    assert compare(*doubled)[:3] == pytest.approx(compare(first, second)[:3])


def test_several_seeds_by_hand():
    from scipy.stats import t

    # the differences of four images are 1, 0, 0, 0 and 1, 1, 0, 0: means 1/4 and 1/2; of the images 1, 1/2, 0, 0
    first, second = np.array([[1, 0, 0, 0], [1, 1, 0, 0]]), np.zeros((2, 4))
    from_seeds, from_images = (1 / 32) / 2, max((11 / 16) / 3 / 4, 1 / 16)  # not below one image of four
    found = compare(first, second, level=0.5)

    def half(alpha: float) -> float:
        return (t(1).isf(alpha / 2) ** 2 * from_seeds + t(3).isf(alpha / 2) ** 2 * from_images) ** 0.5

    assert found.value == 0.375 and half(found.p) == pytest.approx(0.375)
    assert (found.low, found.high) == pytest.approx((0.375 - half(0.5), 0.375 + half(0.5)))


def test_seeds_that_agree_by_chance_do_not_make_a_difference():
    """Two seeds that differ more than the images can tell: 5 % of 600 pairs, not the 13 % of pooled freedom."""
    rng, hits = np.random.default_rng(7), 0
    for _ in range(600):
        shift = rng.normal(0, 0.02, (2, 2, 1))
        hits += p_equal(*(rng.random((2, 2, 4000)) < 0.5 + shift)) <= 0.05
    assert hits <= binom.ppf(0.999, 600, 0.05)


def test_seeds_that_disagree_are_no_evidence_and_seeds_that_agree_are():
    rng = np.random.default_rng(3)
    base = rng.random((3, 1000)) < 0.5
    shifted = rng.random((3, 1000)) < np.array([[0.4], [0.6], [0.62]])
    assert p_equal(base, shifted) > 0.3 and p_equal(base[:1], shifted[:1]) < 0.001
    assert p_equal(base, rng.random((3, 1000)) < 0.6) < 0.05


def test_where_nothing_varies_the_images_decide():
    assert p_equal(np.ones((3, 4)), np.zeros((3, 4))) == 2 / 2**4
    assert p_equal(np.ones((3, 4)), np.ones((3, 4))) == 1.0


@pytest.mark.parametrize("shapes", [((1, 3), (1, 4)), ((2, 3), (1, 3)), ((3,), (3,))])
def test_verdicts_of_different_images_are_not_compared(shapes: tuple[tuple[int, ...], tuple[int, ...]]):
    with pytest.raises(ValueError, match="not the same images"):
        compare(*(np.ones(shape) for shape in shapes))


def test_apart_is_newcombes_interval():
    """56 of 70 against 48 of 80: Newcombe 1998, table II, example (a), method 10."""
    found = compare_apart([[1] * 56 + [0] * 14], [[1] * 48 + [0] * 32])
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))


def test_the_p_of_apart_is_where_its_interval_reaches_0():
    first, second = [[1] * 56 + [0] * 14], [[1] * 48 + [0] * 32]
    p = compare_apart(first, second).p
    assert compare_apart(first, second, level=1 - p).low == pytest.approx(0, abs=1e-6)
    assert compare_apart(first, first).p == pytest.approx(1) and compare_apart(second, first).p == pytest.approx(p)
    assert compare_apart([[1] * 1000], [[0] * 500]).p < 1e-11


def test_apart_takes_other_numbers_of_seeds_and_knows_that_seeds_differ():
    alike, apart = [[1, 1, 0, 0] * 50] * 3, [[1] * 160 + [0] * 40, [1] * 40 + [0] * 160, [1, 0] * 100]
    narrow, wide = compare_apart(alike, alike[:2]), compare_apart(apart, alike[:2])
    assert narrow.value == wide.value == 0
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_holm_by_hand():
    # sorted .01, .02, .03, .6: times 4, 3, 2, 1 is .04, .06, .06, .6, and never falls
    assert holm([0.02, 0.6, 0.01, 0.03]) == pytest.approx([0.06, 0.6, 0.04, 0.06])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0] and holm([]).tolist() == []


def test_what_is_foretold_of_seeds_is_the_width_over_seeds_and_images():
    """By hand: 12.706^2 0.01^2 / 2 + 1.962^2 0.25 / 1000, its root, twice, in points."""
    assert "over 2 seeds and images up to 19.0 where seeds differ by an sd of 1 point" in foresight(1000, 2)
    assert "seeds" not in foresight(1000) and "up to 100.0" in foresight(2, 2)


def test_widest_is_the_interval_at_one_half():
    low, high = wilson(225, 450)
    assert widest(450) == pytest.approx(high - low) and 0.09 < widest(450) < 0.093
    assert all(high - low <= widest(450) for low, high in (wilson(k, 450) for k in range(451)))


def false_positives(trials: int, *shape: int) -> int:
    rng = np.random.default_rng(4)
    return sum(p_equal(*(rng.random((2, *shape)) < 0.5)) <= 0.05 for _ in range(trials))


@pytest.mark.parametrize("shape", [(1, 500), (1, 200, 3), (3, 300)])
def test_equal_networks_are_told_apart_as_rarely_as_it_says(shape: tuple[int, ...]):
    """600 pairs with nothing between them: no more than 5 % rejected, within the binomial's 99.9 %, and not never."""
    hits = false_positives(600, *shape)
    assert hits <= binom.ppf(0.999, 600, 0.05) and hits >= binom.ppf(0.001, 600, 0.01)


def test_the_interval_of_a_difference_covers_what_it_says():
    """Bootstrap intervals of 300 pairs, some nearly equal: about 95 % hold the truth."""
    rng = np.random.default_rng(5)
    for wins, losses in ((0.1, 0.05), (0.004, 0.004)):
        hits = 0
        for _ in range(300):
            which = rng.random((1, 400))
            found = compare(which < wins, (which >= wins) & (which < wins + losses))
            hits += found.low <= wins - losses <= found.high
        assert binom.ppf(0.001, 300, 0.95) <= hits


def test_methods_that_agree_in_every_seed_are_not_certainly_equal():
    same = np.ones((3, 450), dtype=bool)
    found = compare(same, same)
    assert found.p == 1 and found.high == -found.low == pytest.approx(1.965 / 450, rel=1e-3)


def test_networks_that_agree_on_every_image_are_not_certainly_equal():
    same = np.ones((1, 100), dtype=bool)
    found = compare(same, same)
    assert found.low < 0 < found.high and found.p == 1.0
    assert compare(same, same) == found, "the bootstrap has a seed"


def test_a_table_of_equal_rows_marks_a_difference_as_rarely_as_it_says():
    """Four rows with nothing between them, two columns, 200 tables: any mark at all in no more than 5 %."""
    rng, wrong = np.random.default_rng(6), 0
    rows, columns = ["a", "b", "c", "d"], ["x", "y"]
    for _ in range(200):
        easy = rng.normal(0, 1, (2, 300))
        cells = {
            (row, column): Robust(np.arange(300), (easy[k] + rng.normal(0, 0.5, 300) > 0)[None, :, None])
            for row in rows
            for k, column in enumerate(columns)
        }
        found = between_rows(rows, columns, cells, "a")
        wrong += any(not one["best"] or one.get("p_baseline", 1) <= 0.05 for one in found.values())
    assert wrong <= binom.ppf(0.999, 200, 0.05)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path)


def made(results: Results, verdicts: dict, seeds: tuple[int, ...] = (0,), more: tuple[Column, ...] = (), n: int = 40):
    spec = spec_2x2(*more)
    spec = TableSpec(spec.title, spec.source, "", ROWS, spec.columns, spec.settings, baseline="AT")
    plan = plan_2x2(spec=spec, images=n, seeds=seeds)
    fill(plan, results, verdicts)
    return plan, table(plan, results)


GOOD, FAIR, BAD = ([1] * k + [0] * (40 - k) for k in (36, 33, 15))
CELLS = {(row.label, "Clean"): [1] * 40 for row in ROWS}
CELLS |= {("AT", "C&W"): BAD, ("MAT_h1", "C&W"): FAIR, ("MAT_h2", "C&W"): GOOD}


def test_rows_against_the_baseline_and_the_best_by_hand(results: Results):
    _, frame = made(results, CELLS)
    cells = frame.set_index(["row", "column"])
    # AT - MAT_h1: 18 images against none, 2 / 2^18; MAT_h2: 21; h1 - h2: 3, p = 1/4. Clean: all p are 1
    raw = [2 / 2**18, 2 / 2**21, 1, 1]
    assert cells.loc[("MAT_h2", "C&W"), "p_baseline"] == pytest.approx(holm(raw)[1])
    assert cells.loc[("MAT_h1", "C&W"), "p_baseline"] == pytest.approx(holm(raw)[0])
    pairs = holm([2 / 2**18, 2 / 2**21, 1 / 4, 1, 1, 1])
    assert cells.loc[("AT", "C&W"), "p_best"] == pytest.approx(pairs[1])
    assert cells.loc[("MAT_h1", "C&W"), "p_best"] == pytest.approx(pairs[2])
    assert cells["best"].to_dict() == {(r, c): (r, c) != ("AT", "C&W") for r, c in CELLS}
    assert np.isnan(cells.loc[("MAT_h2", "C&W"), "p_best"]) and np.isnan(cells.loc[("AT", "C&W"), "p_baseline"])
    told = cells.loc[("MAT_h2", "C&W")]
    assert told["difference"] == pytest.approx(21 / 40)
    assert 0.3 < told["difference_low"] < 21 / 40 < told["difference_high"] < 0.7


def test_the_report_marks_them_and_says_what_the_marks_mean(results: Results):
    text = report.render(*made(results, CELLS), "text")
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith(("AT ", "MAT_"))}
    assert lines["AT"].endswith("]") and lines["MAT_h1"].endswith("+ =") and lines["MAT_h2"].endswith("+")
    assert "below AT on the same images: exact McNemar" in text and "(Holm over 4 comparisons)" in text
    assert "(Holm over all 6 pairs of rows); with one seed it is about these networks" in text
    markdown = report.render(*made(results, CELLS), "markdown")
    assert "**90.0 [76.9, 96.0] +** |" in markdown and " 37.5 [24.2, 53.0] |" in markdown


def test_below_the_baseline_has_the_other_sign(results: Results):
    text = report.render(*made(results, CELLS | {("AT", "C&W"): GOOD, ("MAT_h2", "C&W"): BAD}), "text")
    assert next(line for line in text.splitlines() if line.startswith("MAT_h2")).endswith("-")


def test_several_seeds_and_means_say_their_test(results: Results):
    text = report.render(*made(results, CELLS, seeds=(0, 1)), "text")
    assert "t over seeds and images on paired differences" in text and "one seed" not in text
    more = (Column("mean", mean=("Clean", "C&W")),)
    plan, frame = made(results, CELLS, more=more)
    assert "(for means of columns the paired permutation test)" in report.render(plan, frame, "text")
    one = frame.set_index(["row", "column"]).loc[("MAT_h2", "mean")]
    assert one["difference"] == pytest.approx(21 / 80) and one["p_baseline"] < 0.001


def test_a_cell_without_a_number_is_not_compared_and_alone_is_not_the_best(results: Results):
    cells = {key: value for key, value in CELLS.items() if key[1] == "Clean" or key[0] == "MAT_h2"}
    _, frame = made(results, cells)
    alone = frame.set_index(["row", "column"]).xs("C&W", level="column")
    assert alone["best"].tolist() == [None] * 3 and alone["p_baseline"].isna().all()


def test_the_csv_has_every_difference(results: Results):
    text = report.render(*made(results, CELLS), "csv")
    head, *lines = text.splitlines()
    line = dict(
        zip(head.split(","), next(x for x in lines if x.startswith("tiny-dots,MAT_h2,C&W")).split(","), strict=True)
    )
    assert line["difference_points"] == "52.5000" and line["best"] == "True"
    assert float(line["p_baseline"]) == pytest.approx(4 * 2 / 2**21, rel=0.01) and line["p_best"] == ""


def test_rows_on_other_image_numbers_are_not_compared(results: Results):
    plan, _ = made(results, CELLS)
    for cell in plan.cells:
        if cell.row == "MAT_h2":
            other = frame(CELLS[cell.row, cell.column]).assign(image=range(1, 41))
            write_eval(results, eval_record(cell.run_id, cell.eval_id, other))
    with pytest.raises(UserError, match="MAT_h2 / Clean is of other images"):
        table(plan, results)


def test_a_baseline_that_is_no_row_is_refused():
    given = {
        "title": "t",
        "source": "s",
        "reference": "",
        "baseline": "ATT",
        "columns": [{"label": "c", "attack": "c"}],
    }
    settings = [{"profile": "p", "arch": "a", "dataset": "d", "datasets": ["*"], "archs": ["*"]}]
    with pytest.raises(UserError, match="'ATT', which is no row"):
        build(TableSpec, given | {"rows": [{"label": "AT", "method": "at"}], "settings": settings}, "x.toml")


def test_the_tables_are_tested_against_adversarial_training():
    from bench.ledger.spec import list_specs, load_spec

    specs = {name: load_spec(name) for name in list_specs()}
    with_baseline = {name for name, spec in specs.items() if spec.baseline == "AT"}
    assert with_baseline == {"table2", "table3", "cat", "regmix", "full", "figure2", "like-for-like", "distillation"}
