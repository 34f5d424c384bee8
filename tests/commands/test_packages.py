"""A package of somebody's own: installed, listed, run, verified, held to the contracts; and what a broken one does."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_table import done

from bench.commands.cli import main
from bench.ground.config import UserError
from bench.ledger.evals import read_eval
from bench.ledger.folder import Results
from bench.ledger.runs import list_runs, read_run
from bench.subjects import models, outside
from bench.subjects.catalog import Catalog

ROOT = Path(__file__).parents[2]
TOY = ROOT / "docs" / "examples" / "toy-robust"
PAGE = (ROOT / "docs" / "extend.md").read_text()


def forget(*tops: str) -> None:
    """So that the modules are imported anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy package as pip installs it, without a network, in a folder of its own."""
    source, target = tmp_path_factory.mktemp("source") / "toy", tmp_path_factory.mktemp("target")
    shutil.copytree(TOY, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.fixture
def toy(installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(installed))
    yield installed
    forget("toy_robust")


def test_its_table_runs_and_its_records_say_whose_code_it_was(toy, capsys):
    assert main(["run", "toy-table", "--jobs", "1"]) == 0
    assert done(capsys.readouterr().out) == [2, 6, 0]
    assert main(["run", "toy-table", "--jobs", "1"]) == 0
    assert done(capsys.readouterr().out) == [0, 0, 6], "the ids are the same again"
    results = Results(Path("results"))
    best = [run_id for run_id in list_runs(results) if run_id.endswith(".best")]
    runs = {run_id.partition("-toy-bars")[0]: read_run(results, run_id) for run_id in best}
    assert set(runs["at"].outside) == {"toy-net"} and set(runs["toy-half"].outside) == {"trainer", "toy-net"}
    assert all(said.startswith("toy-robust 0.1, code ") for said in runs["toy-half"].outside.values())
    assert runs["at"].provenance.packages["toy-robust"] == "0.1"
    run_id = runs["at"].run_id
    records = [read_eval(results, run_id, path.stem) for path in results.evals(run_id).glob("*.parquet")]
    said = {record.attack: record.outside for record in records}
    assert said["clean"] is None and said["toy-pgd"] is None
    assert said["toy-corners"] == {
        "attack": "toy-corners", "version": 1, "code": outside.attack("toy-corners").code,
    }  # fmt: skip
    assert main(["verify", run_id, "--recipes", "toy-table", "--images", "5"]) == 0
    assert capsys.readouterr().out.count("all agree") == 3
    assert main(["attack", run_id, "toy-corners", "--norm", "Linf", "--eps", "0.3", "--images", "9"]) == 0
    assert main(["attack", run_id, "toy-corners", "--images", "9"]) == 2
    assert "is a kind without settings: give --norm and --eps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("attacks", "toy-corners"),
        ("trainers", "toy-half"),
        ("models", "toy-net"),
        ("datasets", "toy-bars"),
        ("tables", "toy-table"),
    ],
)
def test_lists_show_where_a_thing_comes_from(toy, capsys, what, name):
    assert main(["list", what]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{name} ")]
    assert line.endswith("(toy-robust 0.1)")


@pytest.mark.slow
def test_the_contracts_run_on_it_by_the_command_of_the_page(toy):
    (command,) = [line for line in PAGE.splitlines() if line.startswith("python -m pytest -p bench.contracts")]
    quick = "not (one_seed or same_bits or learns)"  # which trainings take, and all of our methods are tried on
    words = [sys.executable, *command.split()[1:], "-q", "-p", "no:cacheprovider", "-k", quick]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{toy}"}
    found = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert found.returncode == 0 and "21 passed" in found.stdout, found.stdout + found.stderr


def test_the_page_shows_the_package_as_it_is():
    files = [path for path in TOY.rglob("*.*") if path.suffix in (".py", ".toml") and path.name != "__init__.py"]
    assert len(files) == 6
    for path in files:
        assert path.read_text().strip() in PAGE, f"docs/extend.md shows another {path.name}"


# --- module:name, and what changes an id ------------------------------------------------------------------------------

OWN = """
from dataclasses import dataclass
from attacks.pgd import FGSM

@dataclass(frozen=True)
class Mine(FGSM):
    closest = False
    strength: float = {default}
"""
SETTINGS = """
[attacks.mine]
attack = "own_attack:Mine"
threat = { norm = "Linf", eps = 0.1 }
"""


def resolved(tmp_path: Path, code: str) -> dict:
    (tmp_path / "own_attack.py").write_text(code)
    forget("own_attack")
    importlib.invalidate_caches()
    return Catalog(tmp_path / "own.toml").attack("mine")[1]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own.toml").write_text(SETTINGS)
    yield tmp_path
    forget("own_attack")


def test_an_attack_whose_code_changed_is_another_attack_and_ours_have_no_code(own):
    first = resolved(own, OWN.format(default=1.0))
    second = resolved(own, OWN.format(default=1.0) + "\n# changed\n")
    assert first["attack"] == "own_attack:Mine" and first["settings"] == second["settings"]
    assert first["code"].startswith("code ") and first["code"] != second["code"]
    assert set(Catalog().attack("pgd-20")[1]) == {"attack", "version", "settings"}
    assert set(Catalog().recipe("at-digits").resolved("cnn-small")) == {"trainer", "version", "settings"}
    assert models.versions(["cnn-small"]) == {}


def test_a_record_does_not_decide_which_attack_runs(own, capsys):
    """It may name module:name as its attack; who verifies it has to say so."""
    resolved(own, OWN.format(default=1.0) + "\nfrom pathlib import Path\nPath('sprung').touch()\n")
    assert main(["train", "at-digits", "--set", "*.schedule.epochs=1", "--set", "*.inner.steps=1"]) == 0
    run_id = capsys.readouterr().out.split()[0]
    attack = ["attack", run_id, "own_attack:Mine", "--norm", "Linf", "--eps", "0.1", "--images", "5"]
    assert main(attack) == 0 and Path("sprung").exists()
    Path("sprung").unlink()
    forget("own_attack")
    capsys.readouterr()
    assert main(["verify", run_id]) == 2
    assert "is by the code of own_attack:Mine; if you trust it, name it in a file" in capsys.readouterr().err
    assert not Path("sprung").exists()
    Path("trust.toml").write_text(SETTINGS.replace("attacks.mine", 'attacks."own_attack:Mine"'))
    assert main(["verify", run_id, "--recipes", "trust.toml"]) == 0 and Path("sprung").exists()


# --- broken packages --------------------------------------------------------------------------------------------------

BROKEN = """
from dataclasses import dataclass

def function(): pass

class Plain: pass

@dataclass
class Thawed: pass

@dataclass(frozen=True)
class Empty: pass
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a package by its name and its entry points, as if it were installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_one.py").write_text(BROKEN)
    (tmp_path / "raises.py").write_text("1 / 0\n")

    def make(name: str, **groups: str) -> None:
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = "".join(f"[bench.{group}]\n{entry}\n" for group, entry in groups.items())
        (folder / "entry_points.txt").write_text(lines)
        importlib.invalidate_caches()
        outside.packages._entries.cache_clear()

    yield make
    outside.packages._entries.cache_clear()
    forget("broken_one", "raises")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("missing:Attack", "importing missing raises ModuleNotFoundError: No module named 'missing'; mend the package"),
        ("raises:Attack", "importing raises raises ZeroDivisionError"),
        ("broken_one:Nothing", "broken_one has no 'Nothing'"),
        ("broken_one", "is not of the form module:name"),
        ("broken_one:function", "is a function, and not a frozen dataclass"),
        ("broken_one:Plain", "is the class Plain, and not a frozen dataclass"),
        ("broken_one:Thawed", "is the class Thawed, and not a frozen dataclass"),
        ("broken_one:Empty", "is no attack: it has no threat, closest, version"),
    ],
)
def test_a_broken_entry_is_a_sentence_that_names_its_package_and_costs_nobody_else_anything(
    package, capsys, value, words
):
    package("bad-package", attacks=f"bad = {value}")
    Path("own.toml").write_text('[attacks.mine]\nattack = "bad"\nthreat = { norm = "Linf", eps = 0.1 }\n')
    with pytest.raises(UserError) as error:
        Catalog(Path("own.toml")).attack("mine")
    assert f"attack 'bad' of bad-package 1.0 ({value})" in str(error.value) and words in str(error.value)
    assert main(["list", "attacks"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bad ")]
    assert "(bad-package 1.0) cannot be used by its name" in line and words in line
    assert Catalog(Path("own.toml")).attack("pgd-20")[0] is not None


def test_names_that_clash_are_a_sentence(package, capsys):
    package("one", attacks="twice = broken_one:Empty\npgd = broken_one:Empty")
    package("two", attacks="twice = broken_one:Empty")
    with pytest.raises(UserError, match=r"attack 'twice' is in one 1\.0 and in two 1\.0; uninstall one"):
        outside.attack("twice")
    assert Catalog().attack("pgd-20")[1]["attack"] == "pgd"
    said = capsys.readouterr().err
    assert "attack 'pgd' is the suite's own and not that of one 1.0" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("groups", "command", "words"),
    [
        ({"tables": "gone = broken_one"}, ["run", "gone"], "there is no file gone.toml in the package broken_one"),
        ({"datasets": "d = broken_one:function"}, ["attack", "a:b", "fgsm", "--dataset", "d"], "raises TypeError"),
        ({"models": "m = raises:net"}, ["train", "at-digits", "--arch", "m"], "importing raises raises ZeroDivision"),
        ({"models": "m = broken_one:function"}, ["train", "at-digits", "--arch", "m"], "returned NoneType"),
        ({}, ["train", "at-digits", "--arch", "m"], "unknown model 'm'"),
    ],
)
def test_broken_tables_data_sets_and_models_are_sentences_too(package, capsys, groups, command, words):
    package("bad-package", **groups)
    assert main(command) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bench: ")]
    assert len(said) == 1 and words in said[0], said
    assert not groups or "bad-package 1.0" in said[0]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("return 3", "returned int, not a dict"),
        ("return {'test': (np.zeros((4, 8, 8)),)}", "returned dict, not a dict of part -> .images, labels."),
        ("return {'night': (np.zeros((4, 8, 8), 'uint8'), [0, 1, 0, 1])}", "its parts are night; known are dev"),
        ("return {'test': (np.full((4, 8, 8), 200.0), [0, 1, 0, 1])}", r"from 200 to 200, and \[0, 1\] is wanted"),
        ("return {'test': (np.eye(8)[None].repeat(4, 0), [0, 1, 0])}", "4 images and 3 labels"),
        ("return {'test': (np.eye(8)[None].repeat(4, 0), [0, 1, 0, -1])}", "label -1 is below 0"),
        ("raise OSError('no disk')", "dataset own_set:load raises OSError: no disk"),
    ],
)
def test_what_the_function_of_a_data_set_returns_is_checked(tmp_path, monkeypatch, capsys, made, words):
    (tmp_path / "own_set.py").write_text(f"import numpy as np\ndef load(data_dir):\n    {made}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget("own_set")
    assert main(["attack", "a:b", "fgsm", "--dataset", "own_set:load"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(words, said), said
    forget("own_set")
