"""Recipes are made of methods and profiles: by hand, under a user's own file, and every way that does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.commands.cli import app
from bench.ground.config import UserError
from bench.subjects.catalog import Catalog

OWN = """
[schedules.short]
epochs = 2

[profiles.mine]
schedule = "short"
inner = { eps = 0.2, steps = 3, step = 0.1 }
inners = [{ eps = 0.2, steps = 3, step = 0.1 }, { norm = "L2", eps = 1.0, steps = 4, step = 0.5 }]

[methods.double]
trainer = "mat"
networks = 2
profiles = ["mine"]
inner = { steps = 7, start = "gaussian" }

[methods.taught]
trainer = "ard"
teacher = "double"
teacher_member = 1

[recipes.double-mine]
alpha = 0.3
inner = { step = 0.05 }

[recipes.at-digits]
schedule = "short"
"""


def catalog(tmp_path, text: str) -> Catalog:
    path = tmp_path / "own.toml"
    path.write_text(text)
    return Catalog(path)


def test_a_recipe_is_the_profile_under_the_method_under_its_own_changes(tmp_path):
    own = catalog(tmp_path, OWN)
    double = own.recipe("double-mine")
    assert (double.trainer.alpha, double.trainer.networks, double.schedule.epochs) == (0.3, 2, 2)
    inner = double.trainer.inner
    assert (inner.eps, inner.steps, inner.step, inner.start) == (0.2, 7, 0.05, "gaussian")
    assert "double-digits" not in own.recipe_tables and "taught-digits" in own.recipe_tables
    assert own.recipe("at-digits").schedule.epochs == 2
    assert own.recipe("at-digits").trainer == Catalog().recipe("at-digits").trainer


LIKE = """
[profiles.mine]
schedule = { epochs = 2 }
inner = { eps = 0.2, step = 0.1 }

[profiles.other]
like = "mine"

[methods.double]
trainer = "mat"
networks = 2
profiles = ["mine"]

[methods.taught]
trainer = "ard"
teacher = "double"
profiles = ["mine"]

[recipes.double-mine]
alpha = 0.3
teacher_bn = "eval"

[recipes.double-other]
alpha = 0.4
"""


def test_a_profile_like_another_has_its_attacks_methods_and_changes_and_then_its_own(tmp_path):
    own = catalog(tmp_path, LIKE)
    mine, other = own.recipe("double-mine").trainer, own.recipe("double-other").trainer
    assert (mine.alpha, mine.teacher_bn, mine.inner) == (0.3, "eval", other.inner)
    assert (other.alpha, other.teacher_bn) == (0.4, "eval")
    assert own.recipe("taught-other").teacher.recipe.name == "double-other"
    with pytest.raises(UserError, match="profile in like of profile 'other' 'mien'"):
        catalog(tmp_path, LIKE.replace('like = "mine"', 'like = "mien"'))


def test_the_papers_alpha_for_cifar_100_is_in_every_scenario_of_mat():
    own = Catalog()
    for method in ("mat", "mat-natural", "mat-offline", "mat-natural-offline"):
        for profile in ("paper", "paper-wrn"):
            assert own.recipe(f"{method}-{profile}").trainer.alpha == 0.6
            assert own.recipe(f"{method}-{profile}-cifar100").trainer.alpha == 0.45
    assert own.recipe("mart-paper-wrn-cifar100").trainer.weight == 6.0
    assert own.recipe("cat-paper-cifar100").schedule.epochs == 200


def test_changes_of_a_row_reach_into_tables():
    plain = Catalog().recipe("at-digits")
    changed = Catalog().recipe("at-digits", {"inner": {"start": "gaussian"}, "schedule": {"epochs": 3}})
    assert changed.trainer.inner == replace(plain.trainer.inner, start="gaussian")
    assert changed.schedule == replace(plain.schedule, epochs=3)


def test_a_teacher_is_the_method_under_the_same_profile(tmp_path):
    taught = catalog(tmp_path, OWN).recipe("taught-mine")
    assert taught.teacher.recipe.name == "double-mine" and taught.teacher.member == 1


def test_against_takes_all_of_the_profiles_attacks_or_the_one_of_a_norm(tmp_path):
    own = catalog(tmp_path, OWN)
    assert [(inner.norm, inner.steps) for inner in own.recipe("at-avg-mine").trainer.inners] == [("Linf", 3), ("L2", 4)]
    assert own.recipe("at-l2-mine").trainer.inner.eps == 1.0
    assert [inner.norm for inner in own.recipe("e-at-digits").trainer.inners] == ["Linf", "L1"], "those that it names"
    assert "e-at-mine" not in own.recipe_tables, "this profile lacks L1"
    assert "at-avg-paper-wrn" not in own.recipe_tables, "this profile has one norm"
    assert "at-l1-mine" not in own.recipe_tables and "at-l1-digits" in own.recipe_tables


def test_the_help_names_every_section_of_a_file(tmp_path):
    said = next(option.help for option in app.commands["train"].params if option.name == "recipes")
    with pytest.raises(UserError) as refused:
        catalog(tmp_path, "[nothing.such]\n")
    known = str(refused.value).partition("known: ")[2].split(", ")
    assert len(known) == 6 and all(f"[{section}.*]" in said for section in known)


def test_a_profile_without_a_schedule_says_so_when_it_is_used(tmp_path):
    own = catalog(tmp_path, "[profiles.mine]\ninner = { eps = 0.1 }\n")
    with pytest.raises(UserError, match="recipe 'at-mine' has no 'schedule'; name one: act, adr, ard, cat, digits, "):
        own.recipe("at-mine")


@pytest.mark.parametrize(
    "text, words",
    [
        (
            OWN + '\n[methods.far]\ntrainer = "at"\nagainst = "L7"\n',
            "against of method 'far' 'L7'",
        ),
        (
            OWN + '\n[methods.far]\ntrainer = "e-at"\nagainst = ["Linf", "all"]\n',
            "against of method 'far' 'all'",
        ),
        ("recipes = 3\n", "holds tables only"),
        ("[recipes]\nat = 3\n", "holds tables only"),
        ("[receipts.at]\n", "did you mean 'recipes'"),
    ],
)
def test_what_does_not_fit_is_a_sentence(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        catalog(tmp_path, text)
