"""Laws of the tables that come with the package: rows differ in their method, published numbers stand beside what the
paper measured, and a profile can be asked for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hand_made import spec_2x2

from bench.ground.config import UserError
from bench.ledger.folder import Results
from bench.ledger.spec import Column, Figure, Row, TableSpec, list_specs, load_spec

ROOT = Path(__file__).parents[2]
ADDED = {"APGD", "APGD-L2", "APGD-L1", "MSD"}  # to the attacks of Table 5 of MAT, by us


def leaves(spec: TableSpec, label: str) -> set[str]:
    """The attacked columns that a column is made of."""
    column = next(one for one in spec.columns if one.label == label)
    return {leaf for part in column.parts for leaf in leaves(spec, part)} or {label}


# --- rows like for like --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "dataset", "arch"),
    [
        (table, dataset, arch)
        for table in ("cat", "regmix")
        for dataset, arch in (
            (None, None), ("cifar10", "resnet18"), ("cifar10", "wrn-34-10"), ("cifar100", "preact-resnet18"),
            ("cifar10", "cnn-a"), ("svhn", "my.module:make"),
        )
    ],
)  # fmt: skip
def test_rows_of_cat_and_regmix_differ_in_nothing_but_their_method(table: str, dataset: str | None, arch: str | None):
    """One schedule and one attack in training, but for what a row is about: AWP, and RegMix with a single step."""
    from bench.subjects.catalog import Catalog

    spec, catalog = load_spec(table), Catalog()
    setting = spec.choose_setting(dataset, arch)
    recipes = {row.label: catalog.recipe(setting.recipe(row.method), row.set) for row in spec.rows}
    schedules = {label: replace(recipe.schedule, awp=0.0) for label, recipe in recipes.items()}
    assert len(set(schedules.values())) == 1, schedules
    inners = {label: recipe.trainer.inner for label, recipe in recipes.items() if label != "RegMix (fast)"}
    assert len({(one.norm, one.eps, one.steps, one.step, one.bn) for one in inners.values()}) == 1, inners
    assert {label for label, recipe in recipes.items() if recipe.schedule.awp} <= {"CAT-1+AWP", "CAT-2+AWP"}


def test_like_for_like_is_so_on_large_networks_under_the_profile_rice():
    from bench.subjects.catalog import Catalog

    spec, catalog = load_spec("like-for-like"), Catalog()
    setting = spec.choose_setting("cifar10", "resnet18", "rice")
    schedules = {row.label: catalog.recipe(setting.recipe(row.method), row.set).schedule for row in spec.rows}
    longer = schedules.pop("AT, longer")
    (one,) = set(schedules.values())
    passes = 24 / 11  # of MAT with two networks over a batch, in those of AT
    assert longer.epochs == round(passes * one.epochs)
    assert longer.milestones == pytest.approx([passes * drop for drop in one.milestones], abs=2)
    assert replace(longer, epochs=one.epochs, milestones=one.milestones) == one


def test_cat_has_every_row_of_its_reference_that_its_code_trains():
    """CAT-1 and CAT-2 are the released pair, TRADES with ALP, without and with AWP; the rest is other papers'."""
    from bench.subjects.catalog import Catalog

    spec = load_spec("cat")
    published = pd.read_csv(ROOT / "results" / "reference" / "cat.csv")["method"]
    rows = {row.label: row for row in spec.rows}
    assert {name for name in published if name.startswith("CAT-")} <= set(rows)
    for label in ("CAT-1", "CAT-2", "CAT-1+AWP", "CAT-2+AWP"):
        recipe = Catalog().recipe(spec.choose_setting("cifar10").recipe(rows[label].method), rows[label].set)
        assert [arm.method for arm in recipe.trainer.arms] == ["trades", "alp"]
        assert bool(recipe.schedule.awp) == label.endswith("+AWP") and rows[label].member == int(label[4]) - 1


def test_regmix_smooths_as_the_code_that_it_builds_on_under_either_profile():
    from bench.subjects.catalog import Catalog

    masses = {"cifar10": 0.5, "cifar100": 0.8}
    for dataset, mass in masses.items():
        for profile in (None, "paper" if dataset == "cifar10" else "paper-cifar100"):
            setting = load_spec("regmix").choose_setting(dataset, "resnet18", profile)
            assert Catalog().recipe(setting.recipe("regmix-fast")).trainer.target_mass == mass


def test_multi_norm_has_every_method_against_several_norms_and_table_5s_rows():
    from bench.subjects.catalog import Catalog
    from trainers.contract import perturbations

    spec, catalog = load_spec("multi-norm"), Catalog()
    assert {row.label: row.method for row in load_spec("table5").rows}.items() <= {
        row.label: row.method for row in spec.rows
    }.items()
    for setting in spec.settings:
        recipes = [catalog.recipe(setting.recipe(row.method)) for row in spec.rows]
        assert len({recipe.schedule for recipe in recipes}) == 1
        met = {inner for recipe in recipes for inner in perturbations(recipe.trainer, 0)}
        assert len(met) == 3, "one attack of each norm, the same in every row"
    several = {
        recipe.trainer_name
        for recipe in (catalog.recipe(name) for name in catalog.recipe_tables if name.endswith("-digits"))
        if len(perturbations(recipe.trainer, 0)) > 1
    }
    assert several == {recipe.trainer_name for recipe in recipes} - {"at"}


def test_in_multi_norm_the_worst_is_over_every_attack_and_the_mean_over_norms():
    spec = load_spec("multi-norm")
    attacks = {column.label for column in spec.columns if column.attack not in ("", "clean")}
    assert leaves(spec, "R_worst") == attacks
    (mean,) = (column.mean for column in spec.columns if column.mean)
    assert mean == ("R_Linf", "R_L2", "R_L1")
    assert [len(leaves(spec, norm)) for norm in mean] == [2, 2, 2]


# --- 30 epochs in place of 120 -------------------------------------------------------------------------------------


def test_paper_short_is_paper_in_30_epochs_for_every_method_and_nothing_else():
    from bench.subjects.catalog import Catalog

    catalog = Catalog()
    methods = {name.removesuffix("-paper") for name in catalog.recipe_tables if name.endswith("-paper")}
    assert len(methods) > 30
    drops = {"at-longer": (65, (41, 49, 54))}
    for method in methods:
        short, paper = (catalog.recipe(f"{method}-{profile}") for profile in ("paper-short", "paper"))
        assert short.trainer == paper.trainer
        epochs, milestones = drops.get(method, (30, (19, 23, 25)))
        of_mat = catalog.recipe("mat-paper").schedule
        assert short.schedule == replace(of_mat, epochs=epochs, milestones=milestones, compile="auto")
        shape = [drop / of_mat.epochs for drop in of_mat.milestones]
        assert milestones == pytest.approx([share * epochs for share in shape], abs=0.6), "62.5, 75 and 83 %"
        assert short.teacher is None or short.teacher.recipe.name.endswith("-paper-short")


@pytest.mark.parametrize("name", list_specs())
def test_a_table_has_paper_short_where_it_has_paper_asked_for_by_name_and_says_so(name: str):
    spec = load_spec(name)
    settings = {setting.profile: setting for setting in spec.settings}
    assert ("paper" in settings) == ("paper-short" in settings)
    short, paper = settings["paper-short"], settings["paper"]
    assert replace(short, profile="paper", note=paper.note) == paper
    assert "30 epochs, not the paper's 120" in short.note
    assert spec.choose_setting("cifar10", "resnet18") != short
    assert spec.variant(short, "cifar10", "resnet18") == "-paper-short"


# --- a profile, by name --------------------------------------------------------------------------------------------


def test_a_profile_is_chosen_by_name_and_has_a_plan_of_its_own(tmp_path: Path):
    spec = load_spec("cat")
    chosen = {profile: spec.choose_setting("cifar10", "resnet18", profile) for profile in (None, "paper", "rice")}
    assert [setting.profile for setting in chosen.values()] == ["rice", "paper", "rice"]
    variants = [spec.variant(setting, "cifar10", "resnet18") for setting in chosen.values()]
    assert variants == ["", "-paper", ""], "what is chosen by default has the same plan when it is named"
    assert spec.choose_setting(profile="paper-wrn").arch == "wrn-34-10"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ((None, None, "ricee"), "unknown profile 'ricee'; did you mean 'rice'?"),
        (("digits", None, "rice-digits"), "unknown profile 'rice-digits'"),
        (("digits", "resnet18", "quick"), "'digits' and architecture 'resnet18' in profile 'quick'"),
        (("cifar10", "wrn-34-10", "paper"), "architecture 'wrn-34-10' in profile 'paper'; it has paper: "),
    ],
)  # fmt: skip
def test_a_profile_that_a_table_lacks_or_that_does_not_fit_is_a_sentence(asked: tuple, words: str):
    with pytest.raises(UserError, match=words):
        load_spec("cat").choose_setting(*asked)


def test_two_profiles_of_one_table_lie_beside_each_other(tmp_path: Path):
    from bench.running.run import TableRun
    from bench.running.table import Options

    table = tmp_path / "mine.toml"
    table.write_text(TWO_PROFILES)
    plans = [
        TableRun(str(table), Options(Results(tmp_path), images=3, profile=profile)).plan
        for profile in (None, "digits", "quick")
    ]
    assert [plan.name for plan in plans] == ["mine-digits", "mine-digits", "mine-digits-quick"]
    assert plans[0] == plans[1] and plans[2].cells[0].recipe == "at-quick"


TWO_PROFILES = """
title = "Mine"
source = "no paper"
reference = ""
rows = [{ label = "AT", method = "at" }]
columns = [{ label = "Clean", attack = "clean" }]
settings = [
  { profile = "digits", arch = "cnn-small", dataset = "digits", datasets = ["digits"], archs = ["*"] },
  { profile = "quick", attack_profile = "", arch = "cnn-small", dataset = "digits", datasets = ["*"], archs = ["*"] },
]
"""


# --- published numbers ---------------------------------------------------------------------------------------------


def test_published_numbers_of_table_5_stand_beside_unions_of_the_papers_attacks_alone():
    spec = load_spec("table5")
    published = {column.published: column for column in spec.columns if column.parts and column.published}
    assert set(published) == {"linf", "l2", "l1", "r_avg", "r_worst"}
    attacks = {column.label for column in spec.columns if column.attack not in ("", "clean")}
    assert leaves(spec, published["r_worst"].label) == attacks - ADDED
    for column in published.values():
        assert not leaves(spec, column.label) & ADDED
    assert published["r_avg"].mean == tuple(published[norm].label for norm in ("linf", "l2", "l1"))


def test_our_own_unions_stand_beside_them_and_say_what_they_add():
    spec = load_spec("table5")
    ours = {column.label: column for column in spec.columns if column.parts and not column.published}
    attacks = {column.label for column in spec.columns if column.attack not in ("", "clean")}
    assert set(ours) == {"R_Linf (+APGD)", "R_L2 (+APGD)", "R_L1 (+APGD)", "R_avg (+APGD)", "R_worst (+APGD, MSD)"}
    assert leaves(spec, "R_worst (+APGD, MSD)") == attacks, "every attack"
    for label in ("R_Linf", "R_L2", "R_L1", "R_avg"):
        added = leaves(spec, f"{label} (+APGD)") - leaves(spec, label)
        assert added and added < ADDED


def test_without_its_slow_attacks_a_union_is_not_the_published_one():
    fast = load_spec("table5").without_slow()
    published = {column.label: column.published for column in fast.columns if column.parts}
    assert [label for label, name in published.items() if name] == ["R_Linf"], "no part of it is slow"
    assert published["R_avg"] == "", "a mean of two unions that lack attacks"


def test_a_union_that_its_slow_columns_leave_too_small_is_a_sentence():
    spec = spec_2x2(Column("DDN", "ddn", slow=True), Column("worst", union=("C&W", "DDN")))
    with pytest.raises(UserError, match=r"without its slow columns.*'worst' is made of at least two columns"):
        spec.without_slow()


# --- the same images -----------------------------------------------------------------------------------------------

SHARED = Column("from AT", "cw", source="at")
ROWS = ("AT", "MAT_h2")


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        (("C&W", ROWS), "'C&W' has other images for every row"),
        (("worst", ROWS), "made of others"),
        (("from AT at 0.01", ROWS), "is read at a radius"),
        (("", ("AT", "MAT_h2", "last")), "rows of several checkpoints"),
    ],
)
def test_an_overlap_is_of_predictions_on_the_same_images(figure: tuple, words: str):
    spec = spec_2x2(SHARED, replace(SHARED, label="from AT at 0.01", at=0.01), Column("worst", union=("Clean", "C&W")))
    spec = replace(spec, rows=[*spec.rows, Row("last", "at", checkpoint="last")])
    for good in (Figure("overlap", "", ROWS), Figure("overlap", "from AT", ROWS), Figure("overlap", "Clean", ROWS)):
        replace(spec, figure=good)
    with pytest.raises(ValueError, match=words):
        replace(spec, figure=Figure("overlap", *figure))


def test_an_overlap_of_a_table_without_shared_images_is_refused():
    with pytest.raises(ValueError, match="no column with a source"):
        replace(spec_2x2(), figure=Figure("overlap", "", ROWS))


def test_an_overlap_goes_with_its_columns():
    slow = replace(SHARED, slow=True)
    assert replace(spec_2x2(slow), figure=Figure("overlap", "", ROWS)).without_slow().figure is None
    kept = Column("from MAT", "cw", source="mat")
    assert replace(spec_2x2(slow, kept), figure=Figure("overlap", "", ROWS)).without_slow().figure is not None


def test_the_overlap_of_cat_is_of_the_papers_three_pairs():
    spec = load_spec("cat")
    assert spec.figure is not None and (spec.figure.kind, spec.figure.rows) == ("overlap", ("AT", "TRADES", "ALP"))
    assert [column.source for column in spec.columns if column.source] == ["at", "trades", "alp"]
