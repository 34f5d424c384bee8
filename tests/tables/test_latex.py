"""Laws of bench.tables.latex: what a paper sets, from hand-made records; it compiles, whatever the names are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hand_made import fill, plan_2x2, renamed

from bench.commands.cli import main
from bench.ledger.folder import Results
from bench.ledger.plan import Plan, write_plan
from bench.ledger.spec import Column
from bench.tables import latex, report
from bench.tables.cells import table

PDFLATEX = shutil.which("pdflatex")
ROWS = {"AT": [1, 1, 1, 0], "MAT_h2": [1, 1, 0, 0]}
TABLE = r"""\begin{tabular}{lrr}
\toprule
 & Clean & C\&W \\
\midrule
AT & \textbf{100.0} & \textbf{75.0} \\
 & {\scriptsize [51.0, 100.0]} & {\scriptsize [30.1, 95.4]} \\[2pt]
MAT\_h2 & \underline{75.0}\rlap{\textsuperscript{=}} & \underline{50.0}\rlap{\textsuperscript{=}} \\
 & {\scriptsize [30.1, 95.4]} & {\scriptsize [15.0, 85.0]} \\[2pt]
\bottomrule
\end{tabular}"""
HOSTILE = (
    "[x] \\input{/etc/passwd}",
    '* a & b % c # d $e$ _f^g~ {h} <i> | "j" `k`',
    "\u03b1 = 0.2, \u0394, \u2265 3 \u00b1 1",
)


def made(folder: Path, more: list[Column] | None = None, seeds: tuple[int, ...] = (0,)) -> tuple[Plan, Results]:
    """Two networks, clean and under C&W."""
    plan, results = plan_2x2(more=more or [], seeds=seeds), Results(folder)
    clean = {("AT", "Clean"): [1, 1, 1, 1], ("MAT_h2", "Clean"): [1, 1, 1, 0]}
    fill(plan, results, clean | {(row, "C&W"): verdicts for row, verdicts in ROWS.items()})
    return plan, results


def text_of(plan: Plan, results: Results, intervals: bool = True) -> str:
    return report.render(plan, table(plan, results), "latex", intervals)


def test_the_highest_is_bold_the_second_underlined_and_intervals_stand_below(tmp_path: Path):
    text = text_of(*made(tmp_path))
    assert TABLE in text
    caption = re.search(r"\\caption\{(.*)\}\n", text)
    assert caption is not None
    for words in ("n = 4 test images of dots", r"\ensuremath{\epsilon} = 8/255 in \ensuremath{\ell_\infty}", "Wilson"):
        assert words in caption[1]
    assert text.startswith("\\begin{table}[ht]  % needs \\usepackage{booktabs}\n") and text.endswith("\\end{table}")


def test_without_intervals_there_are_none_and_the_caption_does_not_speak_of_them(tmp_path: Path):
    text = text_of(*made(tmp_path), intervals=False)
    assert r"AT & \textbf{100.0} & \textbf{75.0} \\" + "\n" in text
    assert "scriptsize" not in text and "brackets" not in text.partition("\\begin{tabular}")[0]


def test_equal_numbers_are_all_bold_and_a_column_with_one_number_has_no_best(tmp_path: Path):
    plan, results = made(tmp_path)
    fill(plan, results, {("AT", "C&W"): [1, 1, 0, 0]})
    assert text_of(plan, results, False).count(r"\textbf{50.0}") == 2
    results.eval(plan.cells[3].run_id, plan.cells[3].eval_id).unlink()
    last = re.findall(r"(?m)^(?:AT|MAT.*) & .* & (.*) \\\\$", text_of(plan, results, False))
    assert last == ["50.0", "missing"]


def test_several_seeds_show_their_spread_beside_the_number(tmp_path: Path):
    plan, results = made(tmp_path, seeds=(0, 1))
    text = text_of(plan, results, False)
    assert r"\textbf{75.0}\,{\scriptsize\ensuremath{\pm}\,0.0}" in text and "standard deviation over 2 seeds" in text


def test_every_greek_letter_and_no_other_letter_is_translated():
    greek = [chr(code) for code in (*range(0x391, 0x3A2), *range(0x3A3, 0x3AA), *range(0x3B1, 0x3CA))]
    assert all(latex.escape(letter).isascii() for letter in greek)
    assert latex.escape("\u03bb\u039b\u0391\u03bf") == r"\ensuremath{\lambda}\ensuremath{\Lambda}Ao"
    assert latex.escape("\u00e9 \u4e2d") == "\u00e9 \u4e2d"


def test_letters_that_pdflatex_lacks_are_told(tmp_path: Path):
    plan, results = made(tmp_path)
    assert "XeLaTeX" not in text_of(renamed(plan, "AT", "caf\u00e9 \u03b1"), results)
    assert text_of(renamed(plan, "AT", "\u4e2d"), results).startswith("% has letters that pdfLaTeX may not know")


def test_the_option_goes_with_latex_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plan, results = made(tmp_path)
    write_plan(results, plan)
    command = ["report", "--results", str(tmp_path), "--no-intervals"]
    assert main([*command, "--format", "latex"]) == 0 and "scriptsize" not in capsys.readouterr().out
    assert main(command) == 2 and "--no-intervals goes with --format latex" in capsys.readouterr().err


@pytest.mark.latex
@pytest.mark.skipif(PDFLATEX is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("label", [*HOSTILE, "AT"])
@pytest.mark.parametrize("intervals", [True, False])
def test_it_compiles(tmp_path: Path, label: str, intervals: bool):
    plan, results = made(tmp_path, [Column("worst", union=("Clean", "C&W"))])
    frame = table(plan, results)
    plan, frame = renamed(plan, "AT", label), frame.assign(row=frame["row"].replace("AT", label))
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    body = report.render(plan, frame, "latex", intervals)
    (tmp_path / "t.tex").write_text(f"{head}\n{body}\n\\end{{document}}\n")
    command = [str(PDFLATEX), "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-800:]
    assert label != "AT" or "Overfull" not in done.stdout, "a long name may need a wider page"
