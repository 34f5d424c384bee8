"""Laws of bench.regression.check: a moved number fails both ways, and so does whatever cannot be compared."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
import scipy.stats
from hand_made import MADE_BY, fill, plan_2x2, renamed, run_record

from bench.commands.cli import main
from bench.ground.config import UserError
from bench.ledger.evals import read_eval, write_eval
from bench.ledger.folder import Results
from bench.ledger.plan import Plan, write_plan
from bench.ledger.runs import write_run
from bench.ledger.spec import Column
from bench.regression.check import check, check_paper
from bench.regression.outcome import Checked, CheckResult, tell
from bench.regression.reference import reference_path, write_reference
from bench.tables.cells import table

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
    seeds = table(plan, results).assign(seed_spread=[0.003, 0.01, 0.004, 0.02])
    tolerance = pd.read_csv(write_reference(plan, seeds, tmp_path / "r.csv"))["tolerance_percent"].tolist()
    t = scipy.stats.t(4).ppf(1 - 0.001 / 2 / 4)
    clean, attacked = ((a**2 + b**2) / 2 for a, b in ((0.3, 0.4), (1, 2)))
    assert tolerance[0] == tolerance[2] == pytest.approx(t * (clean * 4 / 3) ** 0.5, abs=1e-3)
    assert tolerance[1] == tolerance[3] == pytest.approx(t * (attacked * 4 / 3) ** 0.5, abs=1e-3)
    with pytest.raises(UserError, match=r"with 3 seeds of 2 rows an equal training may lie 45 points off"):
        write_reference(plan, seeds.assign(seed_spread=2 * seeds["seed_spread"]), tmp_path / "wide.csv")
    assert not (tmp_path / "wide.csv").exists()


def filled(plan: Plan, folder: Path) -> pd.DataFrame:
    """The table of a plan whose records have the verdicts of ALL."""
    fill(plan, Results(folder), ALL)
    return table(plan, Results(folder))


def test_another_radius_fails_where_every_number_is_the_same(reference: Path, tmp_path: Path):
    plan = plan_2x2(images=400, eps=0.031)
    found = failures(filled(plan, tmp_path / "other"), reference, plan)
    wanted = (
        r"attacked with Linf 0\.031, 100 steps of 0\.003, settings \w{8}, the reference with Linf 8/255, 100 steps "
    )
    assert len(found) == 2 and all(re.search(f"C&W: {wanted}", line) for line in found)


def test_a_smaller_radius_in_the_code_fails_where_settings_and_numbers_are_the_same(
    frame: pd.DataFrame, tmp_path: Path
):
    """The farthest of the reference's images is at the edge of the ball; now none is."""
    edge = frame.assign(reach=1.0)
    path = write_reference(PLAN, edge, tmp_path / "r.csv")
    assert failures(edge, path) == [] and failures(edge.assign(reach=0.9995), path) == []
    found = failures(edge.assign(reach=0.148 / 0.15), path)
    assert len(found) == 4 and "farthest image lies at 0.9867 of the radius, the reference's at 1" in found[0]
    assert len(failures(edge.assign(reach=float("nan")), path)) == 4
    inside = write_reference(PLAN, edge.assign(reach=0.96), tmp_path / "inside.csv")
    assert failures(edge.assign(reach=0.9), inside) == [], "such as the closest images of a minimal-norm attack"
    assert frame["reach"].isna().tolist() == [False] * 4 and frame["reach"][1] == pytest.approx(0.03 / (8 / 255))


def test_the_reach_of_several_networks_is_the_least(tmp_path: Path):
    plan, results = plan_2x2(seeds=(0, 1)), Results(tmp_path)
    fill(plan, results, {key: value[:4] for key, value in ALL.items()})
    cell = next(cell for cell in plan.cells if cell.column == "C&W" and cell.seed == 1)
    record = read_eval(results, cell.run_id, cell.eval_id)
    write_eval(results, replace(record, images=record.images.assign(linf=[0.01, 0.02, 0.0, 0.01])))
    assert table(plan, results)["reach"][1] == pytest.approx(0.02 / (8 / 255))


def test_another_setting_of_an_attack_fails_where_its_words_are_the_same(reference: Path, tmp_path: Path):
    settings = {"threat": {"norm": "Linf", "eps": 8 / 255}, "steps": 100, "step": 0.003}
    attacks = {"cw": {"attack": "cw", "version": 1, "settings": settings | {"loss": "margin"}}}
    plan = plan_2x2(images=400, attacks=attacks)
    assert plan.budgets == PLAN.budgets
    found = failures(filled(plan, tmp_path / "other"), reference, plan)
    assert len(found) == 2 and all("C&W: attacked with" in line for line in found)


def test_another_recipe_fails_for_its_rows_alone(reference: Path, tmp_path: Path):
    other = {"trainer": "at", "version": 1, "settings": {"schedule": {"epochs": 3}, "inner": {"eps": 0.031}}}
    mat = {"trainer": "mat", "version": 1, "settings": {"schedule": {"epochs": 3}}}
    plan = plan_2x2(images=400, recipes={"at": other, "mat": mat})
    found = failures(filled(plan, tmp_path / "other"), reference, plan)
    assert len(found) == 2 and all("AT / " in line and "trained by at-tiny " in line for line in found)


def test_checkpoints_chosen_with_other_images_fail(reference: Path, tmp_path: Path):
    plan = plan_2x2(images=400, validation_sha256="0123456789abcdef")
    found = failures(filled(plan, tmp_path / "other"), reference, plan)
    assert len(found) == 4
    assert all("checkpoint chosen with images 0123456789ab, the reference" in line for line in found)


def test_within_the_tolerance_passes(frame: pd.DataFrame, reference: Path):
    assert failures(moved(frame, 4.5), reference) == failures(moved(frame, -4.5), reference) == []


@pytest.mark.parametrize(("points", "words"), [(6, "weaker attack"), (-6, "worse model")])
def test_a_number_that_moved_fails_both_ways_and_says_which(
    frame: pd.DataFrame, reference: Path, points: float, words: str
):
    found = failures(moved(frame, points), reference)
    assert len(found) == 2 and all(words in line and f"{points:+.2f} points" in line for line in found)
    assert "AT / C&W" in found[0]


@pytest.mark.parametrize(
    ("points", "words"), [(6, "a worse model, or a stronger"), (-6, "a weaker attack, or a better")]
)
def test_of_an_error_less_is_better(tmp_path: Path, points: float, words: str):
    plan, results = plan_2x2(images=400, more=[Column("Wrong", error="C&W")]), Results(tmp_path / "results")
    fill(plan, results, ALL)
    made = table(plan, results)
    found = failures(moved(made, points, "Wrong"), write_reference(plan, made, tmp_path / "reference.csv"), plan)
    assert len(found) == 2 and all(words in line for line in found)


def test_of_a_corruption_no_attack_is_blamed(tmp_path: Path):
    kind = {"attack": "corruption", "version": 1, "settings": {"name": "fog", "severity": 3}}
    plan = plan_2x2(images=400, attacks={"cw": kind, "ddn": kind})
    fill(PLAN, Results(tmp_path / "attacked"), ALL)
    made = table(PLAN, Results(tmp_path / "attacked"))
    found = failures(moved(made, 6), write_reference(plan, made, tmp_path / "reference.csv"), plan)
    assert len(found) == 2 and all("a better model, or other data" in line for line in found)


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


def test_the_reference_of_another_table_or_of_a_cell_twice_is_a_sentence(frame: pd.DataFrame, reference: Path):
    whole = reference.read_text()
    reference.write_text(whole.replace("tiny-dots", "huge-dots"))
    with pytest.raises(UserError, match="is the reference of huge-dots, not of tiny-dots"):
        check(PLAN, frame, reference)
    reference.write_text(whole + whole.splitlines(keepends=True)[-1])
    with pytest.raises(UserError, match=r"has \w+ / \S+ twice"):
        check(PLAN, frame, reference)
    with pytest.raises(UserError, match="/dev/zero: is no plain file"):
        check(PLAN, frame, Path("/dev/zero"))


def test_the_reference_lies_beside_the_papers():
    assert reference_path("table2-digits").as_posix() == "results/reference/table2-digits.csv"


PUBLISHED = "paper,table,page,dataset,arch,method,column,accuracy_percent\np,2,7,dots,cnn,AT,cw,{}\n"


@pytest.fixture
def folder(tmp_path: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the results of PLAN, their reference and the paper's table."""
    monkeypatch.chdir(tmp_path)
    write_plan(Results(Path("results")), PLAN)
    write_reference(PLAN, frame, reference_path(PLAN.name))
    (Path("results") / "reference" / "mat.csv").write_text(PUBLISHED.format(52.0))
    return tmp_path


def lowered(path: Path, points: float) -> Path:
    """The reference with every number lower by so much."""
    known = pd.read_csv(path)
    known.assign(accuracy_percent=known["accuracy_percent"] - points).to_csv(path, index=False)
    return path


def bench(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_another_reference_file_decides(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert bench(capsys, "check", "tiny")[0] == 0
    other = folder / "other.csv"
    other.write_text(reference_path(PLAN.name).read_text())
    code, out, _ = bench(capsys, "check", "tiny", "--reference", lowered(other, 10))
    assert code == 1 and "other.csv" in out and "4 failed" in out and "+10.00 points" in out
    write_plan(Results(Path("results")), replace(PLAN, name="tiny-more"))
    code, _, err = bench(capsys, "check", "--reference", other)
    assert code == 2 and "goes with one table" in err


def test_the_papers_numbers_are_told_and_fail_nothing(folder: Path, capsys: pytest.CaptureFixture[str]):
    code, out, _ = bench(capsys, "check", "tiny", "--paper")
    assert code == 0 and "AT / C&W: the paper says 52.00 %, we get 50.00 [45.12, 54.88], -2.00 points: inside" in out
    assert "1 of 1 published numbers inside our intervals" in out
    far = folder / "far.csv"
    far.write_text(PUBLISHED.format(90.0))
    code, out, _ = bench(capsys, "check", "tiny", "--paper", "--reference", far)
    assert code == 0 and "-40.00 points: outside our interval" in out and "0 of 1" in out
    far.write_text(PUBLISHED.format(90.0).replace("cnn", "big"))
    assert "nothing published for dots with cnn" in bench(capsys, "check", "tiny", "--paper", "--reference", far)[1]
    write_plan(Results(Path("results")), replace(PLAN, reference=""))
    code, _, err = bench(capsys, "check", "tiny", "--paper")
    assert code == 2 and "has no published numbers" in err
    assert bench(capsys, "check", "tiny", "--paper", "--update")[0] == 2


def test_an_update_tells_what_changes(folder: Path, capsys: pytest.CaptureFixture[str]):
    path = reference_path(PLAN.name)
    lines = lowered(path, 10).read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1].replace("MAT_h2,C&W", "Gone,C&W"))
    code, out, _ = bench(capsys, "check", "tiny", "--update")
    assert code == 0
    assert "! AT / C&W: 40.00 % of 400 -> 50.00 % of 400 images" in out
    assert "+ MAT_h2 / C&W: 60.00 %" in out and "- Gone / C&W: 50.00 %" in out and "5 of 5 cells change" in out
    assert bench(capsys, "check", "tiny")[0] == 0
    assert "0 of 4 cells change" in bench(capsys, "check", "tiny", "--update")[1]
    known = pd.read_csv(path, dtype=str)
    known.assign(tolerance_percent="50", provenance="others").to_csv(path, index=False)
    out = bench(capsys, "check", "tiny", "--update")[1]
    assert "! AT / Clean: tolerance 50.00 -> 2.00 points; of other networks" in out and "4 of 4 cells change" in out
    known.assign(tolerance_percent="50", accuracy_percent="90").to_csv(path, index=False)
    out = bench(capsys, "check", "tiny", "--update")[1]
    assert "! AT / C&W: 90.00 % of 400 -> 50.00 % of 400 images; tolerance 50.00 -> " in out


def test_an_update_from_uncommitted_code_or_with_holes_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    results, path = Results(Path("results")), lowered(reference_path(PLAN.name), 10)
    before, run_id = path.read_text(), PLAN.cells[0].run_id
    for made_by in (replace(MADE_BY, git_dirty=True), replace(MADE_BY, git_commit="unknown")):
        write_run(results, replace(run_record(run_id), provenance=made_by))
        code, _, err = bench(capsys, "check", "tiny", "--update")
        assert code == 2 and "1 of 6 records were made with uncommitted changes or outside" in err and run_id in err
    write_run(results, run_record(run_id))
    results.eval(run_id, PLAN.cells[0].eval_id).unlink()
    code, _, err = bench(capsys, "check", "tiny", "--update")
    assert code == 2 and "1 cells without a number" in err and path.read_text() == before


OUTCOMES = [
    CheckResult(
        "t", "r.csv", [Checked("A & <B>", "C,w", False, "50 % moved\nto \x1b[0m<&>"), Checked("A", "x", True)], "s"
    ),
    CheckResult("u", "r.csv", [Checked("A", "y", True, "the paper says 3 %")], "fine"),
]


def test_junit_is_xml_with_a_case_for_each_cell():
    root = ElementTree.fromstring(tell(OUTCOMES, "junit").encode())
    first, second = root.findall("testsuite")
    assert (first.get("tests"), first.get("failures"), second.get("failures")) == ("2", "1", "0")
    bad, good = first.findall("testcase")
    failure = bad.find("failure")
    assert bad.get("name") == "A & <B> / C,w" and failure is not None and good.find("failure") is None
    assert failure.get("message") == "50 % moved\nto ?[0m<&>"
    assert second.findtext("testcase/system-out") == "the paper says 3 %"


def test_json_holds_everything():
    found = json.loads(tell(OUTCOMES, "json"))
    assert found["ok"] is False and [one["ok"] for one in found["tables"]] == [False, True]
    assert found["tables"][0]["cells"][0] == {
        "row": "A & <B>", "column": "C,w", "ok": False, "words": "50 % moved\nto \x1b[0m<&>",
    }  # fmt: skip


def test_githubs_commands_are_one_line_each_and_escaped():
    lines = tell(OUTCOMES, "github").splitlines()
    assert lines[0] == "::error title=t%3A A & <B> / C%2Cw::50 %25 moved%0Ato \x1b[0m<&>"
    assert lines[1:] == [
        "::error title=t::s",
        "::notice title=u%3A A / y::the paper says 3 %25",
        "::notice title=u::fine",
    ]


@pytest.mark.parametrize("style", ["text", "junit", "json", "github"])
def test_every_format_tells_a_failure_and_exits_with_1(style: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    assert bench(capsys, "check", "tiny", "--format", style)[0] == 0
    lowered(reference_path(PLAN.name), 10)
    code, out, _ = bench(capsys, "check", "tiny", "--format", style)
    assert code == 1 and "+10.00 points from 40.00" in out
    with pytest.raises(UserError, match="did you mean 'json'"):
        tell(OUTCOMES, "jsn")


BROKEN = {
    "empty": "", "another form": "a,b\n1,2\n", "no number": PUBLISHED.format("high"), "beyond": PUBLISHED.format(101),
    "twice": PUBLISHED.format(50) + PUBLISHED.format(60).splitlines()[1] + "\n", "binary": "\0\x7f\n\1,\2\n",
}  # fmt: skip


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_table_of_a_paper_is_a_sentence(folder: Path, text: str, capsys: pytest.CaptureFixture[str]):
    (folder / "p.csv").write_text(text)
    code, out, err = bench(capsys, "check", "tiny", "--paper", "--reference", folder / "p.csv")
    assert code == 2 and not out and "p.csv" in err and len(err.splitlines()) == 1


def test_names_and_hashes_that_look_like_numbers_stay_text(frame: pd.DataFrame, tmp_path: Path):
    """A row named NA, and hashes that are all digits or like 12e4."""
    plan = replace(renamed(PLAN, "AT", "NA"), validation_sha256="000123456789")
    lines = frame.assign(row=frame["row"].replace("AT", "NA"))
    assert failures(lines, write_reference(plan, lines, tmp_path / "odd.csv"), plan) == []


def test_a_paper_without_a_fitting_cell_is_a_table_of_none(frame: pd.DataFrame, tmp_path: Path):
    (tmp_path / "p.csv").write_text(PUBLISHED.format(50.0).replace("AT", "RST"))
    assert check_paper(PLAN, frame, tmp_path / "p.csv").cells == []


def test_a_folder_of_results_is_a_reference(folder: Path, capsys: pytest.CaptureFixture[str]):
    then = Results(folder / "then")
    fill(PLAN, then, ALL | {("AT", "C&W"): [1] * 230 + [0] * 170})
    code, _, err = bench(capsys, "check", "tiny", "--reference", then.root)
    assert code == 2 and "tiny" in err and "then" in err
    write_plan(then, PLAN)
    code, out, _ = bench(capsys, "check", "tiny", "--reference", then.root)
    assert code == 1 and "stronger attack; -7.50 points" in out and "4 cells compared image by image, 1 failed" in out
    code, _, err = bench(capsys, "check", "--reference", "results")
    assert code == 2 and "results is the folder that is checked" in err
    shutil.copytree("results", "same")
    code, out, _ = bench(capsys, "check", "--reference", "same", "--format", "json")
    assert code == 0 and json.loads(out)["ok"]
    for option in ("--paper", "--update"):
        code, _, err = bench(capsys, "check", "tiny", "--reference", then.root, option)
        assert code == 2 and "is a folder; --paper and --update want a CSV file" in err
