"""Laws of bench.ledger.plan: an id changes exactly when something changes that can change the result."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hand_made import SETTING, plan_2x2, spec_2x2

from bench.ground.config import UserError
from bench.ledger import budgets, ids, plan, planning
from bench.ledger.folder import Results
from bench.ledger.spec import Column, Row, list_specs, load_spec

ROOT = Path(__file__).parents[2]
RECIPES = {name: {"trainer": name, "version": 1, "settings": {"schedule": {"epochs": 3}}} for name in ("at", "mat")}


def pairs_of(made: plan.Plan, column: str = "C&W") -> set[tuple[str, str]]:
    return {(cell.run_id, cell.eval_id) for cell in made.cells if cell.column == column}


def test_a_digest_does_not_know_the_order_of_keys_but_every_value():
    assert ids.digest({"a": 1, "b": [2.0]}) == ids.digest({"b": [2.0], "a": 1})
    assert ids.digest({"a": 1}) != ids.digest({"a": 2})
    assert ids.digest("a", "b") != ids.digest("ab", "")
    assert len(ids.digest()) == 8 and set(ids.digest("x")) <= set(string.hexdigits)


def test_ids_are_words_and_then_a_hash():
    training = ids.training_id("mat", "cifar10", "resnet18", 0, {"a": 1})
    assert training == "mat-cifar10-resnet18-s0-" + ids.digest({"a": 1})
    assert ids.run_id(training, 0, 1, "best") == f"{training}.best"
    assert ids.run_id(training, 0, 2, "last") == f"{training}.h1-last"
    assert ids.eval_id("pgd-100-digits", 450, {}).startswith("pgd-100-digits-n450-")


def test_names_from_outside_make_safe_ids(tmp_path: Path):
    training = ids.training_id("at", "../../etc", "my.module:make", 0, {})
    path = Results(tmp_path).run(ids.run_id(training, 0, 1, "best"))
    assert path.is_relative_to(tmp_path) and ".." not in path.parts


def test_a_table_from_a_file_has_its_name_wherever_it_lies_and_letters_that_are_lost_count():
    names = [
        planning.plan_name(f, spec_2x2(), "dots", "cnn")
        for f in ("/a/mine.toml", "b/mine.toml", "日本.toml", "中文.toml")
    ]
    assert names[0] == names[1] == "mine-dots"
    assert len(set(names)) == 3 and all(re.fullmatch(r"x-[0-9a-f]{8}-dots", name) for name in names[2:])


def test_the_plan_has_every_cell_once_and_the_right_names():
    made = plan_2x2(seeds=(0, 1))
    assert len({(c.row, c.column, c.seed) for c in made.cells}) == len(made.cells) == 2 * 2 * 2
    cell = next(c for c in made.cells if (c.row, c.column) == ("MAT_h2", "C&W"))
    assert (cell.recipe, cell.attack, cell.training, cell.column_attack) == ("mat-tiny", "cw-tiny", "mat", "cw")
    assert cell.run_id == f"{cell.training_id}.h2-best" and made.name == "tiny-dots"
    assert {c.attack for c in made.cells if c.column == "Clean"} == {"clean"}
    assert made.budgets == {"Clean": "no attack", "C&W": "Linf 8/255, 100 steps of 0.003"}


@pytest.mark.parametrize(
    ("change", "moves_run", "moves_eval"),
    [
        ({}, False, False),
        ({"eps": 4 / 255}, False, True),
        ({"images_sha256": "other"}, False, True),
        ({"options": {"gradient_precision": "bfloat16"}}, False, True),
        ({"train_sha256": "other"}, True, False),
        ({"arch": "big"}, True, False),
        ({"dataset": "dots2"}, True, False),
        ({"seeds": (1,)}, True, False),
        ({"recipes": {n: r | {"version": 2} for n, r in RECIPES.items()}}, True, False),
        ({"recipes": {n: r | {"settings": {"beta": 6}} for n, r in RECIPES.items()}}, True, False),
    ],
)
def test_ids_move_with_what_can_change_the_result(change: dict, moves_run: bool, moves_eval: bool):
    before, after = pairs_of(plan_2x2()), pairs_of(plan_2x2(**change))
    runs, evals = zip(*before, strict=True)
    assert all((run not in runs) == moves_run and (ev not in evals) == moves_eval for run, ev in after)


def test_a_transfer_names_the_network_it_is_crafted_on():
    more = (Column("from AT", "cw", source="at"), Column("from MAT_h1", "cw", source="mat"))
    made, last = plan_2x2(seeds=(0, 1), more=more), plan_2x2(more=more)
    cells = {(cell.row, cell.column, cell.seed): cell for cell in made.cells}
    for seed in (0, 1):
        transferred, own = cells["MAT_h2", "from AT", seed], cells["AT", "C&W", seed]
        assert (transferred.source, transferred.source_run_id) == ("at", own.run_id), "the same seed"
        assert transferred.networks == {own.run_id: "at", transferred.run_id: "mat"}
        assert own.source_run_id is None and own.networks == {own.run_id: "at"}
        assert cells["AT", "from MAT_h1", seed].source_run_id == f"{transferred.training_id}.h1-best"
    evals = [cell.eval_id for cell in last.cells if cell.column_attack == "cw" and cell.row == "AT"]
    assert len(set(evals)) == 3, "white box and two sources"
    assert made.budgets["from AT"] == "Linf 8/255, 100 steps of 0.003, crafted on at"


def test_the_source_has_the_checkpoint_of_the_row():
    rows = [Row("AT", "at", checkpoint="last")]
    spec = replace(spec_2x2(Column("from MAT", "cw", source="mat", source_member=1)), rows=rows)
    source = plan_2x2(spec=spec).cells[-1].source_run_id
    assert source and source.endswith(".h2-last")


def test_ids_of_a_transfer_move_with_the_source_and_those_of_a_white_box_attack_do_not():
    other = {"recipes": RECIPES | {"mat": RECIPES["mat"] | {"version": 2}}}

    def of_at(column: str, **change: object) -> set[tuple[str, str]]:
        made = plan_2x2(more=(Column("from MAT", "cw", source="mat"),), **change)
        return {(c.run_id, c.eval_id) for c in made.cells if (c.row, c.column) == ("AT", column)}

    assert of_at("from MAT") != of_at("from MAT", **other)
    assert of_at("C&W") == of_at("C&W", **other) == {one for one in pairs_of(plan_2x2()) if one[0].startswith("at-")}


def test_ids_from_before_there_were_sources_stay():
    """Records of finished runs keep their names; a change here throws them away."""
    assert ids.digest(ids.eval_identity({"attack": "cw"}, "cw", "img", 0, {})) == ids.digest(
        {"attack": "cw", "name": "cw", "images_sha256": "img", "seed": 0, "options": {}}
    )


def test_columns_at_a_radius_and_of_columns():
    more = (
        Column("at 1", "ddn", at=1.0),
        Column("at 0.25", "ddn", at=0.25),
        Column("worst", union=("C&W", "at 1"), published="l2"),
        Column("all", union=("worst", "Clean", "C&W")),
        Column("mean", mean=("worst", "at 0.25")),
    )
    made = plan_2x2(more=more)
    assert {cell.column for cell in made.cells} == {"Clean", "C&W", "at 1", "at 0.25"}
    assert {cell.at for cell in made.cells if cell.column_attack == "ddn"} == {1.0, 0.25}
    assert len({cell.eval_id for cell in made.cells if cell.column_attack == "ddn"}) == 1
    assert made.attacked("all") == ["C&W", "at 1", "Clean"] and made.attacked("C&W") == ["C&W"]
    assert made.attacked("mean") == ["C&W", "at 1", "at 0.25"]
    assert made.budgets["at 0.25"] == "L2 0.25, 100 steps, read off the distances of ddn"
    assert made.budgets["worst"] == "worst case image by image of C&W, at 1"
    assert made.published["worst"] == "l2" and made.published["at 1"] == "ddn"


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({}, "needs one of attack, union, mean, error and certified"),
        ({"attack": "cw", "union": ("Clean", "C&W")}, "needs one of attack, union, mean, error and certified"),
        ({"attack": "clean", "source": "at"}, "source and at go with an attack"),
        ({"union": ("Clean", "C&W"), "at": 0.5}, "source and at go with an attack"),
        ({"attack": "cw", "source_member": 1}, "source_member is a network of a source"),
        ({"attack": "ddn", "at": -0.5}, "at = -0.5 is no radius"),
        ({"union": ("C&W",)}, "at least two columns, each once"),
        ({"mean": ("C&W", "C&W")}, "at least two columns, each once"),
        ({"union": ("C&W", "later")}, "made of 'later', which is no union and no attack before it"),
        ({"union": ("C&W", "mean")}, "made of 'mean', which is no union and no attack before it"),
    ],
)
def test_columns_that_make_no_sense_are_refused(column: dict, words: str):
    with pytest.raises(ValueError, match=words):
        spec_2x2(Column("mean", mean=("Clean", "C&W")), Column("new", **column), Column("later", "ddn"))


def test_a_network_that_the_recipe_does_not_train_is_refused():
    with pytest.raises(UserError, match="'from AT_h2' is network 2, but 'at' trains 1"):
        plan_2x2(more=(Column("from AT_h2", "cw", source="at", source_member=1),))
    with pytest.raises(UserError, match="'MAT_h2' is network 2, but 'mat' trains 1"):
        plan_2x2(members={"at": 1, "mat": 1})


def test_a_plan_comes_back_as_it_was(tmp_path: Path):
    more = (Column("from AT", "cw", source="at"), Column("at 1", "ddn", at=1.0), Column("u", union=("C&W", "at 1")))
    results, made = Results(tmp_path), plan_2x2(seeds=(0, 2), more=more)
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


MISFITS: dict[str, Callable[[plan.Plan], dict[str, Any]]] = {
    "no seed or no image": lambda made: {"images": 0},
    "there twice": lambda made: {"rows": ["AT", "AT"]},
    "is no row": lambda made: {"baseline": "TRADES"},
    "what is said of them differ": lambda made: {"budgets": {"Clean": "no attack"}},
    "column 'Clean' is not made of": lambda made: {"unions": {"Clean": ["Clean", "C&W"]}},
    "column 'C&W' is not made of": lambda made: {"means": {"C&W": ["nothing"]}},
    "not one for each row": lambda made: {"cells": made.cells[1:]},
    "not one for each row, attack and seed": lambda made: {"cells": [*made.cells, made.cells[0]]},
    "has no settings": lambda made: {"attacks": {}},
    "recipe has no settings": lambda made: {"recipes": {"at-tiny": {}, "mat-tiny": {}}},
    "attack or a recipe has no settings": lambda made: {
        "attacks": made.attacks | {"cw-tiny": {"settings": {"threat": {"norm": ["Linf"], "eps": 0.1}}}}
    },
    "the radius of a cell is none": lambda made: {
        "cells": [cell if cell.attack == "clean" else replace(cell, at=-1.0) for cell in made.cells]
    },
    "radius that its attack": lambda made: {"cells": [replace(cell, at=0.5) for cell in made.cells]},
}


@pytest.mark.parametrize("words", MISFITS)
def test_a_plan_whose_parts_do_not_fit_is_none(words: str):
    made = plan_2x2()
    with pytest.raises(ValueError, match=re.escape(words)):
        replace(made, **MISFITS[words](made))


def test_the_threats_of_a_plan_are_its_distances():
    made = plan_2x2(more=[Column("at 1", "ddn", at=1.0), Column("DDN", "ddn")])
    assert made.threats == {("Linf", 8 / 255), ("L2", 0.5), ("L2", 1.0)}
    settings = {"linf": 0.1, "l2": 0.5, "threat": {"norm": "own", "eps": 0}}
    several = plan_2x2(attacks={"cw": {"attack": "msd", "version": 1, "settings": settings}})
    assert several.threats == {("Linf", 0.1), ("L2", 0.5)}


def test_a_plan_of_another_name_is_refused(tmp_path: Path):
    results = Results(tmp_path)
    path = plan.write_plan(results, plan_2x2())
    path.rename(path.with_stem("other"))
    with pytest.raises(UserError, match="its name is 'tiny-dots'"):
        plan.read_plan(results, "other")


@pytest.mark.parametrize(
    ("asked", "profile"),
    [
        ((None, None), "digits"),
        (("digits", "resnet18"), "digits"),
        (("cifar10", None), "paper"),
        (("cifar100", "resnet18"), "paper-cifar100"),
        (("cifar10", "wrn-34-10"), "paper-wrn"),
        (("svhn", "wide:make"), "paper"),
    ],
)
def test_table2_takes_the_setting_that_fits(asked: tuple, profile: str):
    assert load_spec("table2").choose_setting(*asked).profile == profile


def test_table2_is_the_papers_table():
    spec = load_spec("table2")
    assert [row.label for row in spec.rows] == ["AT", "TRADES", "MART", "MAT-h1", "MAT-h2"]
    assert [c.attack for c in spec.columns] == ["clean", "fgsm", "pgd-100", "cw", "fog", "gabor", "elastic"]
    assert spec.settings[0].attack("cw") == "cw-digits" and spec.choose_setting("cifar10").attack("cw") == "cw"
    assert planning.plan_name("table2", spec, "digits", "cnn-small") == "table2-digits"
    assert planning.plan_name("table2", spec, "cifar10", "resnet18") == "table2-cifar10-resnet18"


def test_tables_4_and_5_are_the_papers():
    four, five = load_spec("table4"), load_spec("table5")
    reference = pd.read_csv(ROOT / "results" / "reference" / "mat.csv", dtype=str)
    for spec in (four, five):
        paper = reference[reference["table"] == spec.reference.partition(":")[2]]
        assert set(paper["method"]) == {row.label for row in spec.rows}
        assert set(paper["column"]) <= {column.published or column.attack for column in spec.columns}
    assert [(c.source, c.source_member) for c in four.columns[1:]] == [
        ("at", 0), ("trades", 0), ("mart", 0), ("mat", 0), ("mat", 1),
    ]  # fmt: skip


def test_without_slow_columns_the_title_unions_and_name_say_so():
    spec = load_spec("table5")
    fast = spec.without_slow()
    left_out = ["Boundary", "Pointwise-L2", "C&W", "Pointwise-L1"]
    assert [c.label for c in fast.columns] == [c.label for c in spec.columns if c.label not in left_out]
    assert fast.title.endswith("(fast: without Boundary, Pointwise-L2, C&W, Pointwise-L1)")
    unions = {c.label: c.union for c in fast.columns}
    assert unions["R_L1"] == ("PGD-L1", "S&P") and not set(left_out) & set(unions["R_L2"])
    assert fast.rows == spec.rows
    like_for_like = load_spec("like-for-like")
    assert like_for_like.figure.column == "AutoAttack" and like_for_like.without_slow().figure is None
    with pytest.raises(UserError, match="no slow columns to leave out"):
        load_spec("table2").without_slow()


def test_cifar_100_and_large_networks_get_recipes_of_their_own():
    """The short recipes for CPUs are no answer to somebody who asks for a WRN."""
    for name in ("table2", "table3", "table4", "figure2"):
        spec = load_spec(name)
        assert spec.choose_setting("cifar100", "resnet18").profile == "paper-cifar100"
        assert spec.choose_setting("cifar10", "resnet18").profile == "paper"
        assert spec.choose_setting("cifar10", "wrn-34-10").profile == "paper-wrn"
        assert spec.choose_setting("cifar10", "cnn-a").profile == "quick"
    with pytest.raises(UserError, match="has no setting for data set 'cifar10' and architecture 'wrn-34-10'"):
        load_spec("table5").choose_setting("cifar10", "wrn-34-10")


def test_table_3_is_the_papers_and_the_full_table_has_every_method():
    from bench.subjects.catalog import Catalog
    from trainers import TRAINERS

    three, full = load_spec("table3"), load_spec("full")
    reference = pd.read_csv(ROOT / "results" / "reference" / "mat.csv", dtype=str)
    paper = reference[reference["table"] == "3"]
    assert set(paper["method"]) == {row.label for row in three.rows}
    assert set(paper["column"]) == {column.published or column.attack for column in three.columns}
    catalog = Catalog()
    recipes = [catalog.recipe(full.settings[0].recipe(name)) for name in full.trainings]
    teachers = [recipe.teacher.recipe for recipe in recipes if recipe.teacher]
    assert {recipe.trainer_name for recipe in recipes + teachers} == set(TRAINERS)


@pytest.mark.parametrize("name", list_specs())
def test_every_recipe_and_attack_of_a_table_exists_and_can_do_what_its_column_asks(name: str):
    from bench.subjects.catalog import Catalog

    spec, catalog = load_spec(name), Catalog()
    for setting in spec.settings:
        recipes = {name: catalog.recipe(setting.recipe(row.method), row.set) for name, row in spec.trainings.items()}
        members = {name: recipe.trainer.members for name, recipe in recipes.items()}
        attacks = {attack: catalog.attack(setting.attack(attack))[0] for attack in spec.attacks}
        assert all(row.member < members[row.training] for row in spec.rows)
        for column in spec.columns:
            attack = attacks.get(column.attack)
            assert column.at is None or (attack and attack.closest)
            assert not column.source or getattr(attack, "stop", "") == "last"
            assert not column.source or column.source_member < members[column.source]


def test_a_setting_that_fits_nothing_and_a_label_twice_are_refused():
    with pytest.raises(UserError, match="no setting for data set 'moons'"):
        spec_2x2().choose_setting("moons")
    with pytest.raises(ValueError, match="label of its own"):
        replace(spec_2x2(), rows=[Row("AT", "at"), Row("AT", "at")])
    with pytest.raises(UserError, match="did you mean 'table2'"):
        load_spec("tabel2")
    assert SETTING.attack("clean") == "clean"


def test_budgets_say_radius_and_effort():
    def words(**settings: object) -> str:
        return budgets.budget({"attack": "pgd", "version": 1, "settings": settings})

    assert words(threat={"norm": "L2", "eps": 0.5}, steps=1) == "L2 0.5, 1 step"
    assert words(threat={"norm": "own", "eps": 128}) == "own measure 128"
    assert words(threat={"norm": "Linf", "eps": 0.2}, steps=20, step=2 / 255, restarts=3) == (
        "Linf 0.2, 20 steps of 2/255, 3 restarts"
    )
    several = words(threat={"norm": "own", "eps": 0}, linf=0.03, l2=0.5, l1=12, steps=50)
    assert several == "Linf 0.03 or L2 0.5 or L1 12, 50 steps"
