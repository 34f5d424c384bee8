"""Laws of bench.tables.report: golden tables, checked by eye; escapes; no torch; fast enough to be used."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hand_made import fill, plan_2x2, renamed, run_record

from bench.ground.config import UserError
from bench.ledger.folder import Results
from bench.ledger.plan import Plan
from bench.ledger.runs import write_run
from bench.ledger.spec import Column
from bench.tables import report
from bench.tables.cells import table

ROOT = Path(__file__).parents[2]
VERDICTS = {("AT", "Clean"): [1, 1, 1, 1], ("AT", "C&W"): [1, 1, 1, 0], ("MAT_h2", "Clean"): [1, 1, 0, 1]}

MARKDOWN = r"""### Robustness of A & B

| Network   |                   Clean |               C&W |
|:----------|------------------------:|------------------:|
| AT        | **100.0 [51.0, 100.0]** | 75.0 [30.1, 95.4] |
| MAT_h2    | **75.0 [30.1, 95.4] =** |           missing |

- Accuracy in percent [95 % Wilson interval], on n = 4 test images of dots; an image counts if it is right"""

HTML_ROW = """    <tr>
      <th>AT</th>
      <td><b>100.0 [51.0, 100.0]</b></td>
      <td>75.0 [30.1, 95.4]</td>
    </tr>"""


@pytest.fixture
def made(tmp_path: Path) -> tuple[Plan, pd.DataFrame]:
    plan, results = plan_2x2(), Results(tmp_path)
    fill(plan, results, VERDICTS)
    return plan, table(plan, results)


def test_golden_markdown(made: tuple[Plan, pd.DataFrame]):
    assert report.render(*made, "markdown").startswith(MARKDOWN)


def test_latex_with_balanced_braces(made: tuple[Plan, pd.DataFrame]):
    text = report.render(*made, "latex").replace("  % needs \\usepackage{booktabs}", "")
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}") > 0
    assert not re.search(r"(?<!\\)[%#$_]", text.replace(r"\ell_", "")), "every special sign is escaped"


def test_golden_html_with_every_tag_closed(made: tuple[Plan, pd.DataFrame]):
    text = report.render(*made, "html")
    assert HTML_ROW in text and "<th>C&amp;W</th>" in text and "A &amp; B" in text
    open_tags: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Tags().feed(text)
    assert open_tags == []


@pytest.mark.parametrize("style", ["markdown", "latex", "html", "text"])
def test_under_the_table_stands_what_it_takes_to_read_it(made: tuple[Plan, pd.DataFrame], style: str):
    text = report.render(*made, style)
    for words in (
        "n = 4",
        "Wilson interval",
        r"\ensuremath{\ell_\infty} 8/255, 100 steps" if style == "latex" else "Linf 8/255, 100 steps of 0.003",
        "a paper, Table 1",
        "seed 0",
        "Missing: ",
    ):
        assert words in text


def test_csv_is_tidy_and_has_no_number_for_a_missing_cell(made: tuple[Plan, pd.DataFrame]):
    frame = pd.read_csv(io.StringIO(report.render(*made, "csv")))
    assert frame["accuracy_percent"].tolist()[:3] == [100, 75, 75]
    assert frame.loc[3, ["n", "accuracy_percent", "low_percent", "high_percent"]].isna().all()
    assert frame["state"].tolist() == ["ok"] * 3 + ["missing"] and "MAT_h2 / C&W" in frame["error"][3]


def test_a_hostile_label_stays_text(made: tuple[Plan, pd.DataFrame]):
    label = r"<b>|a\b{_%"
    plan = renamed(made[0], "AT", label)
    frame = made[1].assign(row=made[1]["row"].replace("AT", label))
    assert "&lt;b&gt;" in report.render(plan, frame, "html")
    assert r"\textless{}b\textgreater{}\textbar{}a\textbackslash{}b\{\_\%" in report.render(plan, frame, "latex")
    line = next(line for line in report.render(plan, frame, "markdown").splitlines() if "100.0" in line)
    assert len(re.findall(r"(?<!\\)\|", line)) == 4, "a bar in a label makes no column"


def test_several_seeds_show_their_spread(tmp_path: Path):
    plan, results = plan_2x2(seeds=(0, 1)), Results(tmp_path)
    fill(plan, results, VERDICTS)
    text = report.render(plan, table(plan, results), "markdown")
    assert "sd 0.0" in text and "over seeds and images" in text and "seeds 0, 1" in text


def test_a_union_says_which_attack_broke_what(tmp_path: Path):
    more = [Column("DDN", "ddn"), Column("worst", union=("C&W", "DDN")), Column("mean", mean=("C&W", "DDN"))]
    plan, results = plan_2x2(more=more), Results(tmp_path)
    fill(plan, results, VERDICTS | {("AT", "DDN"): [0, 1, 1, 0]})
    text = report.render(plan, table(plan, results), "text")
    assert (
        "worst: images by the first column that broke them, and by it only: AT: C&W 1 (0 only), DDN 1 (1 only)." in text
    )
    assert (
        "worst: worst case image by image of C&W, DDN; mean: mean of C&W, DDN (interval from its variance over images)."
        in text
    )
    assert "Missing: MAT_h2 / worst: no number for C&W, DDN." in text
    seeds = plan_2x2(more=more, seeds=(0, 1))
    fill(seeds, results, VERDICTS | {("AT", "DDN"): [0, 1, 1, 0]})
    assert "images (summed over seeds)" in report.render(seeds, table(seeds, results), "text")
    fill(plan, Results(tmp_path / "other"), {})
    assert "images by the first" not in report.render(plan, table(plan, Results(tmp_path / "other")), "text")


def test_an_attack_that_breaks_nothing_is_not_named(tmp_path: Path):
    plan, results = plan_2x2(more=[Column("worst", union=("Clean", "C&W"))]), Results(tmp_path)
    fill(plan, results, VERDICTS | {("MAT_h2", "Clean"): [1] * 4, ("MAT_h2", "C&W"): [1] * 4})
    assert "by it only: AT: C&W 1 (1 only); MAT_h2: none." in report.render(plan, table(plan, results), "text")


@pytest.mark.parametrize("style", ["markdown", "latex", "html", "text"])
def test_a_network_whose_training_went_wrong_is_marked_and_named(tmp_path: Path, style: str):
    plan, results = plan_2x2(seeds=(0, 1)), Results(tmp_path)
    fill(plan, results, VERDICTS)
    sick = next(cell.run_id for cell in plan.cells if cell.row == "AT" and cell.seed == 1)
    write_run(results, run_record(sick, health=["collapsed: one class for every image from epoch 4 on"]))
    frame = table(plan, results)
    assert [bool(health) for health in frame["health"]] == [True, True, False, False]
    text = report.render(plan, frame, style)
    assert text.count("(!)") == 3, "two numbers that this seed is part of, and one note"
    name = sick.replace("_", r"\_") if style == "latex" else sick
    assert f"(!) {name}: best epoch 3, collapsed: one class for every image from epoch 4 on." in text
    assert "collapsed" in report.render(plan, frame, "csv")


def test_decimals_follow_n():
    assert report.percent(0.83149, 999) == "83.1" and report.percent(0.83149, 1000) == "83.15"


def test_an_unknown_format_is_refused(made: tuple[Plan, pd.DataFrame]):
    with pytest.raises(UserError, match="did you mean 'html'"):
        report.render(*made, "htm")


def test_the_written_table_is_the_csv(made: tuple[Plan, pd.DataFrame], tmp_path: Path):
    path = report.write_table(*made, Results(tmp_path))
    assert path == tmp_path / "tables" / "tiny-dots.csv" and path.read_text() == report.render(*made, "csv")


def test_against_the_paper_where_data_and_architecture_fit(made: tuple[Plan, pd.DataFrame], tmp_path: Path):
    path = tmp_path / "mat.csv"
    path.write_text(
        "paper,table,page,dataset,arch,method,column,accuracy_percent\n"
        "p,2,7,dots,cnn,AT,cw,50.5\np,3,7,dots,cnn,AT,cw,1\np,2,7,dots,big,AT,clean,1\np,2,7,dots,cnn,MAT_h2,cw,1\n"
    )
    found = report.against_paper(*made, path).to_dict("records")
    assert len(found) == 1, "another table, another architecture and a cell without a number do not count"
    assert found[0] == {
        "row": "AT", "column": "C&W", "paper_percent": 50.5, "ours_percent": 75.0, "low_percent": 30.06,
        "high_percent": 95.44, "distance_points": 24.5, "inside": True,
    }  # fmt: skip


def test_a_column_is_compared_under_its_published_name(tmp_path: Path):
    plan = plan_2x2(more=[Column("worst", union=("Clean", "C&W"), published="linf")])
    fill(plan, Results(tmp_path), VERDICTS)
    path = tmp_path / "mat.csv"
    path.write_text(
        "paper,table,page,dataset,arch,method,column,accuracy_percent\np,2,7,dots,cnn,AT,linf,70\np,2,7,dots,cnn,AT,cw,1\n"
    )
    found = report.against_paper(plan, table(plan, Results(tmp_path)), path)
    assert dict(zip(found["column"], found["paper_percent"], strict=True)) == {"worst": 70, "C&W": 1}


def test_the_right_side_of_the_wall_never_loads_torch():
    loaded = "'torch' in sys.modules or 'scipy.stats' in sys.modules"
    code = f"import sys\nfrom bench.tables import report\nfrom bench.regression import check\nsys.exit({loaded})"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
