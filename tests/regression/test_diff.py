"""Laws of bench.regression.diff: the images that flipped, by their ids, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hand_made import eval_record, fill, frame, plan_2x2

from bench.commands.cli import main
from bench.ledger.evals import write_eval
from bench.ledger.folder import Results
from bench.ledger.plan import write_plan
from bench.regression.diff import _names, between, diff

RUNS = "at-dots-cnn-s0-00000001.best", "at-dots-cnn-s1-00000002.best"
BEFORE, AFTER = [1, 1, 1, 1, 0, 0, 0, 0, 0, 1], [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Two networks under one attack, on images 100 to 109, in another order."""
    folder = Results(tmp_path / "results")
    for run_id, robust in zip(RUNS, (BEFORE, AFTER), strict=True):
        images = frame(robust).assign(image=range(100, 110))
        images = images if run_id == RUNS[0] else images.iloc[::-1].reset_index(drop=True)
        write_eval(folder, eval_record(run_id, "cw-n10-00000000", images))
    return folder


def bench(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def check(out: str) -> None:
    assert "50.00 % -> 90.00 % of 10 images, +40.00 points" in out
    assert "1 lost, 5 won, McNemar p = 0.22" in out, "2 (1 + 6) / 2^6"
    assert (
        "  lost: 103\n" in out and "  won: 104, 105, 106, 107, 108\n" in out and "1 compared, 1 of them differ" in out
    )


def test_two_runs(results: Results, capsys: pytest.CaptureFixture[str]):
    write_eval(results, eval_record(RUNS[0], "ddn-n10-00000000", frame(BEFORE)))
    code, out, _ = bench(capsys, "diff", *RUNS, "--results", results.root)
    assert code == 0 and "ddn-n10-00000000: only one of the two has it" in out
    check(out)


def test_two_records(results: Results, capsys: pytest.CaptureFixture[str]):
    paths = [results.eval(run_id, "cw-n10-00000000") for run_id in RUNS]
    code, out, _ = bench(capsys, "diff", *paths)
    assert code == 0
    check(out)
    assert out.startswith("cw-n10-00000000: ")
    other = paths[1].with_name("pgd-n10-00000000.parquet")
    assert f"{RUNS[0]}/{paths[0].stem} -> {RUNS[1]}/{other.stem}" == _names(paths[0], other)
    assert _names(paths[1], other) == f"{paths[1].stem} -> {other.stem}"
    code, out, _ = bench(capsys, "diff", paths[0], paths[0])
    assert code == 0 and "0 lost, 0 won, McNemar p = 1" in out and "1 compared, 0 of them differ" in out
    code, out, _ = bench(capsys, "diff", *paths, "--format", "json")
    found = json.loads(out)["diffs"][0]
    assert found["lost"] == [103] and found["won"] == [104, 105, 106, 107, 108] and found["p"] == pytest.approx(14 / 64)
    assert found["low"] < 0.4 < found["high"]


def test_two_folders_cell_by_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plan, folders = plan_2x2(images=10, seeds=(0, 1)), [Results(tmp_path / name) for name in "ab"]
    for folder, robust in zip(folders, (BEFORE, AFTER), strict=True):
        write_plan(folder, plan)
        fill(plan, folder, {("AT", "Clean"): [1] * 10, ("AT", "C&W"): robust, ("MAT_h2", "Clean"): [1] * 10})
    folders[1].eval(plan.cells[0].run_id, plan.cells[0].eval_id).unlink()
    code, out, _ = bench(capsys, "diff", *(folder.root for folder in folders))
    assert code == 0 and "tiny-dots: AT / C&W, seed 1: 50.00 % -> 90.00 %" in out and "lost: 3\n" in out
    assert "5 compared, 2 of them differ" in out
    assert "tiny-dots: AT / Clean, seed 0: not compared" in out and "there is no record" in out
    assert out.count("tiny-dots: MAT_h2 / C&W") == 2, "a cell that neither has is told too"


def test_many_images_are_counted_in_text_and_listed_in_json():
    first = eval_record(RUNS[0], "a-n50-00000000", frame([1] * 50))
    second = eval_record(RUNS[1], "a-n50-00000000", frame([0] * 50))
    from bench.regression.diff import tell

    one = between("a", first, second)
    assert "17, 18, 19 and 30 more" in tell([one], [], "text")
    assert json.loads(tell([one], [], "json"))["diffs"][0]["lost"] == list(range(50))


@pytest.mark.parametrize("change", [{"images_sha256": "other"}, {"images": frame([1] * 9)}])
def test_other_images_are_refused(results: Results, change: dict, capsys: pytest.CaptureFixture[str]):
    given = {"images": frame(BEFORE).assign(image=range(100, 110))} | change
    write_eval(results, eval_record(RUNS[0], "cw-n10-00000000", **given))
    code, _, err = bench(capsys, "diff", *RUNS, "--results", results.root)
    assert code == 2 and "different images" in err


def test_what_is_no_pair_is_a_sentence(results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for pair, words in (
        ((RUNS[0], "at-dots-cnn-s2-00000003.best"), "has no eval record"),
        ((tmp_path, results.root), "no table in common"),
        ((tmp_path / "a.parquet", tmp_path / "b.parquet"), "no eval record; they lie in"),
    ):
        code, _, err = bench(capsys, "diff", *pair, "--results", results.root)
        assert code == 2 and words in err and len(err.splitlines()) == 1
    write_eval(results, eval_record("x-s0-00000000.last", "other-n10-00000000", frame(BEFORE)))
    assert "same attack" in bench(capsys, "diff", RUNS[0], "x-s0-00000000.last", "--results", results.root)[2]


def test_the_order_is_before_and_after(results: Results):
    forth, back = (diff(*pair, results)[0][0] for pair in (RUNS, RUNS[::-1]))
    assert (forth.lost, forth.won) == (back.won, back.lost) and forth.low == pytest.approx(-back.high, abs=0.11)
