"""Certificates in tables: a column of the share proven, and the bracket beside an attack's number, in every format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hand_made import fill, frame, of_cell, plan_2x2, proof, run_record

from bench.api.filling import lacking_of
from bench.commands.cli import main
from bench.ground.config import UserError, build
from bench.ledger.certificates import Contradiction, write_certificate
from bench.ledger.evals import write_eval
from bench.ledger.folder import Results, Source
from bench.ledger.plan import Certified, Plan, write_plan
from bench.ledger.runs import write_run
from bench.ledger.spec import Column, TableSpec
from bench.tables.cells import table
from bench.tables.page.build import _cell
from bench.tables.page.shelf import Shelf
from bench.tables.report import FORMATS, render

EPS = 8 / 255
PROVEN = Column("Proven", certified="C&W")
ATTACKED = [True, True, False, True]  # under C&W


def filled(root: Path, *more: Column, seeds: tuple[int, ...] = (0,)) -> tuple[Plan, Results]:
    """A table of two networks, clean and under C&W, where both have all records."""
    plan, results = plan_2x2(seeds, more=more), Results(root)
    fill(plan, results, {(row, "C&W"): ATTACKED for row in plan.rows})
    for cell in (cell for cell in plan.cells if cell.column == "Clean"):
        write_eval(results, replace(of_cell(plan, cell, frame([True] * 4)), norm="none", eps=0.0))
    write_plan(results, plan)
    return plan, results


def run_of(plan: Plan, row: str, seed: int = 0) -> str:
    return next(cell.run_id for cell in plan.cells if (cell.row, cell.seed) == (row, seed))


def cell(plan: Plan, results: Results, column: str, row: str = "AT") -> dict:
    made = table(plan, results)
    return made[(made["row"] == row) & (made["column"] == column)].to_dict("records")[0]


def test_a_column_is_the_share_proven_and_an_attack_has_its_bracket(tmp_path):
    plan, results = filled(tmp_path, PROVEN)
    write_certificate(results, proof(run_of(plan, "AT"), {0}))
    found, beside = cell(plan, results, "Proven"), cell(plan, results, "C&W")
    assert (found["accuracy"], found["n"], found["state"]) == (0.25, 4, "ok") and found["low"] < 0.25 < found["high"]
    assert beside["accuracy"] == 0.75 and beside["proven"].proven == 0.25
    assert beside["proven"].told == ["1 of 4 proven, 1 broken, 2 open"]
    assert cell(plan, results, "Clean")["proven"] is None and cell(plan, results, "C&W", "MAT_h2")["proven"] is None
    missing = cell(plan, results, "Proven", "MAT_h2")
    assert missing["state"] == "missing" and f"{run_of(plan, 'MAT_h2')} --norm Linf --eps 8/255" in missing["error"]


def test_of_several_proofs_an_image_needs_one_and_of_seeds_every_one_counts(tmp_path):
    plan, results = filled(tmp_path, PROVEN, seeds=(0, 1))
    for proven in ({0}, {1}):
        write_certificate(results, proof(run_of(plan, "AT"), proven))
    assert cell(plan, results, "Proven")["state"] == "missing" and cell(plan, results, "C&W")["proven"] is None
    write_certificate(results, proof(run_of(plan, "AT", 1), {0, 1, 3}))
    assert cell(plan, results, "Proven")["accuracy"] == pytest.approx((0.5 + 0.75) / 2)
    assert cell(plan, results, "C&W")["proven"].proven == pytest.approx((0.5 + 0.75) / 2)


@pytest.mark.parametrize(
    "change",
    [{"weights_sha256": "v"}, {"images_sha256": "other"}, {"norm": "L2"}, {"eps": EPS / 2}, {"dataset": "dashes"}],
)
def test_a_proof_of_something_else_is_none(tmp_path, change):
    plan, results = filled(tmp_path, PROVEN)
    write_certificate(results, proof(run_of(plan, "AT"), {0}, **change))
    assert cell(plan, results, "Proven")["state"] == "missing" and cell(plan, results, "C&W")["proven"] is None


def test_a_proof_of_the_weights_of_before_is_none_of_those_of_now(tmp_path):
    plan, results = filled(tmp_path, PROVEN)
    write_certificate(results, proof(run_of(plan, "AT"), {0}))
    write_run(results, run_record(run_of(plan, "AT"), weights="v"))
    assert cell(plan, results, "Proven")["state"] == "missing"


def test_bounds_that_prove_nothing_are_no_number_and_say_so_in_every_format(tmp_path):
    plan, results = filled(tmp_path, PROVEN)
    for row in plan.rows:
        write_certificate(results, proof(run_of(plan, row), set()))
    made = table(plan, results)
    silent = made[made["column"] == "Proven"]
    assert set(silent["state"]) == {"proves nothing"} and silent["accuracy"].isna().all()
    for style in FORMATS:
        text = render(plan, made, style)
        assert text.count("proves nothing") >= 2 and text.count("bounds say nothing") == 2, style
        assert "(proven" not in text


@pytest.mark.parametrize("style", FORMATS)
def test_every_format_shows_what_is_proven_and_what_is_open(tmp_path, style):
    plan, results = filled(tmp_path, PROVEN)
    for row in plan.rows:
        write_certificate(results, proof(run_of(plan, row), {0}))
    text = render(plan, table(plan, results), style)
    if style == "csv":
        head, line = (
            text.splitlines()[0].split(","),
            next(one for one in text.splitlines() if ",C&W," in one).split(","),
        )
        shown = dict(zip(head, line, strict=False))
        assert (shown["accuracy_percent"], shown["proven_percent"], shown["open_percent"]) == (
            "75.0000", "25.0000", "50.0000",
        )  # fmt: skip
        return
    assert text.count("(proven 25.0, open 50.0)") == 2
    assert "1 of 4 proven, 1 broken, 2 open" in text and "is open" in text
    assert "proven within" in text and "8/255" in text


def test_what_is_open_may_be_nothing(tmp_path):
    plan, results = filled(tmp_path)
    for row in plan.rows:
        write_certificate(results, proof(run_of(plan, row), {0, 1, 3}))
    made = table(plan, results)
    assert render(plan, made, "text").count("(proven 75.0, open 0.0)") == 2
    assert render(plan, made, "csv").count(",75.0000,0.0000,ok,") == 2


def test_the_page_shows_it_too(tmp_path):
    plan, results = filled(tmp_path, PROVEN)
    write_certificate(results, proof(run_of(plan, "AT"), {0}))
    assert _cell(plan, cell(plan, results, "C&W"), Shelf(results)).interval.endswith(" (proven 25.0, open 50.0)")
    assert "proven" not in _cell(plan, cell(plan, results, "Clean"), Shelf(results)).interval


def test_a_run_does_not_fail_for_want_of_proofs(tmp_path):
    plan, results = filled(tmp_path, PROVEN)
    made = table(plan, results)
    assert (made["state"] == "missing").sum() == 2 and len(lacking_of(plan, made)) == 0
    next(results.evals(run_of(plan, "AT")).glob("cw-*")).unlink()
    assert len(lacking_of(plan, table(plan, results))) == 1


def test_without_certificates_nothing_is_said_of_them(tmp_path):
    plan, results = filled(tmp_path)
    texts = [render(plan, table(plan, results), style) for style in FORMATS]
    assert not any("proven" in text.lower() for text in texts)
    assert "certified" not in json.loads(results.plan(plan.name).read_text())


def test_an_image_that_is_proven_and_broken_stops_the_table(tmp_path, capsys):
    plan, results = filled(tmp_path)
    write_certificate(results, proof(run_of(plan, "AT"), {2}))
    with pytest.raises(Contradiction, match=r"image 2 of .* is proven by .* and broken by .* within Linf 0\.0313"):
        table(plan, results)
    assert main(["report", "--results", str(tmp_path)]) == 2
    assert "which is a bug" in capsys.readouterr().err


def test_smoothing_is_a_column_of_its_own_and_no_bracket(tmp_path):
    l2 = Column("DDN", "ddn")
    plan, results = filled(
        tmp_path, l2, Column("Bounds", certified="DDN"), Column("Smooth", certified="DDN", smoothing=0.25)
    )
    ddn = next(one for one in plan.cells if (one.row, one.column) == ("AT", "DDN"))
    write_eval(results, replace(of_cell(plan, ddn, frame(ATTACKED)), attack="ddn"))
    smooth = {"norm": "L2", "eps": 0.5, "figures": [0.6] * 4}
    write_certificate(results, proof(run_of(plan, "AT"), {0, 2}, 0.25, **smooth))
    write_certificate(results, proof(run_of(plan, "AT"), {0, 1, 2}, 0.5, **smooth))
    assert cell(plan, results, "Smooth")["accuracy"] == 0.5, "image 2 is broken for the network, which is another"
    assert cell(plan, results, "Bounds")["state"] == "missing" and cell(plan, results, "DDN")["proven"] is None
    assert "another classifier" in plan.budgets["Smooth"] and "another classifier" not in plan.budgets["Bounds"]
    assert "--smoothing 0.25 --eps 0.5" in cell(plan, results, "Smooth", "MAT_h2")["error"]


def test_a_union_in_one_threat_model_has_a_bracket_and_in_several_none(tmp_path):
    worst = Column("Worst", union=("C&W", "C&W again"))
    plan, results = filled(tmp_path, Column("C&W again", "cw", source="at"), worst)
    again = next(one for one in plan.cells if (one.row, one.column) == ("AT", "C&W again"))
    write_eval(
        results,
        replace(of_cell(plan, again, frame([True, True, True, False])), source=Source(again.source_run_id, "w")),
    )
    write_certificate(results, proof(run_of(plan, "AT"), {0}))
    found = cell(plan, results, "Worst")
    assert found["accuracy"] == 0.5 and found["proven"].told == ["1 of 4 proven, 2 broken, 1 open"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([{"label": "P", "certified": "C"}], "certified as 'C', no attack before it"),
        ([{"label": "C", "attack": "clean"}, {"label": "P", "certified": "C"}], "no attack before it"),
        (
            [{"label": "C", "attack": "cw"}, {"label": "P", "certified": "C", "union": ["C"]}],
            "needs one of attack, union",
        ),
        ([{"label": "C", "attack": "cw", "smoothing": 0.5}], "smoothing is a sigma above 0, and goes with certified"),
        ([{"label": "C", "attack": "cw"}, {"label": "P", "certified": "C", "smoothing": -1.0}], "smoothing is a sigma"),
    ],
)
def test_a_column_that_cannot_be_certified_is_a_sentence(columns, words):
    setting = {"profile": "tiny", "arch": "cnn", "dataset": "dots", "datasets": ["*"], "archs": ["*"]}
    about = {"title": "t", "source": "s", "reference": "", "rows": [{"label": "AT", "method": "at"}]}
    with pytest.raises(UserError, match=words):
        build(TableSpec, about | {"columns": columns, "settings": [setting]}, "mine.toml")


def test_what_nothing_can_be_proven_in_is_a_sentence():
    with pytest.raises(
        UserError, match=r"'S' is certified as 'C&W', which is of Linf 0\.0313.*smoothing can prove in L2"
    ):
        plan_2x2(more=[Column("S", certified="C&W", smoothing=0.25)])
    plan = plan_2x2(more=[PROVEN])
    with pytest.raises(ValueError, match="certified as one that is no attack"):
        replace(plan, certified={"Proven": Certified("nobody", "Linf", EPS)})
    assert plan.threats == plan_2x2().threats
