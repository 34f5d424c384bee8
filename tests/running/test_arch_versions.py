"""A training's id changes exactly where its initial weights do; committed plans are made again to the byte."""

from __future__ import annotations

import json
import linecache
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from bench.ground.config import build
from bench.ground.files import SEAL
from bench.ledger import ids, plan
from bench.ledger.folder import Results
from bench.running.run import TableRun
from bench.running.table import Options
from bench.running.train import Training
from bench.subjects import data, models
from bench.subjects.catalog import Catalog

ROOT = Path(__file__).parents[2]
OTHERS = sorted(set(models.MODELS) - set(models.VERSIONS))


catalog, digits = cache(Catalog), cache(data.load)


def training(arch: str, name: str = "at-digits", *assignments: str) -> Training:
    return Training(catalog(None, assignments).recipe(name), digits("digits"), arch, 0, torch.device("cpu"))


def id_before_versions(one: Training) -> str:
    """What the id was when no architecture had a version."""

    def without(recipe: dict) -> dict:
        kept = {key: value for key, value in recipe.items() if key != "arch_versions"}
        teacher = kept.get("teacher")
        return kept if teacher is None else kept | {"teacher": teacher | {"recipe": without(teacher["recipe"])}}

    sha256 = one.dataset.train.sha256
    return ids.training_of_recipe(without(one.recipe.resolved(one.arch)), "digits", sha256, one.arch, one.seed)


@pytest.mark.parametrize("name", ["at-digits", "mat-digits", "ard-digits"])
@pytest.mark.parametrize("arch", [*OTHERS, "cnn-small+resnet8"])
def test_architectures_that_start_as_before_keep_their_ids(arch: str, name: str):
    assert training(arch, name).training_id == id_before_versions(training(arch, name))


@pytest.mark.parametrize(
    ("arch", "name", "assignments"),
    [
        ("resnet18", "at-digits", []),
        ("preact-resnet18", "mat-digits", []),
        ("resnet18", "ard-digits", []),
        ("resnet8+resnet18", "at-digits", []),
        ("cnn-small", "mat-digits", ["mat-digits.archs=['cnn-small', 'resnet18']"]),
        ("cnn-small", "ard-digits", ["ard-digits.teacher_arch=resnet18"]),
    ],
)
def test_whatever_starts_elsewhere_or_learns_from_what_does_has_a_new_id(arch: str, name: str, assignments: list[str]):
    assert training(arch, name, *assignments).training_id != id_before_versions(training(arch, name, *assignments))


def test_a_student_that_starts_as_before_has_no_version_of_its_own():
    resolved = training("cnn-small", "ard-digits", "ard-digits.teacher_arch=resnet18").recipe.resolved("cnn-small")
    assert "arch_versions" not in resolved
    assert resolved["teacher"]["recipe"]["arch_versions"] == {"resnet18": models.VERSIONS["resnet18"]}


def test_a_plan_has_the_ids_of_its_trainings_and_says_the_version(tmp_path: Path):
    table = TableRun("table2", Options(Results(tmp_path), arch="resnet18"))
    assert {cell.training_id for cell in table.plan.cells} >= {training("resnet18").training_id}
    assert {recipe["arch_versions"]["resnet18"] for recipe in table.plan.recipes.values()} == {2}


@pytest.mark.parametrize(
    "folder", ["digits-cnn-small/plans/like-for-like-digits", "cifar10-cnn-a/plans/like-for-like-cifar10-cnn-a"]
)
def test_what_a_committed_plan_names_has_its_id_still(folder: str):
    """Records of finished runs keep their names; a change here throws them away."""
    committed = build(plan.Plan, content(ROOT / "results" / f"{folder}.json"), folder)
    assert len(committed.cells) > 100
    for cell in committed.cells:
        data_of = committed.dataset, committed.options["train_sha256"], committed.arch, cell.seed
        assert ids.training_of_recipe(committed.recipes[cell.recipe], *data_of) == cell.training_id


def test_a_committed_plan_is_made_again(tmp_path: Path):
    committed = content(ROOT / "results" / "digits-cnn-small" / "plans" / "like-for-like-digits.json")
    again = TableRun("like-for-like", Options(Results(tmp_path))).plan
    made = content(plan.write_plan(Results(tmp_path), again))
    assert {key: made[key] for key in committed} == committed


def content(path: Path) -> dict:
    return {key: value for key, value in json.loads(path.read_text()).items() if key != SEAL}


OWN = (
    "from torch import nn\n\n\ndef make(shape, classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10){})\n"
)


def test_a_network_of_ones_own_is_trained_anew_when_its_code_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same name with other code is another network: its records would be averaged in."""
    monkeypatch.chdir(tmp_path)
    found = []
    for more in ("", ", nn.Softplus()", ""):
        Path("edited_network.py").write_text(OWN.format(more))
        sys.modules.pop("edited_network", None)
        linecache.clearcache()
        found.append(training("edited_network:make").training_id)
    assert found[0] == found[2] != found[1]
