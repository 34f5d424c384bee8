"""Laws of bench.tables.page: one file that holds all it needs, whose links lead somewhere, and that runs no name."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import page_made
import pandas as pd
import pytest
from hand_made import renamed, run_record
from PIL import Image

from bench.commands.cli import main
from bench.ledger import adversarial
from bench.ledger.adversarial import read_pairs
from bench.ledger.evals import read_eval, write_eval
from bench.ledger.folder import Results
from bench.ledger.plan import Plan, write_plan
from bench.ledger.runs import write_run
from bench.ledger.spec import Figure
from bench.tables import cells, report
from bench.tables.page import build, charts, looks, pictures
from bench.tables.page.marks import draw
from bench.tables.page.shelf import command_of

ROOT = Path(__file__).parents[2]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u202e${7*7}{{7*7}}"
Made = tuple[Plan, Results, pd.DataFrame]


class Read(HTMLParser):
    """The elements of a page: (tag, attributes), the text of scripts, and what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "script":
            self.scripts.append((self.elements[-1][1], ""))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return page_made.make(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def text(made: Made) -> str:
    plan, results, frame = made
    return build.page([(plan, frame)], results)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra were not installed."""
    monkeypatch.setitem(sys.modules, "altair", None)
    monkeypatch.setitem(sys.modules, "vl_convert", None)


def article(text: str, name: str) -> str:
    """One article of a page."""
    return text.partition(f'<article id="{name}"')[2].partition("</article>")[0]


def opened(text: str, number: str) -> str:
    """The article behind the first link with that text."""
    found = re.search(rf'<a class="open" href="#([a-z0-9-]+)">{re.escape(number)}</a>', text)
    assert found is not None, number
    return article(text, found[1])


def test_the_page_loads_nothing_and_runs_its_own_scripts_alone(text: str):
    page = Read(text)
    assert page.open == [] and len(text) < 5_000_000
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    (policy,) = (a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    run = [code for attributes, code in page.scripts if attributes["type"] != "application/json"]
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" for code in run]
    assert policy.startswith("default-src 'none'; img-src data:; ") and f"script-src {' '.join(hashes)};" in policy
    assert "url(" not in text.partition("</style>")[0] and len(run) == 2


def test_the_same_records_make_the_same_bytes(made: Made, text: str):
    assert build.page([(made[0], made[2])], made[1]) == text


def test_every_link_leads_somewhere_and_every_number_opens(made: Made, text: str):
    page = Read(text)
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    targets = {attributes["href"][1:] for tag, attributes in page.elements if tag == "a"}
    assert targets <= set(names)
    numbers = [a for _, a in page.elements if a.get("class") == "open" and a["href"].startswith("#n")]
    assert len(numbers) == len(made[2]) == 12


def test_behind_a_number_stand_its_record_and_the_command_that_makes_it_again(made: Made, text: str):
    plan, results, frame = made
    line = frame[(frame["row"] == "AT") & (frame["column"] == "C&W")].iloc[0]
    number = opened(text, report.percent(line["accuracy"], 8))
    cell = next(cell for cell in plan.cells if (cell.row, cell.column) == ("AT", "C&W"))
    for words in (f"bench verify {cell.run_id}", "c0ffee", '<a href="#a', cell.eval_id):
        assert words in number
    record = read_eval(results, cell.run_id, cell.eval_id)
    attack = article(text, re.findall(r'href="#(a[0-9a-f]+)"', number)[0])
    assert record.adversarial_sha256 is not None
    for words in (
        record.weights_sha256,
        record.images_sha256,
        record.adversarial_sha256,
        "torch 2.10",
        "cpu, 2 threads",
    ):
        assert words in attack
    for term, value in (("steps", "100"), ("Seconds", "0.5"), ("Passes", "20 forward, 10 backward"), ("Seed", "0")):
        assert re.search(rf"<dt>{term}</dt><dd>\s*(<code>)?{value}", attack), term
    network = article(text, re.findall(r'href="#(r[0-9a-f]+)"', attack)[0])
    assert "threat.eps" in network and "at-tiny" in network and "epoch 3" in network


def test_a_command_is_that_of_the_record_and_one_of_another_program_is_not_passed_off(made: Made):
    told = read_eval(made[1], made[0].cells[0].run_id, made[0].cells[0].eval_id).provenance
    assert command_of(replace(told, command="__main__.py run t --set 'a b=1'")) == "bench run t --set 'a b=1'"
    for command in ("pytest -q", "bench", "unclosed 'quote", ""):
        assert command_of(replace(told, command=command)) == ""


def test_the_trust_column_opens_the_checks(text: str):
    checks = opened(text, "doubtful")
    for words in ("square", "10 % fewer", "try harder", "doubtful: square"):
        assert words in checks
    assert '<tr class="warn">' in checks and '<tr class="pass">' in checks


def test_a_cell_without_a_number_says_why(tmp_path: Path, plain: None):
    plan, results, _ = page_made.make(tmp_path)
    lost = next(cell for cell in plan.cells if (cell.row, cell.column) == ("AT", "FGSM"))
    results.eval(lost.run_id, lost.eval_id).unlink()
    text = build.page([(plan, cells.table(plan, results))], results)
    assert f"there is no record {lost.eval_id}" in opened(text, "missing") and text.count(">missing</a>") == 2


def test_hostile_names_stay_text(text: str, tmp_path: Path):
    usual = len(Read(text).scripts)
    plan, results, _ = page_made.make(tmp_path)
    plan = renamed(replace(plan, title=HOSTILE, source=HOSTILE, note=HOSTILE), "AT", HOSTILE)
    record = read_eval(results, plan.cells[1].run_id, plan.cells[1].eval_id)
    write_eval(results, replace(record, attack=HOSTILE, signs=[HOSTILE], settings={HOSTILE: HOSTILE}))
    write_run(results, replace(run_record(plan.cells[1].run_id, health=[HOSTILE]), recipe=HOSTILE, arch=HOSTILE))
    text = build.page([(plan, cells.table(plan, results))], results)
    page = Read(text)
    assert len(page.scripts) == usual
    assert not [a for tag, a in page.elements if "onerror" in a or a.get("src") == "x"]
    assert "\u202e" not in text and text.count("\\u202e") > 5 and "alert(1)" in text and "{{7*7}}" in text
    for attributes, code in page.scripts:
        if attributes["type"] == "application/json":
            assert "<" not in code and json.loads(code)
    for source in re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", text):
        assert b"<script" not in base64.b64decode(source) and b"<img" not in base64.b64decode(source)


def test_without_the_extra_the_page_comes_with_numbers_and_says_so(
    made: Made, plain: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["report", "--results", str(made[1].root), "--format", "html", "--out", f"{tmp_path}/new/"]) == 0
    text = (tmp_path / "new" / "index.html").read_text()
    told = capsys.readouterr()
    assert "pip install" in told.err and "robustness-bench[page]" in text and told.out.startswith("wrote ")
    assert "svg+xml" not in text and "Which attack broke what" in text and len(Read(text).scripts) == 1


def test_a_folder_gets_the_page_and_a_file_the_tables_as_before(made: Made, plain: None, tmp_path: Path):
    command = ["report", "--results", str(made[1].root), "--format"]
    (tmp_path / "there").mkdir()
    for name in ("there", "new/"):
        assert main([*command, "html", "--out", f"{tmp_path}/{name}"]) == 0
        assert (tmp_path / name / "index.html").read_text().startswith("<!doctype html>")
    for name in ("new.html", "page"):
        assert main([*command, "html", "--out", f"{tmp_path}/{name}"]) == 0
        assert (tmp_path / name).read_text() == report.render(made[0], made[2], "html") + "\n"
    assert main([*command, "markdown", "--out", f"{tmp_path}/there"]) == 2


def test_what_broke_what_is_counted_image_by_image(made: Made):
    seen = looks.seen(made[0], made[1])
    broken = seen.broken.set_index(["network", "attack"])
    assert broken.loc[("AT", "C&W"), ["broken", "only", "right"]].tolist() == [3, 1, 8]
    assert broken.loc[("AT", "FGSM"), ["broken", "only", "right"]].tolist() == [3, 1, 8]
    assert broken.loc[("MAT_h2", "C&W"), ["broken", "only", "right"]].tolist() == [2, 2, 7]
    overlaps = seen.overlaps.set_index(["network", "first", "second"])
    assert overlaps.loc[("AT", "C&W", "FGSM"), ["both", "share"]].tolist() == [2, 66.7]
    assert ("MAT_h2", "FGSM", "C&W") not in overlaps.index, "it broke nothing"
    confusions = seen.confusions.set_index(["network", "attack", "label", "predicted"])["images"]
    assert confusions[("AT", "C&W", 3, 3)] == 5 and confusions[("AT", "C&W", 3, 7)] == 3


def test_what_stands_for_robustness(made: Made):
    plan, _, frame = made

    def of(*columns: str, norm: str = "Linf") -> str | None:
        cells = [cell for cell in plan.cells if cell.column in columns]
        name = next(cell.attack for cell in plan.cells if cell.column == "C&W")
        attacks = plan.attacks | {name: {"attack": "cw", "settings": {"threat": {"norm": norm, "eps": 0.1}}}}
        about = {"columns": list(columns), "cells": cells, "budgets": dict.fromkeys(columns, ""), "attacks": attacks}
        return looks.strongest(replace(plan, unions={}, **about), frame[frame["column"].isin(columns)])

    means = frame.groupby("column")["accuracy"].mean()
    assert means["C&W"] < means["FGSM"] and abs(means["L2 0.5"] - 0.5) < abs(means["L2 0.1"] - 0.5)
    assert looks.strongest(plan, frame) == "Worst"
    assert looks.strongest(replace(plan, figure=Figure("cost", column="FGSM")), frame) == "FGSM"
    assert of("Clean", "L2 0.1", "L2 0.5", "FGSM", "C&W") == "C&W" and of("Clean", "L2 0.5", "L2 0.1") == "L2 0.5"
    assert of("FGSM", "C&W", norm="own") == "FGSM" and of("C&W", norm="own") == "C&W" and of("Clean") is None


def test_beyond_its_radius_an_adversarial_image_is_no_confusion(made: Made):
    confusions = looks.seen(made[0], made[1]).confusions.set_index(["network", "attack", "predicted"])["images"]
    assert confusions[("MAT_h2", "L2 0.1", 3)] == 8, "all need 0.3 or more"
    assert confusions[("MAT_h2", "L2 0.5", 7)] == 4


def test_curves_mark_the_kept_epochs_and_are_none_of_older_trainings(made: Made, text: str, tmp_path: Path):
    shown = looks.curves(made[0], made[1])
    at = shown[(shown["network"] == "AT") & (shown["measure"] == "PGD")]
    assert at["accuracy"].tolist() == [20, 40, 60] and at["mark"].tolist() == ["", "", "best"]
    mat = shown[(shown["network"] == "MAT_h2") & (shown["measure"] == "PGD")]
    assert mat["accuracy"].tolist() == [10, 20, 30], "its own member's"
    assert build.NO_CURVES not in text
    plan, results, frame = page_made.make(tmp_path)
    for path in tmp_path.glob("runs/*/history.json"):
        path.unlink()
    assert looks.curves(plan, results).empty and build.NO_CURVES in build.page([(plan, frame)], results)


def test_the_gallery_holds_what_fell_with_its_scale(made: Made, text: str):
    plan, results, _ = made
    items = pictures.gallery(plan, results)
    assert [item.image for item in items] == [3, 4] and {(item.network, item.attack) for item in items} == {
        ("AT", "C&W")
    }
    assert all((item.label, item.before, item.after) == (3, 3, 7) for item in items)
    assert items[0].scale == pytest.approx(page_made.DELTA) and items[0].distances["linf"] == 0.03
    assert f"from black &minus;{page_made.DELTA} to white +{page_made.DELTA}" in article(text, "t0-g1")
    drawn = {name: levels(getattr(items[0], name)) for name in ("original", "perturbation", "adversarial")}
    assert drawn == {"original": {128}, "perturbation": {0, 255}, "adversarial": {120, 135}}


def levels(picture: str) -> set[int]:
    """The grey levels of a picture in the page."""
    with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as image:
        assert image.size == (4, 4)
        return set(image.tobytes())


def test_the_gallery_leaves_out_what_lies_beyond_the_radius(made: Made):
    plan, results, _ = made
    cell = next(cell for cell in plan.cells if (cell.row, cell.column) == ("AT", "C&W"))
    record = read_eval(results, cell.run_id, cell.eval_id)
    held = record.images.assign(robust=record.images["robust"] | (record.images["image"] == 3))
    assert [item.image for item in pictures._items(cell, record, results)] == [3, 4, 5]
    assert [item.image for item in pictures._items(cell, replace(record, images=held), results)] == [4, 5]


def test_without_originals_the_gallery_shows_the_adversarial_image_and_without_images_the_command(
    tmp_path: Path, plain: None
):
    plan, results, frame = page_made.make(tmp_path)
    cell = next(cell for cell in plan.cells if (cell.row, cell.column) == ("AT", "C&W"))
    record = read_eval(results, cell.run_id, cell.eval_id)
    kept = read_pairs(results, record)
    x_adv = pd.Series({image: pair.x_adv for image, pair in kept.items()})
    stack = [x_adv.get(image, kept[3].x_adv) for image in record.images["image"]]
    digest = adversarial.keep(results, cell.run_id, cell.eval_id, record.images, pictures.np.stack(stack))
    write_eval(results, replace(record, adversarial_sha256=digest))
    assert [item.original for item in pictures.gallery(plan, results)] == [None, None]
    assert "was not kept" in build.page([(plan, frame)], results)
    write_eval(results, replace(record, adversarial_sha256=None))
    assert "bench run tiny --keep-adversarial" in build.page([(plan, frame)], results)


@pytest.mark.parametrize(
    ("figure", "title"),
    [
        (Figure("overlap", rows=("AT", "MAT_h2"), column="C&W"), "Two networks on the same images"),
        (Figure("sweep", over="steps"), "Accuracy against steps"),
        (Figure("cost", column="C&W"), "Accuracy (C&W) against the cost of training"),
        (None, "Accuracy against radius"),
    ],
)
def test_every_kind_of_chart_is_drawn(made: Made, figure: Figure | None, title: str):
    plan, results, frame = made
    recipes = {
        name: one | {"settings": one["settings"] | {"steps": n}} for n, (name, one) in enumerate(plan.recipes.items())
    }
    drawn = charts.charts(replace(plan, figure=figure, recipes=recipes), frame, results)
    named = {chart.title: chart for chart in drawn}
    assert {"Which attack broke what", "Overlaps of attacks", "Confusion under attack", charts.CURVES} < set(named)
    for chart in drawn:
        assert chart.spec is not None and chart.svg is not None and chart.svg.startswith("<svg") and len(chart.numbers)
    assert title in named


def test_many_classes_show_their_most_frequent_mistakes(made: Made):
    plan, results, _ = made
    record = read_eval(results, plan.cells[0].run_id, plan.cells[0].eval_id)
    label = pd.Series(range(20)).repeat(3).reset_index(drop=True)
    wrong = label.where(label.index % 3 > 0, 99).where(label > 0, 7)  # one of three, of the first class all
    images = pd.DataFrame({"label": label, "clean_prediction": label, "adversarial_prediction": wrong})
    counts = looks._confusion([replace(record, norm="none", images=images)])
    assert len(counts) == looks.MOST_MISTAKES and (counts["label"] != counts["predicted"]).all()
    assert counts.iloc[0].tolist() == [0, 7, 3] and set(counts["images"][1:]) == {1}
    every = pd.concat([counts.assign(network="AT", attack=name) for name in ("a", "b")])
    assert draw(every, "mistakes")["params"][1]["value"] == "a"


def test_a_page_leaves_torch_unloaded():
    code = (
        "import sys\nfrom bench.tables.page import build\nsys.exit('torch' in sys.modules or 'altair' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_table_of_which_nothing_was_run_has_a_page_too(tmp_path: Path):
    plan, results = page_made.planned(), Results(tmp_path)
    text = build.page([(plan, cells.table(plan, results))], results)
    assert text.count(">missing</a>") == 12 and "0 of 12" in text and "data:image/svg" not in text


def test_several_tables_and_a_broken_record(
    made: Made, tmp_path: Path, plain: None, capsys: pytest.CaptureFixture[str]
):
    plan, results, _ = page_made.make(tmp_path / "r", seeds=(0, 1))
    write_plan(results, replace(plan, name="tiny-again", title="Again"))
    command = ["report", "--results", str(tmp_path / "r"), "--format", "html", "--out", f"{tmp_path}/page/"]
    assert main(command) == 0
    text = (tmp_path / "page" / "index.html").read_text()
    assert '<a href="#t1">Robustness of A &amp; B</a>' in text and "sd 0.0" in text and "Spread over seeds" in text
    path = results.eval(plan.cells[0].run_id, plan.cells[0].eval_id)
    path.write_bytes(path.read_bytes()[:-20])
    assert main(command) == 2 and str(path) in capsys.readouterr().err
    assert (tmp_path / "page" / "index.html").read_text() == text, "the page that was there stays"
