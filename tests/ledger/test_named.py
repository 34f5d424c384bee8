"""Tables say where an attack is not what the suite has under its name, or not what is said of it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hand_made import eval_record, frame, plan_2x2

from attacks import ATTACKS
from bench.ground.config import UserError
from bench.ledger import evals, ids
from bench.ledger.folder import Results
from bench.ledger.named import CLOSEST, VERSIONS, defaults, suite, unlike_suite
from bench.subjects.catalog import Catalog
from bench.tables import report
from bench.tables.cells import table

ROOT = Path(__file__).parents[2]
RUN = "at-dots-cnn-s0-12345678.best"


def test_every_attack_of_the_suite_is_as_named():
    catalog = Catalog()
    assert set(suite()) == set(catalog.attack_tables)
    for name in catalog.attack_tables:
        assert unlike_suite(name, catalog.attack(name)[1]) == [], name


def test_the_kinds_that_may_go_beyond_their_radius_are_those_of_the_attacks():
    """Of libraries it is the library's attack that says it."""
    may = {name for name, kind in ATTACKS.items() if inspect.getattr_static(kind, "closest") is not False}
    assert set(CLOSEST) == may
    assert max(kind.version for kind in ATTACKS.values()) < max(VERSIONS)


def changed(resolved: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    settings = dict(resolved["settings"])
    if key == "eps" or key == "norm":
        settings["threat"] = settings["threat"] | {key: value}
    elif key == "attack":
        return resolved | {key: value}
    else:
        settings[key] = value
    return resolved | {"settings": settings}


@pytest.mark.parametrize("key, value, words", [
    ("eps", 6.7e-07, "eps 6.7e-07 instead of 0.15"), ("eps", 0.0, "eps 0 instead of 0.15"), ("steps", 1, "steps 1"),
    ("eps", 0.1500001, "eps 0.15 instead of 0.15"), ("norm", "L2", "norm L2 instead of Linf"),
    ("stop", "last", "stop last instead of first"), ("start", "none", "start none instead of uniform"),
    ("loss", "dlr", "loss dlr instead of"), ("restarts", 0, "restarts 0 instead of 1"),
    ("step", 0.0, "step 0 instead of"), ("attack", "fgsm", "fgsm instead of pgd"), ("steps", None, "steps nothing"),
])  # fmt: skip
def test_settings_unlike_their_name_stand_under_the_table(key, value, words, tmp_path):
    resolved = Catalog().attack("pgd-100-digits")[1]
    told = unlike_suite("pgd-100-digits", changed(resolved, key, value))
    assert any(words in one for one in told), told
    plan = plan_2x2()
    cells = [replace(c, attack="pgd-100-digits") if c.attack != "clean" else c for c in plan.cells]
    attacks = {"clean": plan.attacks["clean"], "pgd-100-digits": changed(resolved, key, value)}
    plan = replace(plan, cells=cells, attacks=attacks)
    for style in report.FORMATS.keys() - {"csv"}:
        text = report.render(plan, table(plan, Results(tmp_path)), style)
        assert "Not as named: C" in text and "is not the suite" in text


def test_the_defaults_that_are_read_from_the_source_are_those_of_the_classes():
    for kind, cls in ATTACKS.items():
        known = {one.name: one.default for one in fields(cls) if one.default is not MISSING}
        found = defaults(kind)
        assert found == {name: known[name] for name in found}, kind
        plain = {name for name, value in known.items() if isinstance(value, int | float | str) and name != "version"}
        assert plain <= set(found), kind


def test_a_users_own_name_is_nobody_elses():
    assert unlike_suite("my-pgd", {"attack": "pgd", "version": 1, "settings": {}}) == []


def test_words_that_are_not_of_the_settings_are_corrected(tmp_path):
    """A plan may say "Linf 8/255" of an attack of radius 6.7e-07."""
    plan = plan_2x2()
    tiny = plan.attacks["cw-tiny"] if "cw-tiny" in plan.attacks else plan.attacks["cw"]
    name = next(name for name, one in plan.attacks.items() if one is tiny)
    forged = replace(plan, attacks=plan.attacks | {name: changed(tiny, "eps", 6.7e-07)})
    assert "Not as said" not in report.render(plan, table(plan, Results(tmp_path)), "markdown")
    text = report.render(forged, table(forged, Results(tmp_path)), "markdown")
    assert "Not as said: the settings of C&W are Linf 6.7e-07, 100 steps of 0.003" in text


@pytest.mark.parametrize(
    "kind, good", [("ddn", True), ("fab", True), ("foolbox", True), ("pgd", False), ("msd", False)]
)
def test_an_own_name_may_go_beyond_its_radius_where_its_id_was_hashed_with_such_a_kind(kind, good, tmp_path):
    settings: dict[str, Any] = {"threat": {"norm": "Linf", "eps": 8 / 255}, "steps": 100}
    attack = {"attack": kind, "version": 2, "settings": settings}
    identity = ids.eval_identity(attack, "mine", "img", 0, {"gradient_precision": "bfloat16"})
    images = frame([False, True]).assign(robust=True, linf=[0.04, 0.0])
    record = replace(eval_record(RUN, ids.eval_id("mine", 2, identity), images), attack="mine", settings=settings)
    if good:
        evals.write_eval(Results(tmp_path), record)
    with pytest.raises(UserError, match="lie beyond its radius"):
        evals.write_eval(Results(tmp_path), record if not good else replace(record, settings=settings | {"steps": 1}))
    with pytest.raises(UserError, match="lie beyond its radius"):
        evals.write_eval(Results(tmp_path), replace(record, broken_by={"ddn": [0]}))


def test_the_suite_is_read_without_the_attacks():
    code = "import sys; from bench.ledger.named import suite; assert len(suite()) > 50 and 'attacks' not in sys.modules"
    subprocess.run([sys.executable, "-c", code + " and 'torch' not in sys.modules"], cwd=ROOT, check=True)
