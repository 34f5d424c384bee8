"""Pictures: what is handed to the plot is what the records say; files are whole PNG and SVG; matplotlib stays out."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hand_made import eval_record, fill, frame, plan_2x2, run_record, spec_2x2, with_distances
from PIL import Image

from bench.ledger.evals import write_eval
from bench.ledger.folder import Results, Source
from bench.ledger.runs import write_run
from bench.ledger.spec import Column, Figure, Row, list_specs
from bench.tables import figures
from bench.tables.cells import table

ROOT = Path(__file__).parents[2]
VERDICTS = {("AT", "Clean"): [1, 1, 1, 1], ("AT", "C&W"): [1, 1, 1, 0], ("MAT_h2", "Clean"): [1, 1, 0, 1]}
BOTH = VERDICTS | {("MAT_h2", "C&W"): [0, 1, 0, 1]}
OVERLAP = Figure("overlap", "C&W", ("AT", "MAT_h2"))


def made(folder: Path, figure: Figure, verdicts=BOTH, **changes):
    one, results = replace(plan_2x2(**changes), figure=figure), Results(folder)
    fill(one, results, verdicts)
    return one, table(one, results), results


def values(shown: pd.DataFrame) -> list[list]:
    return shown[["line", "x", "accuracy_percent"]].to_numpy().tolist()


def test_bars_are_the_table_and_a_missing_cell_has_none(tmp_path):
    shown = figures.points(*made(tmp_path, Figure("bars"), VERDICTS))
    assert values(shown) == [["AT", "Clean", 100.0], ["AT", "C&W", 75.0], ["MAT_h2", "Clean", 75.0]]
    assert shown["low_percent"][1] == pytest.approx(30.0642, abs=1e-4)


def test_radii_are_those_that_columns_are_read_at(tmp_path):
    more = (Column("at 0.25", "ddn", at=0.25), Column("at 1", "ddn", at=1.0))
    one, results = replace(plan_2x2(more=more), figure=Figure("radius")), Results(tmp_path)
    fill(one, results, BOTH)
    for cell in one.cells:
        if cell.at is not None:
            write_eval(results, with_distances(cell.run_id, cell.eval_id, [0.1, 0.4, 0.8, 2.0]))
    shown = figures.points(one, table(one, results), results)
    at = shown[shown["line"] == "AT"]
    assert values(at) == [["AT", 0, 100], ["AT", 0.25, 75], ["AT", 1, 25]], "C&W has no radius"
    assert len(figures.draw(one, table(one, results), results)) == 3


def test_a_sweep_is_over_the_value_in_the_recipe(tmp_path):
    rows = [Row(f"a{a} h{m + 1}", "mat", m, set={"alpha": a}) for a in (0.9, 0.1) for m in (0, 1)]
    spec = replace(spec_2x2(), rows=rows, figure=Figure("sweep", over="alpha"))
    assert list(spec.trainings) == ["mat alpha=0.9", "mat alpha=0.1"]
    recipes = {name: {"trainer": "mat", "version": 1, "settings": row.set} for name, row in spec.trainings.items()}
    one, results = plan_2x2(spec=spec, recipes=recipes, members=dict.fromkeys(recipes, 2)), Results(tmp_path)
    assert len({cell.training_id for cell in one.cells}) == 2 and one.cells[0].recipe == "mat-tiny alpha=0.9"
    fill(one, results, {("a0.1 h2", "C&W"): [1, 0, 0, 0], ("a0.9 h2", "C&W"): [1, 1, 0, 0]})
    assert values(figures.points(one, table(one, results), results)) == [["h2, C&W", 0.9, 50], ["h2, C&W", 0.1, 25]]


def test_cost_is_that_of_training_with_the_teachers(tmp_path):
    one, made_table, results = made(tmp_path, Figure("cost", "C&W"))
    at, mat = (next(cell.run_id for cell in one.cells if cell.row == row) for row in ("AT", "MAT_h2"))
    write_run(results, replace(run_record(mat), teacher=Source(at, "w")))
    assert values(figures.points(one, made_table, results)) == [["AT", 200, 75], ["MAT_h2", 400, 50]]


def test_a_union_is_drawn_like_a_column(tmp_path):
    worst = (Column("worst", union=("Clean", "C&W")),)
    for figure, expected in (
        (Figure("cost", "worst"), [["AT", 200, 75], ["MAT_h2", 200, 50]]),
        (Figure("bars"), [["AT", "worst", 75], ["MAT_h2", "worst", 50]]),
        (Figure("radius"), []),
    ):
        shown = figures.points(*made(tmp_path, figure, more=worst))
        assert [one for one in values(shown) if figure.kind != "bars" or one[1] == "worst"][: len(expected)] == expected
        assert figure.kind != "radius" or values(shown) == [["AT", 0, 100], ["MAT_h2", 0, 75]]


def shared(folder: Path, predictions: dict[str, list[int]], seeds=(0,), moved=()):
    """What an overlap shows of three networks judged on images that were crafted on AT; labels are 3. predictions: by
    row. moved: rows whose images lie elsewhere.
    """
    from_at = Column("from AT", "cw", source="at")
    rows = [Row("AT", "at"), Row("MAT_h1", "mat"), Row("MAT_h2", "mat", member=1)]
    spec = replace(spec_2x2(from_at), rows=rows, figure=Figure("overlap", rows=("AT", "MAT_h1", "MAT_h2")))
    one, results = plan_2x2(spec=spec, seeds=seeds, images=5), Results(folder)
    fill(one, results, {})
    for cell in one.cells:
        if cell.column == "from AT" and cell.row in predictions:
            answers = predictions[cell.row]
            images = frame([answer == 3 for answer in answers]).assign(adversarial_prediction=answers)
            images["l2"] += 0.1 * (cell.row in moved)
            record = eval_record(cell.run_id, cell.eval_id, images.iloc[::-1])  # in any order
            write_eval(results, replace(record, source=Source(cell.source_run_id, "w")))
    return one, results


ANSWERS = {"AT": [3, 3, 7, 7, 7], "MAT_h1": [3, 7, 3, 7, 1], "MAT_h2": [3, 3, 3, 3, 3]}


def test_the_overlap_is_of_predictions_on_the_same_images_two_and_two(tmp_path):
    one, results = shared(tmp_path, ANSWERS)
    shown = figures.points(one, table(one, results), results)
    assert list(shown) == ["first", "second", "column", "which", "images", "crafted_anew", "p"]
    counts = {pair: list(parts["images"]) for pair, parts in shown.groupby(["first", "second"], sort=False)}
    assert counts == {("AT", "MAT_h1"): [1, 1, 1, 1, 1], ("AT", "MAT_h2"): [2, 0, 3, 0, 0],
                      ("MAT_h1", "MAT_h2"): [2, 0, 3, 0, 0]}  # fmt: skip
    assert list(shown["which"][:5]) == list(figures.CONFUSION) and set(shown["column"]) == {"from AT"}
    assert list(shown["p"][::5]) == [1.0, 0.75, 0.75], "0.25 for 3 against 0, times three (Holm)"
    assert not shown["crafted_anew"].any()


def test_the_overlap_sums_over_seeds_and_leaves_out_what_lacks(tmp_path):
    one, results = shared(tmp_path, {row: ANSWERS[row] for row in ("AT", "MAT_h1")}, seeds=(0, 1))
    shown = figures.points(one, table(one, results), results)
    assert list(shown["images"]) == [2, 2, 2, 2, 2] and shown["p"].isna().all()
    one, results = shared(tmp_path / "none", {"AT": ANSWERS["AT"]})
    assert figures.draw(one, table(one, results), results) == []


def test_an_overlap_of_images_that_were_crafted_twice_says_so(tmp_path):
    one, results = shared(tmp_path, ANSWERS, moved=("MAT_h2",))
    shown = figures.points(one, table(one, results), results)
    assert list(shown["crafted_anew"][::5]) == [0, 5, 5]
    svg = figures.draw(one, table(one, results), results)[2]
    words = " ".join(ElementTree.parse(svg).getroot().itertext())
    assert "p = 0.75, 5 of other images" in words and "AT / MAT_h2, from AT" in words


def test_the_overlap_of_an_older_plan_is_of_its_verdicts(tmp_path):
    """Plans of earlier releases name a column that is crafted on each row's own network."""
    shown = figures.points(*made(tmp_path / "one", OVERLAP))
    assert list(shown["images"]) == [1, 2, 1, 0, 0] and shown["p"][0] == 1.0
    assert figures.draw(*made(tmp_path / "three", OVERLAP, VERDICTS)) == [], "a record lacks"


@pytest.mark.parametrize("figure", [Figure("bars"), Figure("cost", "C&W"), OVERLAP])
def test_the_files_are_whole_hold_the_names_and_are_the_same_again(figure, tmp_path):
    one = made(tmp_path, figure)
    text, png, svg = figures.draw(*one)
    assert [path.name for path in (text, png, svg)] == [f"tiny-dots-figure.{kind}" for kind in ("csv", "png", "svg")]
    pd.testing.assert_frame_equal(pd.read_csv(text), figures.points(*one), check_dtype=False)
    with Image.open(png) as image:
        image.load()
        assert image.format == "PNG" and len(image.getcolors(10**6)) > 20
    words = " ".join(ElementTree.parse(svg).getroot().itertext())
    assert all(name in words for name in ("AT", "MAT_h2", "Robustness of A & B", "4 test images of dots"))
    before = [path.read_bytes() for path in (text, png, svg)]
    assert [path.read_bytes() for path in figures.draw(*one)] == before


def test_no_figure_and_no_number_make_no_file(tmp_path):
    one, made_table, results = made(tmp_path, Figure("bars"), {})
    assert figures.draw(one, made_table, results) == []
    assert figures.draw(replace(one, figure=None), made_table, results) == [] and not list(tmp_path.glob("tables/*"))


def test_the_names_of_many_bars_fit_into_the_picture():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    columns = [f"from MAT-h{n}" for n in range(6)]
    shown = pd.DataFrame({"line": "AT", "x": columns, "accuracy_percent": 50.0, "low_percent": 45, "high_percent": 55})
    canvas = Canvas(figsize=(8, 4.8), layout="constrained")
    axes = canvas.add_subplot()
    figures._bars(SimpleNamespace(columns=columns, rows=["AT"]), shown, axes)
    FigureCanvasAgg(canvas).draw()
    assert axes.get_legend().get_window_extent().x1 <= canvas.bbox.x1


def test_names_of_points_that_lie_together_do_not_cover_each_other():
    from matplotlib.figure import Figure as Canvas

    shown = pd.DataFrame({"line": [f"method {n}" for n in range(10)], "x": 100.0, "accuracy_percent": 50.0})
    shown.loc[0, ["x", "accuracy_percent"]] = [1000.0, 90.0]
    shown = shown.assign(low_percent=shown["accuracy_percent"] - 5, high_percent=shown["accuracy_percent"] + 5)
    axes = Canvas(figsize=(8, 4.8)).add_subplot()
    axes.scatter(shown["x"], shown["accuracy_percent"])
    wide = figures.LETTER * len("method 1")
    boxes = [(dx if dx > 0 else dx - wide, dy) for dx, dy in list(figures._free_places(shown, axes))[1:]]
    for i, (x, y) in enumerate(boxes):
        assert all(abs(x - a) >= wide or abs(y - b) >= 12 for a, b in boxes[:i])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "cost"}, "names its column"),
        ({"kind": "bars", "column": "C&W"}, "has no column"),
        ({"kind": "overlap", "column": "Clean", "rows": ("AT",)}, "names two rows"),
        ({"kind": "overlap", "column": "Clean", "rows": ("AT", "AT")}, "names two rows"),
        ({"kind": "bars", "rows": ("AT",)}, "no other kind names rows"),
        ({"kind": "sweep"}, "names the setting"),
        ({"kind": "cost", "column": "AA"}, "of column 'AA', which the table lacks"),
        ({"kind": "overlap", "column": "Clean", "rows": ("AT", "X")}, "of row 'X', which the table lacks"),
        ({"kind": "sweep", "over": "alpha"}, "over 'alpha', which no row sets"),
    ],
)
def test_figures_that_make_no_sense_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        replace(spec_2x2(), figure=Figure(**given))


def test_matplotlib_is_loaded_only_to_draw():
    modules = "bench.tables.figures, bench.tables.report, bench.commands.cli"
    code = f"import {modules}, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_figure_3_is_on_validation_images_and_says_so(tmp_path):
    from bench.running.run import TableRun
    from bench.running.table import Options
    from bench.subjects import data

    job = TableRun("figure3", Options(Results(tmp_path)))
    digits = data.load("digits", None)
    assert job.plan.images_sha256 == digits.validation.sha256 != digits.test.sha256
    assert job.plan.images == len(digits.validation) and job.plan.split == "validation"
    assert len({cell.training_id for cell in job.plan.cells}) == 9 and {c.checkpoint for c in job.plan.cells} == {
        "last"
    }
    alphas = {job.plan.recipes[cell.recipe]["settings"]["alpha"] for cell in job.plan.cells}
    assert alphas == {n / 10 for n in range(1, 10)}


@pytest.mark.parametrize("name", list_specs())
def test_every_table_can_be_planned_and_nothing_is_written(name, tmp_path):
    from bench.running.run import TableRun
    from bench.running.table import Options

    job = TableRun(name, Options(Results(tmp_path), images=3))
    trainings = {cell.training_id for cell in job.plan.cells}
    attacks = {(cell.run_id, cell.eval_id) for cell in job.plan.cells}
    teachers = {run_id.rpartition(".")[0] for run_id in job.plan.teachers.values()}
    sources = {cell.source_run_id.rpartition(".")[0] for cell in job.plan.cells if cell.source_run_id}
    lines = job.describe()
    assert sum(line.startswith("  train") for line in lines) == len(trainings | teachers | sources)
    assert {tuple(line.split()[1:]) for line in lines if line.startswith("  attack  ")} == attacks
    assert not list(tmp_path.iterdir())
