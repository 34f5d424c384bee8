"""Laws of bench.plan: an id changes exactly when something changes that can change the result."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from pathlib import Path

import pytest
from hand_made import SETTING, plan_2x2, spec_2x2

from bench import plan
from bench.config import UserError
from bench.records import Results
from bench.spec import Row

RECIPES = {name: {"trainer": name, "version": 1, "settings": {"schedule": {"epochs": 3}}} for name in ("at", "mat")}


def ids(made: plan.Plan, column: str = "C&W") -> set[tuple[str, str]]:
    return {(cell.run_id, cell.eval_id) for cell in made.cells if cell.column == column}


def test_a_digest_does_not_know_the_order_of_keys_but_every_value():
    assert plan.digest({"a": 1, "b": [2.0]}) == plan.digest({"b": [2.0], "a": 1})
    assert plan.digest({"a": 1}) != plan.digest({"a": 2})
    assert plan.digest("a", "b") != plan.digest("ab", "")
    assert len(plan.digest()) == 8 and set(plan.digest("x")) <= set(string.hexdigits)


def test_ids_are_words_and_then_a_hash():
    training = plan.training_id("mat", "cifar10", "resnet18", 0, {"a": 1})
    assert training == "mat-cifar10-resnet18-s0-" + plan.digest({"a": 1})
    assert plan.run_id(training, 0, 1, "best") == f"{training}.best"
    assert plan.run_id(training, 0, 2, "last") == f"{training}.h1-last"
    assert plan.eval_id("pgd-100-digits", 450, {}).startswith("pgd-100-digits-n450-")


def test_names_from_outside_make_safe_ids(tmp_path: Path):
    training = plan.training_id("at", "../../etc", "my.module:make", 0, {})
    path = Results(tmp_path).run(plan.run_id(training, 0, 1, "best"))
    assert path.is_relative_to(tmp_path) and ".." not in path.parts


def test_the_plan_has_every_cell_once_and_the_right_names():
    made = plan_2x2(seeds=(0, 1))
    assert len({(c.row, c.column, c.seed) for c in made.cells}) == len(made.cells) == 2 * 2 * 2
    cell = next(c for c in made.cells if (c.row, c.column) == ("MAT_h2", "C&W"))
    assert (cell.recipe, cell.attack, cell.method, cell.column_attack) == ("mat-tiny", "cw-tiny", "mat", "cw")
    assert cell.run_id == f"{cell.training_id}.h2-best" and made.name == "tiny-dots"
    assert {c.attack for c in made.cells if c.column == "Clean"} == {"clean"}
    assert made.budgets == {"Clean": "no attack", "C&W": "Linf 8/255, 100 steps of 0.003"}


@pytest.mark.parametrize(
    ("change", "moves_run", "moves_eval"),
    [
        ({}, False, False),
        ({"eps": 4 / 255}, False, True),
        ({"images_sha256": "other"}, False, True),
        ({"eval_options": {"gradient_precision": "bfloat16"}}, False, True),
        ({"eval_seed": 1}, False, True),
        ({"train_sha256": "other"}, True, False),
        ({"arch": "big"}, True, False),
        ({"dataset": "dots2"}, True, False),
        ({"seeds": (1,)}, True, False),
        ({"recipes": {n: r | {"version": 2} for n, r in RECIPES.items()}}, True, False),
        ({"recipes": {n: r | {"settings": {"beta": 6}} for n, r in RECIPES.items()}}, True, False),
    ],
)
def test_ids_move_with_what_can_change_the_result(change: dict, moves_run: bool, moves_eval: bool):
    before, after = ids(plan_2x2()), ids(plan_2x2(**change))
    runs, evals = zip(*before, strict=True)
    assert all((run not in runs) == moves_run and (ev not in evals) == moves_eval for run, ev in after)


def test_a_network_that_the_recipe_does_not_train_is_refused():
    with pytest.raises(UserError, match="'MAT_h2' is network 2, but 'mat' trains 1"):
        plan_2x2(members={"at": 1, "mat": 1})


def test_a_plan_comes_back_as_it_was(tmp_path: Path):
    results, made = Results(tmp_path), plan_2x2(seeds=(0, 2))
    plan.write_plan(results, made)
    assert plan.list_plans(results) == ["tiny-dots"]
    assert plan.read_plan(results, "tiny-dots") == made


def test_a_missing_or_broken_plan_is_a_sentence(tmp_path: Path):
    results = Results(tmp_path)
    path = plan.write_plan(results, plan_2x2())
    with pytest.raises(UserError, match="did you mean 'tiny-dots'"):
        plan.read_plan(results, "tiny-dot")
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match=r"tiny-dots\.json"):
        plan.read_plan(results, "tiny-dots")


def test_a_plan_of_another_name_is_refused(tmp_path: Path):
    results = Results(tmp_path)
    path = plan.write_plan(results, plan_2x2())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "other"}))
    with pytest.raises(UserError, match="its name is 'other'"):
        plan.read_plan(results, "tiny-dots")


@pytest.mark.parametrize(
    ("asked", "profile"),
    [
        ((None, None), "digits"),
        (("digits", "resnet18"), "digits"),
        (("cifar10", None), "paper"),
        (("cifar100", "resnet18"), "paper"),
        (("cifar10", "wrn-34-10"), "paper-wrn"),
        (("svhn", "wide:make"), "paper"),
    ],
)
def test_table2_takes_the_setting_that_fits(asked: tuple, profile: str):
    assert plan.load_spec("table2").choose_setting(*asked).profile == profile


def test_table2_is_the_papers_table():
    spec = plan.load_spec("table2")
    assert [row.label for row in spec.rows] == ["AT", "TRADES", "MART", "MAT-h1", "MAT-h2"]
    assert [c.attack for c in spec.columns] == ["clean", "fgsm", "pgd-100", "cw", "fog", "gabor", "elastic"]
    assert spec.settings[0].attack("cw") == "cw-digits" and spec.choose_setting("cifar10").attack("cw") == "cw"
    assert plan.plan_name("table2", spec, "digits", "cnn-small") == "table2-digits"
    assert plan.plan_name("table2", spec, "cifar10", "resnet18") == "table2-cifar10-resnet18"


def test_a_setting_that_fits_nothing_and_a_label_twice_are_refused():
    with pytest.raises(UserError, match="no setting for data set 'moons'"):
        spec_2x2().choose_setting("moons")
    with pytest.raises(ValueError, match="label of its own"):
        replace(spec_2x2(), rows=[Row("AT", "at"), Row("AT", "at")])
    with pytest.raises(UserError, match="did you mean 'table2'"):
        plan.load_spec("tabel2")
    assert SETTING.attack("clean") == "clean"


def test_budgets_say_radius_and_effort():
    def words(**settings: object) -> str:
        return plan.budget({"attack": "pgd", "version": 1, "settings": settings})

    assert words(threat={"norm": "L2", "eps": 0.5}, steps=1) == "L2 0.5, 1 step"
    assert words(threat={"norm": "own", "eps": 128}) == "own measure 128"
    assert words(threat={"norm": "Linf", "eps": 0.2}, steps=20, step=2 / 255, restarts=3) == (
        "Linf 0.2, 20 steps of 2/255, 3 restarts"
    )
