"""Every command and every Python block of every page runs as it stands there, or says above itself why not.

Pages share one folder of results. What trains does so for one epoch and what attacks sees five images, unless the page
says how many: what is asked here is that commands do what their page says, not what the numbers are.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
from pathlib import Path

import click
import numpy as np
import own_sets as own
import pytest
from own_sets import TEXTS, X, Y
from pages import PAGES, ROOT, Block, anchors, blocks, links, prose
from safetensors.torch import save_file
from slowly import slow

from bench.commands.cli import app, main
from bench.ledger.folder import Results
from bench.ledger.runs import list_runs
from bench.subjects import models
from bench.subjects.factories import GIVEN
from bench.subjects.normalization import NAMED

SHORT = ["--set", "*-digits.schedule.epochs=1", "--set", "*-digits.inner.steps=1"]
FEW = ["fog", "gabor", "elastic", "cw", "pgd-100"]  # attacks of table2 that are as good here with two steps
TINY = {
    "run": [*SHORT, "--images", "5", "--jobs", "1"],
    "train": SHORT,
    "attack": ["--images", "5"],
    "diagnose": ["--images", "5"],
    "certify": ["--images", "5", "--budget", "20"],
}
READS = ("list", "report", "attack", "diff", "check")  # what several pages have is run once
SAID: dict[tuple[str, ...], str] = {}
REASONS = ("hours", "GPU", "network", "data", "extra", "minutes", "files", "shell", "other machine", "all tests")
WITH_COMMANDS = [page for page in PAGES if any(block.runs for block in blocks(page))]
LONG = ("verdicts.md", "commands.md", "settings.md")
SLOW = [page for page in WITH_COMMANDS if any("slow" in block.marks for block in blocks(page))]


def full(words: list[str]) -> list[str]:
    """The arguments of a command of a page, made small where the page leaves open how large."""
    _, command, *rest = words
    if "--dataset" in rest and command in ("run", "train"):
        return words[1:]
    few = [f"--set={name}-digits.steps=2" for name in FEW if (command, rest[:1]) == ("run", ["table2"])]
    return [command, *TINY.get(command, []), *few, *rest]  # what the page says comes last and counts


@pytest.fixture(scope="session")
def results(tmp_path_factory) -> Path:
    """table2 on digits, as small as it can be; test processes share it and divide the work."""
    at = tmp_path_factory.getbasetemp()
    at = (at.parent if at.name.startswith("popen") else at) / "docs" / "results"
    at.parent.mkdir(exist_ok=True)
    assert main([*full(["bench", "run", "table2"]), "--results", str(at)]) == 0
    return at


@pytest.fixture(scope="session")
def run_ids(results) -> dict[str, str]:
    """What stands for RUN_ID and OTHER_RUN_ID on the pages."""
    runs = {run.partition("-")[0]: run for run in list_runs(Results(results)) if run.endswith(".best")}
    return {"RUN_ID": runs["at"], "OTHER_RUN_ID": runs["trades"]}


@pytest.fixture
def place(tmp_path, results, monkeypatch) -> Path:
    """The folder of a page's commands."""
    shutil.copytree(results, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_model", raising=False)  # that of another page, or test
    return tmp_path


def files_of_data(at: Path) -> None:
    """What the commands of docs/data.md read."""
    small = X[:, :8, :8, :1]
    save_file(models.create("cnn-small", (1, 8, 8), 3, seed=0).state_dict(), at / "net.safetensors")
    own.pictures(at / "pictures", small, Y)
    own.pictures(at / "photos", X[..., :1], Y)
    own.npz(at / "test.npz", x=small, y=Y)
    own.npz(at / "some.npz", x=small[:30], y=Y[:30])
    own.saved(at / "arrays", x_test=small, y_test=Y)
    own.safetensors(at / "test.safetensors", images=small, labels=Y)
    own.parquet(at / "shop.parquet", "photo", "kind", TEXTS, [own.coded(one) for one in small], price=np.arange(60))
    own.arrow(at / "saved_by_datasets", small)
    for part, rows in (("train", slice(0, 60, 2)), ("test", slice(1, 60, 2))):
        own.pictures(at / "parts" / part, small[rows], Y[rows])


def said_by(words: list[str], code: int, capsys: pytest.CaptureFixture) -> str:
    """What a command prints, which must end with that exit code."""
    assert words[0] == "bench", f"{words}: only bench and Python are run here; a mark says why something is not"
    if (key := tuple(words)) in SAID:
        return SAID[key]
    ended = main(full(words))
    told = "".join(capsys.readouterr())
    assert ended == code, f"{' '.join(words)}\n{told}"
    if words[1] in READS or "--dry-run" in words:
        SAID[key] = told
    return told


def run(block: Block, ids: dict[str, str], names: dict, capsys: pytest.CaptureFixture) -> str:
    """Everything that the block prints."""
    if block.language == "python":
        exec(compile(block.text, "a page", "exec"), names)
        return capsys.readouterr().out
    code = int(block.marks.get("exit", 0))
    return "".join(said_by([ids.get(word, word) for word in words], code, capsys) for words in block.commands)


def masked(line: str, exactly: bool = False) -> str:
    """Without its numbers, which differ from machine to machine, and the width of its columns."""
    if exactly:
        return line.strip()
    return re.sub(r"[-:| ]+", " ", re.sub(r"[-+]?\d[\d.,]*", "#", line)).strip()


def follow(page: Path, place: Path, ids: dict[str, str], capsys: pytest.CaptureFixture, slow: bool) -> None:
    """Runs the blocks of a page, one after the other."""
    for block in blocks(page):  # all files first: a page may show one after the command that reads it
        if name := block.marks.get("file"):
            (place / name).write_text(block.text)
    said, names = "", {"__name__": "page"}
    for block in blocks(page):
        if "prints" in block.marks and said:
            exactly = block.marks["prints"] == "exactly"
            found = "\n".join(masked(line, exactly) for line in said.splitlines())
            missing = [line for line in block.text.splitlines() if masked(line, exactly) not in found]
            assert not missing, f"{page.name} says {missing}; printed was\n{said}"
        elif block.runs and (slow or "slow" not in block.marks):
            said = run(block, ids, names, capsys)
        else:
            said = ""


@pytest.mark.parametrize(
    "page",
    [*(page for page in WITH_COMMANDS if page.name not in LONG), *slow(p for p in WITH_COMMANDS if p.name in LONG)],
    ids=lambda page: page.name,
)
def test_a_page_runs(page, place, run_ids, capsys):
    files_of_data(place)
    follow(page, place, run_ids, capsys, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=lambda page: page.name)
def test_a_page_runs_with_its_slow_blocks(page, place, run_ids, capsys):
    files_of_data(place)
    follow(page, place, run_ids, capsys, slow=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_not_run_says_why(page):
    for block in blocks(page):
        assert block.language in (
            "sh",
            "python",
            "text",
            "toml",
            "yaml",
            "bibtex",
            "{toctree}",
            "{eval-rst}",
            "",
            "json",
        )
        assert "not run" not in block.marks or block.marks["not run"].startswith(REASONS), block
        assert set(block.marks) <= {"not run", "slow", "exit", "file", "prints", "ci"}, block.marks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_has_the_options_it_is_given_run_or_not(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("DATA", "results", "results-before", "results-after"):
        (tmp_path / place).mkdir()
    files_of_data(tmp_path)
    for block in blocks(page):
        if block.language != "sh":
            continue
        for name, *words in (words[1:] for words in block.commands if words[0] == "bench"):
            command = app.get_command(click.Context(app), name)
            assert command is not None, name
            try:
                command.make_context(name, words)
            except click.UsageError as error:
                stays = "does not exist" in error.format_message() and "not run" in block.marks
                assert stays, f"{name} {words}: {error.format_message()}"


def test_most_commands_are_run():
    of_commands = [block for page in PAGES for block in blocks(page) if block.language in ("sh", "python")]
    run_here = [block for block in of_commands if block.runs]
    assert len(run_here) > len(of_commands) / 2
    assert sum(len(block.commands) for block in run_here if block.language == "sh") > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in links(page):
        if "://" in link:
            assert link.startswith("https://"), link
            continue
        path, _, anchor = link.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists() and to.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(to), f"{link}: {sorted(anchors(to))}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_tests_that_a_page_names_are_there(page):
    for name in re.findall(
        r"`((?:tests|docs|attacks|trainers|bench|benchmarks)/[\w./-]+\.\w+(?:::\w+)?)`", prose(page)
    ):
        path, _, test = name.partition("::")
        assert (ROOT / path).exists(), name
        assert not test or f"def {test}(" in (ROOT / path).read_text(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_of_a_page_is_python(page):
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.text)


def test_the_page_of_data_shows_every_option():
    page = (ROOT / "docs" / "data.md").read_text()
    assert all(f"{one} " in page for one in ("--columns", "--size", "--crop", "--classes"))


@pytest.mark.parametrize("name", [*GIVEN, *NAMED])
def test_the_page_of_models_has_every_name_of_the_code(name):
    page = (ROOT / "docs" / "models.md").read_text()
    assert f"`{name}`" in page or f"{name}|" in page or f"|{name}" in page or f"--normalization {name}" in page
