"""Laws of bench.ground.config: exact numbers, strict types, every mistake named with its place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from bench.ground.config import UserError, build, choose, number, override, read_toml, settings_of
from bench.ground.files import read_json


@dataclass(frozen=True)
class Ball:
    norm: Literal["Linf", "L2"]
    eps: float

    def __post_init__(self) -> None:
        if self.eps < 0:
            raise ValueError(f"eps must be at least 0, not {self.eps:g}")


@dataclass(frozen=True)
class Steps:
    threat: Ball
    steps: int = 10
    step: float = 0.5
    sizes: tuple[float, ...] = ()
    second: Ball | None = None
    early: bool = True


GOOD = {"threat": {"norm": "Linf", "eps": "8/255"}}


def complaint(table: dict) -> str:
    with pytest.raises(UserError) as caught:
        build(Steps, table, "suite.toml [x]")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("1/3", 1 / 3), ("0.1", 0.1), ("1e-3", 1e-3), (2, 2.0)]
)
def test_a_number_is_the_nearest_float(text: str, value: float):
    assert number(text) == value


@pytest.mark.parametrize("text", ["8/0", "eight", "", "1/2/3", "8/", "nan", "inf", True, None, float("nan")])
def test_what_is_no_number_is_refused(text: object):
    with pytest.raises(UserError):
        number(text)


def test_a_table_becomes_the_plain_dataclass_with_its_defaults():
    built = build(Steps, GOOD | {"sizes": ["1/2", 1]}, "x")
    assert built == Steps(Ball("Linf", 8 / 255), sizes=(0.5, 1.0))
    assert type(built) is Steps and type(built.threat) is Ball
    assert GOOD["threat"]["eps"] == "8/255", "the caller's table is not changed"


def test_settings_are_plain_json_and_build_the_same_again():
    built = build(Steps, GOOD | {"sizes": [0.25], "second": {"norm": "L2", "eps": 1}}, "x")
    settings = settings_of(built)
    assert settings["steps"] == 10 and settings["second"] == {"norm": "L2", "eps": 1.0}
    assert build(Steps, json.loads(json.dumps(settings)), "x") == built


def test_an_unknown_key_names_the_place_the_guess_and_the_known_keys():
    said = complaint(GOOD | {"stepps": 3})
    assert said.startswith("suite.toml [x]: ")
    assert "'stepps'" in said and "did you mean 'steps'" in said and "threat" in said


def test_an_unknown_key_of_an_inner_table_names_the_inner_keys():
    said = complaint({"threat": {"norm": "L2", "eps": 1, "epz": 2}})
    assert "did you mean 'eps'" in said and "threat" in said and "early" not in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": True}, "steps = True"),
        ({"steps": "3"}, "steps = '3'"),
        ({"steps": 3.0}, "steps = 3.0"),
        ({"step": False}, "step = False"),
        ({"step": "8/255x"}, "'8/255x'"),
        ({"step": float("inf")}, "step = inf"),
        ({"early": 1}, "early = 1"),
        ({"threat": {"norm": "L3", "eps": 1}}, "'L3' is not one of 'Linf' or 'L2'"),
        ({"threat": {"eps": 1}}, "'threat.norm' is missing"),
        ({"threat": 3}, "threat must be a table"),
        ({"threat": {"norm": "L2", "eps": -1}}, "eps must be at least 0, not -1"),
    ],
)
def test_a_wrong_value_is_quoted(change: dict, words: str):
    assert words in complaint(GOOD | change)


def test_all_mistakes_come_at_once():
    said = complaint({"steps": "3", "stepz": 1})
    assert "'3'" in said and "stepz" in said and "'threat' is missing" in said


def test_choose_guesses_and_lists():
    assert choose("pgd", ["pgd", "cw"], "attack") == "pgd"
    with pytest.raises(UserError, match="unknown attack 'pdg'; did you mean 'pgd'\\? known: cw, pgd"):
        choose("pdg", ["pgd", "cw"], "attack")


def test_toml_mistakes_name_file_and_line(tmp_path: Path):
    with pytest.raises(UserError, match=r"none\.toml: there is no such file"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = 1\nb = = 2\n")
    with pytest.raises(UserError, match=r"bad\.toml.*line 2"):
        read_toml(tmp_path / "bad.toml")


TABLES = {
    "pgd-digits": {"steps": 10, "threat": {"eps": 1}},
    "at-digits": {"schedule": {"epochs": 9}},
    "cw": {"steps": 1},
}


def test_override_reaches_inner_keys_and_changes_nothing_else():
    changed = override(TABLES, ["pgd-digits.threat.eps=8/255", "cw.steps=5", "cw.loss=margin"])
    assert changed["pgd-digits"]["threat"]["eps"] == "8/255"
    assert changed["cw"] == {"steps": 5, "loss": "margin"}
    assert TABLES["cw"] == {"steps": 1} and TABLES["pgd-digits"]["threat"] == {"eps": 1}


def test_a_pattern_sets_only_where_the_key_exists():
    changed = override(TABLES, ["*-digits.schedule.epochs=3"])
    assert changed["at-digits"]["schedule"]["epochs"] == 3
    assert "schedule" not in changed["pgd-digits"] and "schedule" not in changed["cw"]


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("pgd-digit.steps=1", "did you mean 'pgd-digits'"),
        ("*-digitz.steps=1", "known: at-digits"),
        ("*-digits.sceduler=1", "did you mean 'schedule'"),
        ("cw.steps", "NAME.key=VALUE"),
        ("cw=3", "NAME.key=VALUE"),
        ("cw.steps.x=3", "is not a table"),
    ],
)
def test_an_assignment_that_fits_nothing_is_refused(assignment: str, words: str):
    with pytest.raises(UserError) as caught:
        override(TABLES, [assignment])
    assert words in str(caught.value)


DEEP = {
    "lists": "a = " + "[" * 300 + "]" * 300,
    "tables": "a = " + "{b=" * 300 + "1" + "}" * 300,
    "dots": ".".join("a" * 3000) + " = 1",
    "head": "[" + ".".join("a" * 3000) + "]",
    "beyond": "a = " + "[" * 100_000,
}


@pytest.mark.parametrize("kind", DEEP)
def test_toml_of_any_depth_is_a_sentence(kind, tmp_path):
    """What Python's reader takes, copies and checks would call themselves for, level by level."""
    (tmp_path / "a.toml").write_text(DEEP[kind])
    with pytest.raises(UserError, match=r"deep|not valid TOML"):
        override(read_toml(tmp_path / "a.toml"), [])


@pytest.mark.parametrize("assignment", ["x" + ".a" * 3000 + "=1", "x.a=" + "[" * 300 + "]" * 300, "x.a=" + "{b=" * 300])
def test_an_assignment_of_any_depth_is_text_or_a_sentence(assignment):
    try:
        made = override({"x": {"a": 1}}, [assignment])
    except UserError as error:
        assert "not of the form" in str(error)
    else:
        assert isinstance(made["x"]["a"], str)
        with pytest.raises(UserError):
            build(Steps, made["x"], "x")


def test_json_of_any_depth_is_a_sentence(tmp_path):
    for depth in (100, 10_000):
        (tmp_path / "a.json").write_text('{"a": ' + "[" * depth + "]" * depth + "}")
        with pytest.raises(UserError, match="is no whole JSON"):
            read_json(tmp_path / "a.json", Steps)
