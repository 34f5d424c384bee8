"""A table of corruptions: columns of five severities, means of such means, an error, and what is not shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hand_made import eval_record, frame, plan_2x2, run_record, spec_2x2
from slowly import slow

from bench.ground.config import UserError
from bench.ledger.evals import CORRUPTIONS, read_eval, write_eval
from bench.ledger.find import find
from bench.ledger.folder import Results
from bench.ledger.plan import Plan
from bench.ledger.runs import write_run
from bench.ledger.spec import Column, load_spec
from bench.tables import figures, report
from bench.tables.cells import table
from bench.tables.page.build import page

EACH = [(label, f"{label} {n}") for label in ("Fog", "Snow") for n in (1, 2)]
COLUMNS = (
    *(Column(name, f"c-{name.lower().replace(' ', '-')}", hidden=True) for _, name in EACH),
    *(Column(label, mean=(f"{label} 1", f"{label} 2")) for label in ("Fog", "Snow")),
    Column("Both", mean=("Fog", "Snow")),
    Column("mCE", error="Both"),
)
# of four images; the last is wrong clean and right in light fog
RIGHT = {"Fog 1": [1, 1, 0, 1], "Fog 2": [1, 0, 0, 0], "Snow 1": [1, 1, 1, 0], "Snow 2": [0, 0, 0, 0]}
MEANS = {"Fog": ["Fog 1", "Fog 2"], "Snow": ["Snow 1", "Snow 2"], "Both": ["Fog", "Snow"]}


def corruption(name: str, **more: str) -> dict:
    kind, severity = name[2:].split("-")
    return {"attack": "corruption", "version": 1, "settings": {"name": kind, "severity": int(severity)} | more}


def made(**more: str) -> Plan:
    attacks = {column.attack: corruption(column.attack, **more) for column in COLUMNS if column.attack}
    attacks["cw"] = {"attack": "cw", "version": 1, "settings": {"steps": 100}}
    return plan_2x2(more=COLUMNS, attacks=attacks)


def corrupted(right: list[int]) -> pd.DataFrame:
    """Plain accuracy: the verdict is the prediction's, whatever it was before."""
    images = frame([bool(one) for one in right], [True, True, True, False])
    return images.assign(robust=[bool(one) for one in right])


def filled(plan: Plan, results: Results, worse: str = "MAT_h2") -> Results:
    for cell in plan.cells:
        write_run(results, run_record(cell.run_id))
        record = eval_record(cell.run_id, cell.eval_id, frame([True, True, False, False]))
        if (right := RIGHT.get(cell.column)) is not None:
            settings = plan.attacks[cell.attack]["settings"]
            right = [0, 0, 0, 0] if cell.row == worse else right
            images, severity = corrupted(right), float(settings["severity"])
            record = replace(
                record, norm=CORRUPTIONS, eps=severity, attack=cell.attack, settings=settings, images=images
            )
        write_eval(results, record)
    return results


def test_means_of_means_and_their_error_by_hand(tmp_path):
    results, plan = Results(tmp_path), made()
    found = table(plan, filled(plan, results)).set_index(["row", "column"]).loc["AT"]
    shares = dict(found["accuracy"])
    assert shares["Fog 1"] == 3 / 4, "an image that is wrong clean and right corrupted counts"
    assert (shares["Fog"], shares["Snow"], shares["Both"]) == (4 / 8, 3 / 8, 7 / 16)
    assert shares["mCE"] == pytest.approx(1 - 7 / 16)
    assert (found.loc["mCE", "low"], found.loc["mCE", "high"]) == pytest.approx(
        (1 - found.loc["Both", "high"], 1 - found.loc["Both", "low"])
    )
    assert plan.leaves("mCE") == [name for _, name in EACH] == plan.attacked("Both")


def test_of_an_error_the_lowest_is_the_best(tmp_path):
    results, plan = Results(tmp_path), made()
    found = table(plan, filled(plan, results)).set_index(["column", "row"])["p_best"]
    for column in ("Both", "mCE"):
        assert pd.isna(found[column, "AT"]) and found[column, "MAT_h2"] > 0, "the best has no p"


@pytest.mark.parametrize("style", ["csv", "markdown", *slow(("html", "latex", "text"))])
def test_severities_are_in_the_csv_alone(style, tmp_path):
    results, plan = Results(tmp_path), made()
    text = report.render(plan, table(plan, filled(plan, results)), style)
    assert "mCE" in text and ("Fog 1,4," in text) == (style == "csv")
    if style != "csv":
        assert "right corrupted, whether or not it is right clean" in text
        assert "mean of Fog 1 to Fog 2" in text and "100 % minus Both" in text.replace("\\", "")
    assert ("of an error the lowest" in text) == (style == "latex")
    assert plan.shown == ["Clean", "C&W", "Fog", "Snow", "Both", "mCE"]


@pytest.mark.slow
def test_the_page_shows_no_hidden_column(tmp_path):
    plan = made()
    text = page([(plan, table(plan, filled(plan, results := Results(tmp_path))))], results)
    assert "2 networks, 6 columns" in text and ">Fog 1<" not in text and ">Fog<" in text


def test_a_figure_draws_no_hidden_column(tmp_path):
    results = Results(tmp_path)
    plan = replace(made(), figure=load_spec("figure2").figure)
    assert plan.figure is not None and plan.figure.kind == "bars"
    drawn = figures.points(plan, table(plan, filled(plan, results)), results)
    assert set(drawn["x"]) == set(plan.shown)


@pytest.mark.parametrize(("more", "words"), [({}, "made here"), ({"published": "ab"}, "read from the published files")])
def test_the_table_says_whose_images_they_are(more, words, tmp_path):
    plan = made(**more)
    assert [note for note in report.notes_of(plan, table(plan, Results(tmp_path))) if note.startswith("Corrupted")] == [
        next(note for note in report.notes_of(plan, table(plan, Results(tmp_path))) if f"images: {words}" in note)
    ]
    assert not any("Not as named" in note for note in report.notes_of(plan, table(plan, Results(tmp_path))))


def test_a_verdict_that_is_not_plain_is_refused(tmp_path):
    plan, results = made(), Results(tmp_path)
    cell = next(cell for cell in plan.cells if cell.column == "Fog 1")
    write_run(results, run_record(cell.run_id))
    record = replace(eval_record(cell.run_id, cell.eval_id, corrupted(RIGHT["Fog 1"])), norm=CORRUPTIONS, eps=1.0)
    write_eval(results, record)
    assert read_eval(results, cell.run_id, cell.eval_id).images["robust"].sum() == 3
    with pytest.raises(UserError, match="on 1 images the verdict contradicts"):
        write_eval(results, replace(record, norm="own"))
    with pytest.raises(UserError, match="on 1 images the verdict contradicts"):
        write_eval(results, replace(record, images=frame([True, True, False, True], [True, True, True, False])))


def test_a_record_that_was_not_judged_so_is_stale(tmp_path):
    plan, results = made(), Results(tmp_path)
    cell = next(cell for cell in plan.cells if cell.column == "Fog 1")
    write_run(results, run_record(cell.run_id))
    settings = plan.attacks[cell.attack]["settings"]
    record = replace(eval_record(cell.run_id, cell.eval_id, frame([True] * 4)), settings=settings, norm="own", eps=1.0)
    write_eval(results, record)
    assert "own 1, the plan's has corruptions 1" in find(plan, cell, results).reason


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([Column("x", error="later"), Column("later", "ddn")], "made of 'later'"),
        ([Column("m", mean=("Clean", "C&W")), Column("x", mean=("m", "Clean"))], "a mean of means of 1 and 2 columns"),
        ([Column("e", error="C&W"), Column("x", mean=("e", "Clean"))], "made of 'e'"),
        ([Column("m", mean=("Clean", "C&W")), Column("x", union=("m", "Clean"))], "made of 'm'"),
    ],
)
def test_what_makes_no_sense_is_refused(columns, words):
    with pytest.raises(ValueError, match=words):
        spec_2x2(*columns)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden": ["Storm"]}, "what it hides is no column, or all"),
        ({"errors": {"mCE": "Storm"}}, "column 'mCE' is not made of"),
        ({"means": MEANS | {"Both": ["Fog", "Snow 1"]}}, "several sizes"),
        ({"means": MEANS | {"Fog": ["Fog 1", "Both"]}}, "column 'Fog' is"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(made(), **changes)


def test_the_table_has_fifteen_in_its_mean_and_four_apart():
    spec = load_spec("corruptions")
    columns = {column.label: column for column in spec.columns}
    assert len(columns["Mean of 15"].mean) == 15 and len(columns["Mean of 4 more"].mean) == 4
    assert columns["mCE (unnormalised)"].error == "Mean of 15"
    attacks = [column.attack for column in spec.columns if column.hidden]
    assert len(attacks) == 95 == len(set(attacks))
    assert columns["JPEG"].mean == tuple(f"JPEG {n}" for n in range(1, 6))
    assert columns["JPEG 4"].attack == "c-jpeg-compression-4"


def test_a_column_of_severities_is_spelt_out_in_a_table_of_ones_own(tmp_path):
    text = (Path(__file__).parents[2] / "bench" / "ledger" / "specs" / "corruptions.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('severities = "c-fog"', "severities = 3"))
    with pytest.raises(UserError, match="severities"):
        load_spec(str(path))
