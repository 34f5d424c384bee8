"""Damaged and hostile input by the hundred: a UserError or a clean success, never another exception or a wrong number.

BENCH_FUZZ=N tries N inputs for each target instead of EXAMPLES.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import own_sets
import pandas as pd
import pytest
import torch
from hand_made import eval_record, fill, frame, plan_2x2, run_record
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from shards import parquet, write_shards

from bench.ground import files
from bench.ground.config import UserError, build, number, override, read_toml
from bench.ledger.evals import read_eval, write_eval
from bench.ledger.folder import Results
from bench.ledger.plan import read_plan, write_plan
from bench.ledger.runs import list_runs, read_run, write_run
from bench.ledger.spec import TableSpec
from bench.regression import check, reference
from bench.subjects import data, models, weights
from bench.subjects.catalog import Catalog
from bench.subjects.weights import read_weights
from bench.tables import report
from bench.tables.cells import table

EXAMPLES = int(os.environ.get("BENCH_FUZZ", "200"))
PHASES = [Phase.explicit, Phase.generate, Phase.shrink]
RUN = "at-tiny-cnn-s0-aaaaaaaa.best"
EVAL = "cw-n4-bbbbbbbb"


def fuzz(**strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`given` with EXAMPLES inputs and no file of examples."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        limits = settings(
            max_examples=EXAMPLES, deadline=None, database=None, phases=PHASES, suppress_health_check=list(HealthCheck)
        )
        return limits(given(**strategies)(test))

    return decorate


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A change of some bytes: flipped, overwritten, cut out, doubled, put in, or the end cut off."""
    changes = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "write", "cut", "double", "insert", "truncate"]),
                st.floats(0, 1, exclude_max=True),
                st.binary(min_size=1, max_size=8),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def apply(content: bytes) -> bytes:
        for kind, place, new in changes:
            at = int(place * len(content))
            head, rest, size = content[:at], content[at:], len(new)
            if kind == "flip" and rest:
                content = head + bytes([rest[0] ^ (1 << new[0] % 8)]) + rest[1:]
            elif kind == "write":
                content = head + new + rest[size:]
            elif kind == "cut":
                content = head + rest[size:]
            elif kind == "double":
                content = head + rest[: 8 * size] + rest
            elif kind == "insert":
                content = head + new + rest
            elif kind == "truncate":
                content = head
        return content

    return apply


def outcome(work: Callable[[], Any]) -> Any:
    """What it returns, or the UserError, whose sentence is one line."""
    try:
        return work()
    except UserError as error:
        assert str(error).strip()
        return error


def scratch(name: str, content: bytes) -> Path:
    """A file of that name in a folder that all inputs share."""
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


HOLDER = tempfile.TemporaryDirectory(prefix="fuzz-")  # removed when the process ends
FOLDER = Path(HOLDER.name)


# --- numbers ----------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.text(max_size=30),
    st.text("0123456789./eE+-_ ", max_size=30),
    st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,4})?/[0-9]{1,4}", fullmatch=True),
    st.from_regex(r"-?[0-9]{1,30}(\.[0-9]{0,30})?([eE][+-]?[0-9]{1,12})?", fullmatch=True),
    st.floats(),
    st.integers(),
    st.integers(min_value=10**300, max_value=10**320),
    st.booleans(),
    st.none(),
)


@fuzz(given_=NUMBERS)
def test_numbers(given_: Any) -> None:
    """What is accepted is the nearest float of what stands there, as Python's own fractions read it."""
    found = outcome(lambda: number(given_))
    if isinstance(found, UserError):
        return
    assert isinstance(found, float) and math.isfinite(found) and not isinstance(given_, (bool, type(None)))
    top, _, bottom = str(given_).partition("/") if isinstance(given_, str) else (given_, "", "")
    assert found == float(Fraction(top) / Fraction(bottom or 1))


@pytest.mark.parametrize("text", ["1e999999999", "1/1e99999999", "9" * 10**6, "1e-0000000000000000000000000009999999"])
def test_numbers_that_would_fill_the_memory(text: str) -> None:
    with pytest.raises(UserError, match="is not a number"):
        number(text)


# --- TOML -------------------------------------------------------------------------------------------------------------

BOOK = (Path(models.__file__).parents[2] / "trainers" / "recipes.toml").read_bytes()
SUITE = (Path(models.__file__).parents[2] / "attacks" / "suite.toml").read_bytes()
SPEC = (Path(models.__file__).parents[1] / "ledger" / "specs" / "table5.toml").read_bytes()
SMALL = b"""
[recipes.mine]
trainer = "at"
schedule = "small"
inner = { norm = "Linf", eps = "8/255", step = "2/255", steps = 10 }
[schedules.small]
epochs = 3
batch_size = 64
lr = 0.1
[attacks.my-pgd]
attack = "pgd"
threat = { norm = "Linf", eps = "8/255" }
steps = 20
step = 0.01
[suites.my-suite]
parts = ["my-pgd", "fgsm"]
"""
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.just("8/255"), st.just(8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["at-digits", "mat-digits", "pgd-20-digits", "*-digits", "pgd-*", "nothing", "[", ""])
KEYS = st.sampled_from(
    ["inner.eps", "inner", "schedule.epochs", "schedule", "steps", "threat.eps", "trainer", "a.b.c", ""]
)
WORDS = st.one_of(VALUES.map(lambda value: json.dumps(value)), st.text(max_size=20), st.just("9" * 5000))


@pytest.mark.slow
@fuzz(change=damage())
def test_configs(change: Callable[[bytes], bytes]) -> None:
    """A user's own recipes: every one of them can be asked for."""
    path = scratch("own.toml", change(SMALL))

    def work() -> None:
        catalog = Catalog(path)
        for name in catalog.recipe_tables.keys() - BUILTIN.recipe_tables.keys() | {"mine"}:
            outcome(partial(catalog.recipe, name))
        for name in catalog.attack_tables.keys() - BUILTIN.attack_tables.keys() | {"my-pgd"}:
            outcome(partial(catalog.attack, name))
        outcome(partial(catalog.parts, ["my-suite"]))

    outcome(work)


BUILTIN = Catalog()


@pytest.mark.parametrize(
    "text", ["recipes = 3", "[recipes]\ntrainer = 'at'", "[attacks]\nsteps = 3", "[suites]\nx = []"]
)
def test_sections_hold_tables(text: str) -> None:
    with pytest.raises(UserError, match="holds tables only"):
        Catalog(scratch("own.toml", text.encode()))


@pytest.mark.slow
@fuzz(
    value=VALUES,
    recipe=st.booleans(),
    key=st.sampled_from(
        ["inner", "schedule", "trainer", "archs", "teacher", "threat", "steps", "attack", "restarts", "zzz"]
    ),
)
def test_config_values(value: Any, recipe: bool, key: str) -> None:
    """Well-formed tables with any value in them."""

    def work() -> None:
        catalog = Catalog()
        if recipe:
            catalog.recipe("mat-digits", {key: value})
        else:
            catalog.attack_tables["pgd-20-digits"] = catalog.attack_tables["pgd-20-digits"] | {key: value}
            catalog.attack("pgd-20-digits")

    outcome(work)


@pytest.mark.slow
@fuzz(name=NAMES, key=KEYS, text=WORDS, whole=st.none() | st.text(max_size=20))
def test_assignments(name: str, key: str, text: str, whole: str | None) -> None:
    assignment = f"{name}.{key}={text}" if whole is None else whole

    def work() -> None:
        tables = override(BUILTIN.recipe_tables | BUILTIN.attack_tables, [assignment])
        catalog = Catalog()
        catalog.recipe_tables = {name: tables[name] for name in catalog.recipe_tables}
        catalog.attack_tables = {name: tables[name] for name in catalog.attack_tables}
        catalog.recipe("at-digits")
        catalog.attack("pgd-20-digits")

    outcome(work)


@fuzz(change=damage())
def test_table_specs(change: Callable[[bytes], bytes]) -> None:
    path = scratch("spec.toml", change(SPEC))

    def work() -> None:
        spec = build(TableSpec, read_toml(path), path.name)
        spec.choose_setting("digits", None)
        assert spec.trainings and spec.attacks
        spec.without_slow()

    outcome(work)


# --- records ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records() -> tuple[Results, dict[Path, bytes]]:
    """One record of each kind, and its bytes."""
    results = Results(FOLDER / "results")
    plan = plan_2x2()
    paths = [write_plan(results, plan)]
    paths.append(write_run(results, run_record(RUN)))
    paths.append(write_eval(results, eval_record(RUN, EVAL, frame([True, False, True, True]))))
    fill(plan, results, {("AT", "Clean"): [True] * 4, ("AT", "C&W"): [True, False] * 2})
    return results, {path: path.read_bytes() for path in paths}


def same_or_refused(read: Callable[[], Any], path: Path, whole: bytes, change: Callable[[bytes], bytes]) -> None:
    """A damaged file is refused, or what it says is what it said before."""
    expected = read()
    path.write_bytes(change(whole))
    try:
        found = outcome(read)
        if not isinstance(found, UserError):
            assert vars(found).keys() == vars(expected).keys()
            for name, value in vars(found).items():
                before = vars(expected)[name]
                assert value.equals(before) if hasattr(value, "equals") else value == before, name
        else:
            assert path.name in str(found)
    finally:
        path.write_bytes(whole)


@fuzz(change=damage())
def test_run_records(records: Any, change: Callable[[bytes], bytes]) -> None:
    results, whole = records
    path = results.run(RUN)
    same_or_refused(lambda: read_run(results, RUN), path, whole[path], change)


@fuzz(change=damage())
def test_eval_records(records: Any, change: Callable[[bytes], bytes]) -> None:
    results, whole = records
    path = results.eval(RUN, EVAL)
    same_or_refused(lambda: read_eval(results, RUN, EVAL), path, whole[path], change)


@fuzz(change=damage())
def test_plans(records: Any, change: Callable[[bytes], bytes]) -> None:
    results, whole = records
    path = results.plan("tiny-dots")
    same_or_refused(lambda: read_plan(results, "tiny-dots"), path, whole[path], change)


@st.composite
def replacement(draw: st.DrawFn) -> Callable[[Any], Any]:
    """A change of well-formed content: at some places another value, a copy of a neighbour, or nothing."""
    values = (
        st.none() | st.booleans() | st.integers(-3, 5) | st.floats() | st.text(max_size=5) | st.just([]) | st.just({})
    )
    changes = draw(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3), values), min_size=1, max_size=3))

    def apply(content: Any) -> Any:
        for chosen, kind, value in changes:
            places = list(_places(content))
            holder, key = places[chosen % len(places)]
            others = list(holder) if isinstance(holder, dict) else range(len(holder))
            if kind == 0:
                del holder[key]
            elif kind == 1:
                holder[key] = holder[others[chosen % len(others)]]
            elif kind == 2 and isinstance(holder, list):
                holder.append(holder[key])
            else:
                holder[key] = value
        return content

    return apply


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value inside."""
    for key in list(content) if isinstance(content, dict) else range(len(content)):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _places(content[key])


@fuzz(change=replacement())
def test_plans_that_somebody_wrote(records: Any, change: Callable[[Any], Any]) -> None:
    """With a right seal around any content: a sentence, or a table, a report and a check."""
    results, whole = records
    path = results.plan("tiny-dots")
    content = {key: value for key, value in json.loads(whole[path]).items() if key != files.SEAL}
    content = change(content)
    path.write_text(json.dumps(content | {files.SEAL: files._digest(content)}))

    def work() -> None:
        plan = read_plan(results, "tiny-dots")
        report.render(plan, table(plan, results), "markdown")
        check.check_records(plan, results, results)
        assert plan.threats is not None

    try:
        outcome(work)
    finally:
        path.write_bytes(whole[path])


@fuzz(name=st.text(max_size=20) | st.text("./-_ab\\\0", max_size=12))
def test_ids_stay_in_the_folder(records: Any, name: str) -> None:
    results, _ = records
    for work in (
        lambda: results.plan(name),
        lambda: results.run(name),
        lambda: results.run(f"{name}.best"),
        lambda: results.eval(RUN, name),
        lambda: results.eval(name, EVAL),
        lambda: results.error(f"{name}.last", None),
        lambda: results.table(name),
    ):
        found = outcome(work)
        if not isinstance(found, UserError):
            assert found.resolve().is_relative_to(results.root.resolve())
    assert list_runs(results)


# --- reference tables, data sets, weights -----------------------------------------------------------------------------

REFERENCE = pd.DataFrame(
    {"table": "tiny-dots", "row": "AT", "column": column, "n": 4, "accuracy_percent": f"{accuracy:.4f}"}
    | {"tolerance_percent": "2.0000", "seed_spread_percent": "", "reach": "", "provenance": "somewhere"}
    | reference._made_with(plan_2x2(), {"row": "AT", "column": column})
    for column, accuracy in (("Clean", 100), ("C&W", 50))
)[reference.COLUMNS].to_csv(index=False).encode()  # fmt: skip


def test_the_reference_that_is_damaged_is_whole(records: Any) -> None:
    found = check.check(plan_2x2(), table(plan_2x2(), records[0]), scratch("reference.csv", REFERENCE))
    assert [cell.ok for cell in found.cells] == [True, True, False, False], "MAT has no records"


@pytest.mark.slow
@fuzz(change=damage(), values=st.none() | st.tuples(st.text(max_size=8), st.text(max_size=8)))
def test_reference_tables(records: Any, change: Callable[[bytes], bytes], values: tuple[str, str] | None) -> None:
    """A cell passes only where the reference has a number within its tolerance of it."""
    results, _ = records
    plan = plan_2x2()
    content = change(REFERENCE)
    if values is not None:
        content = REFERENCE.replace(b"50.0000", values[0].encode()).replace(b"2.0000", values[1].encode())
    path = scratch("reference.csv", content)
    found = outcome(lambda: check.check(plan, table(plan, results), path))
    if not isinstance(found, UserError):
        assert not found.ok, "MAT has no records"
        if "AT / C&W" not in "\n".join(found.lines):
            known = reference.read_reference(path, "tiny-dots")["AT", "C&W"]
            assert abs(known["accuracy_percent"] - 50) <= known["tolerance_percent"] + reference.SLACK
            assert 0 <= known["tolerance_percent"] <= 100


@pytest.fixture(scope="module")
def shard() -> tuple[Path, bytes, data.Kind]:
    folder = FOLDER / "digits-like"
    write_shards(folder, "mnist", "train", 1, image="image")
    path = next(folder.glob("*.parquet"))
    return path, path.read_bytes(), data.DATASETS["mnist"]


@fuzz(change=damage())
def test_parquet_data_sets(shard: Any, change: Callable[[bytes], bytes]) -> None:
    """Either a sentence, or images and labels that a network can be judged on."""
    path, whole, kind = shard
    path.write_bytes(change(whole))

    def work() -> None:
        pixels, labels = parquet(path.parent, "train", kind)
        images = data._images(torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2), labels)
        data.check_images(images.x, images.y, kind.classes)

    outcome(work)


OWN = ("PNG folder", "npz", "compressed npz", "npy file", "safetensors", "Parquet", "datasets")


@pytest.fixture(scope="module")
def own_files() -> dict[str, tuple[Path, bytes]]:
    """Form -> a data set of one's own, and the bytes of the file of it that will be damaged."""
    made = {}
    for form in OWN:
        at = own_sets.FORMS[form](scratch(f"own {form}/x", b"").parent)
        path = at if at.is_file() else next(one for one in sorted(at.rglob("*")) if one.is_file())
        made[form] = path, path.read_bytes()
    return made


@pytest.mark.parametrize(
    "form", ["PNG folder", "npz", "compressed npz", "npy file", "safetensors", "Parquet", "datasets"]
)
@fuzz(change=damage())
def test_data_sets_of_ones_own(own_files: Any, form: str, change: Callable[[bytes], bytes]) -> None:
    """Either a sentence, or images and labels that a network can be judged on."""
    path, whole = own_files[form]
    path.write_bytes(change(whole))
    inside = {"PNG folder": 2, "datasets": 1}

    def work() -> None:
        found = data.load(str(path.parents[inside[form] - 1] if form in inside else path))
        data.check_images(found.test.x, found.test.y, found.classes)

    outcome(work)


@pytest.fixture(scope="module")
def saved() -> dict[str, tuple[bytes, dict[str, torch.Tensor]]]:
    """Suffix -> a weights file of that kind, and its tensors."""
    state = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}
    save_file(state, FOLDER / "w.safetensors")
    torch.save({"state_dict": state}, FOLDER / "w.pt")
    torch.save(state, FOLDER / "old.pt", _use_new_zipfile_serialization=False)
    return {name: ((FOLDER / name).read_bytes(), state) for name in ("w.safetensors", "w.pt", "old.pt")}


@fuzz(change=damage(), name=st.sampled_from(["w.safetensors", "w.pt", "old.pt"]))
def test_weights_files(saved: Any, change: Callable[[bytes], bytes], name: str) -> None:
    """A file without a recorded hash may hold any tensors; with one it holds those that were recorded."""
    whole, state = saved[name]
    content = change(whole)
    path = scratch(f"changed-{name}", content)
    found = outcome(lambda: read_weights(path))
    if not isinstance(found, UserError):
        assert all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in found.items())
        outcome(lambda: weights.from_weights(path, "cnn-a", (1, 8, 8), 10))
    sealed = outcome(lambda: read_weights(path, hashlib.sha256(whole).hexdigest()))
    assert isinstance(sealed, UserError) or (
        content == whole and all(torch.equal(sealed[key], value) for key, value in state.items())
    )
