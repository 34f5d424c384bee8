"""Laws of the record of a diagnosis: what it must hold, and what a table says of it."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pandas as pd
import pytest
from hand_made import MADE_BY, fill, plan_2x2, run_record

from bench.diagnosis import masking
from bench.ground.config import UserError, settings_of
from bench.ground.files import SEAL, _digest
from bench.ground.provenance import Cost
from bench.ledger.diagnoses import (
    CHECKS,
    DiagnosisRecord,
    Effort,
    Finding,
    read_diagnoses,
    trust_of,
    write_diagnosis,
)
from bench.ledger.folder import Results
from bench.ledger.runs import write_run
from bench.tables import report
from bench.tables.cells import table


def diagnosis(run_id: str, verdict: str = "pass", weights: str = "w", eps: float = 8 / 255) -> DiagnosisRecord:
    """Whole, of all checks; `verdict` is that of "square"."""
    found = [Finding(check, verdict if check == "square" else "pass", "7 of 9", "so") for check in CHECKS]
    return DiagnosisRecord(
        run_id=run_id,
        norm="Linf",
        eps=eps,
        settings=settings_of(Effort()),
        seed=0,
        dataset="dots",
        weights_sha256=weights,
        images_sha256="img",
        images=100,
        source=None,
        findings=found,
        trust=trust_of(found),
        cost=Cost(1.0, 2, 3),
        provenance=MADE_BY,
    )


def test_a_record_comes_back_and_one_of_another_radius_lies_beside_it(tmp_path):
    results, runs = Results(tmp_path), ("at-1.best", "at-2.best")
    for record in (diagnosis(runs[0]), diagnosis(runs[0], "fail", eps=0.1), diagnosis(runs[1], "warn")):
        write_diagnosis(results, record)
    assert read_diagnoses(results, runs[0]) == [diagnosis(runs[0]), diagnosis(runs[0], "fail", eps=0.1)]
    write_diagnosis(results, diagnosis(runs[0], "warn"))
    assert [record.trust for record in read_diagnoses(results, runs[0])] == ["doubtful: square", "masked: square"]
    assert read_diagnoses(results, "at-3.best") == []


@pytest.mark.parametrize(
    "change, message",
    [
        ({"trust": "masked: square"}, "not what its 22 findings say"),
        ({"run_id": "at-2.best"}, "its run_id is"),
        ({"eps": 0.5}, "it is of Linf 0.5"),
        ({"findings": []}, "not what its 0 findings say"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(change, message, tmp_path):
    path = write_diagnosis(Results(tmp_path), diagnosis("at-1.best"))
    content = json.loads(path.read_text()) | change
    del content[SEAL]
    path.write_text(json.dumps(content | {SEAL: _digest(content)}))
    with pytest.raises(UserError, match=message):
        read_diagnoses(Results(tmp_path), "at-1.best")


@pytest.fixture
def filled(tmp_path):
    """A finished plan with two seeds, without a diagnosis."""
    plan, results = plan_2x2(seeds=(0, 1)), Results(tmp_path)
    fill(plan, results, {(row, column): [1, 1, 0, 1] for row in plan.rows for column in plan.columns})
    return plan, results


def runs_of(plan, row: str) -> list[str]:
    return list(dict.fromkeys(cell.run_id for cell in plan.cells if cell.row == row))


def test_a_table_without_a_diagnosis_has_no_trust_column(filled):
    plan, results = filled
    frame = table(plan, results)
    assert frame["trust"].isna().all()
    for style in report.FORMATS:
        assert "Trust" not in report.render(plan, frame, style)


def test_a_table_shows_the_worst_over_seeds_and_radii(filled):
    plan, results = filled
    one, two = runs_of(plan, "AT")
    expected = [
        (diagnosis(one), "not diagnosed"),
        (diagnosis(two), "ok"),
        (diagnosis(two, "warn", eps=0.1), "doubtful"),
        (diagnosis(one, "fail", eps=0.2), "masked"),
    ]
    for record, word in expected:
        write_diagnosis(results, record)
        frame = table(plan, results)
        said = frame[frame["row"] == "AT"]["trust"]
        if word == "not diagnosed":
            assert said.str.startswith("not diagnosed: ").all()
        else:
            assert said.str.startswith(word).all() and frame[frame["row"] == "MAT_h2"]["trust"].isna().all()
            text = report.render(plan, frame, "text")
            assert re.search(rf"^AT .* {word}$", text, re.M) and re.search(r"^MAT_h2 .* not diagnosed$", text, re.M)
    note = next(line for line in text.splitlines() if line.startswith("Trust"))
    assert note.endswith("AT: masked: square (Linf 0.2, 100 images).")
    for style in ("markdown", "latex", "html"):
        assert "Trust" in report.render(plan, frame, style) and "masked" in report.render(plan, frame, style)
    written = pd.read_csv(io.StringIO(report.render(plan, frame, "csv")))
    assert written[written["row"] == "AT"]["trust"].str.startswith("masked: square").all()


def test_an_ok_at_a_radius_that_the_table_does_not_have_is_none(filled):
    """At a radius of 0.0001 every network is fine."""
    plan, results = filled
    tiny = [replace(diagnosis(run_id), eps=1e-4) for run_id in runs_of(plan, "AT")]
    for record in tiny:
        write_diagnosis(results, record)
    frame = table(plan, results)
    said = frame[frame["row"] == "AT"]["trust"]
    assert said.str.startswith("not diagnosed at a radius of this table: at-").all()
    assert said.str.endswith("(but ok at Linf 0.0001)").all()
    assert re.search(r"^AT .* not diagnosed at a radius of this table$", report.render(plan, frame, "text"), re.M)
    for record in tiny:
        write_diagnosis(results, replace(record, dataset="others", eps=8 / 255))
    assert table(plan, results)["trust"].dropna().str.startswith("not diagnosed at").all()
    for record in tiny:
        write_diagnosis(results, diagnosis(record.run_id))
    assert table(plan, results)["trust"].dropna().str.startswith("ok (Linf 8/255").all()


def test_a_diagnosis_of_other_weights_does_not_count(filled):
    plan, results = filled
    for run_id in runs_of(plan, "AT"):
        write_diagnosis(results, diagnosis(run_id, weights="v"))
    assert table(plan, results)["trust"].isna().all()
    write_run(results, run_record(runs_of(plan, "AT")[0], weights="v"))
    assert table(plan, results)["trust"].dropna().str.startswith("not diagnosed: ").all()


# --- what an "ok" needs ---------------------------------------------------------------------------------------------


def only(*checks: str) -> list[Finding]:
    return [finding for finding in diagnosis("at-1.best").findings if finding.check in checks]


def skipping(check: str) -> list[Finding]:
    return [
        replace(finding, verdict="skip") if finding.check == check else finding
        for finding in diagnosis("at-1.best").findings
    ]


NOT_WHOLE = [
    ({"findings": only("square")}, "without evaluation-mode, logits"),
    ({"findings": only("square"), "images": 1}, "without evaluation-mode, logits"),
    ({"findings": only("square") * len(CHECKS)}, "without evaluation-mode, logits"),
    ({"findings": only(*CHECKS[:-1])}, "without sample"),
    ({"findings": only(*set(CHECKS) - {"memory", "neighbours"})}, "without memory, neighbours"),  # an older release
    ({"findings": [Finding("a check", "pass", "1", "so")] * 22}, "without evaluation-mode"),
    ({"findings": skipping("transfer")}, "without transfer"),
    ({"findings": skipping("square")}, "without square"),
    ({"images": 1}, "on 1 of at least 50 images"),
    ({"images": 49}, "on 49 of at least 50 images"),
    ({"images": -100}, "on -100 of at least 50 images"),
    ({"settings": {}}, "with less than the usual few, steps, many"),
    ({"settings": settings_of(replace(Effort(), steps=1, queries=0))}, "with less than the usual steps, queries"),
]


@pytest.mark.parametrize("change, why", NOT_WHOLE, ids=range(len(NOT_WHOLE)))
def test_an_ok_without_all_checks_on_enough_images_is_none(change, why, filled):
    plan, results = filled
    for run_id in runs_of(plan, "AT"):
        write_diagnosis(results, replace(diagnosis(run_id), **change))
        (read,) = read_diagnoses(results, run_id)
        assert read.trust == "ok" and read.verdict.startswith(f"not diagnosed with all checks ({why}"), read.verdict
    frame = table(plan, results)
    assert frame["trust"].dropna().str.startswith(f"not diagnosed with all checks ({why}").all()
    assert re.search(r"^AT .* not diagnosed with all checks$", report.render(plan, frame, "text"), re.M)


def test_what_a_record_without_all_checks_found_is_said_all_the_same(filled):
    plan, results = filled
    for run_id in runs_of(plan, "AT"):
        found = [*only("logits"), Finding("square", "fail", "7 of 9", "so")]
        write_diagnosis(results, replace(diagnosis(run_id), findings=found, trust="masked: square", images=1))
    assert table(plan, results)["trust"].dropna().str.startswith("masked: square").all()


def test_square_may_be_skipped_in_l1_and_only_there(tmp_path):
    skipped = replace(diagnosis("at-1.best"), findings=skipping("square"))
    assert replace(skipped, norm="L1").verdict == "ok" and skipped.verdict != "ok" == diagnosis("at-1.best").verdict
    assert replace(skipped, norm="L1", findings=skipping("noise")).verdict != "ok"


def test_the_names_of_the_checks_are_those_that_are_made():
    assert tuple(masking.CHECKS) == CHECKS
