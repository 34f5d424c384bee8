"""What the names of attacks stand for, where attacks cannot be imported: `attacks/suite.toml`, read as data.

A record and its plan may call any settings "pgd-100"; tables say where those are not the suite's. And only an attack
that looks for the closest image may have gone beyond its radius, see `is_closest`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from bench.ground.config import UserError, number, read_toml
from bench.ledger.budgets import radius
from bench.ledger.ids import EVAL_OPTIONS, eval_id, eval_identity
from bench.ledger.spec import SEVERITIES

N = TypeVar("N", bound=ast.AST)
# kinds of attacks that return the closest fooling image, also beyond their radius (`closest` in attacks/contract.py);
# those of libraries do where the library's attack does
CLOSEST = (
    "boundary", "cw-l2", "ddn", "deepfool", "fab", "fmn", "foolbox", "pointwise", "salt-and-pepper", "sigma-zero",
    "torchattacks",
)  # fmt: skip
VERSIONS = range(1, 20)
PUBLISHED = "published"  # of a corruption's settings: from where, which tables say by themselves


@cache
def suite() -> Mapping[str, dict[str, Any]]:
    """Name -> its table in attacks/suite.toml, beside the attacks and without loading them; none where there are none.
    Raises UserError for a file that is no TOML.
    """
    folder = _folder()
    tables = {} if folder is None else read_toml(folder / "suite.toml")
    return {name: table for name, table in with_corruptions(tables).items() if name != "suites"}


def with_corruptions(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The suite with a table c-NAME-SEVERITY for each of the names in its [corruptions], in place of that."""
    made, names = dict(tables), tables["corruptions"]["names"] if "corruptions" in tables else []
    made.pop("corruptions", None)
    for name, severity in product(names, range(1, SEVERITIES + 1)):
        made[f"c-{name}-{severity}"] = {"attack": "corruption", "name": name, "severity": severity}
    return made


def is_corruption(attack: Mapping[str, Any]) -> bool:
    """Whether a plan's attack is one of which plain accuracy counts, see "corruptions" in attacks/contract.py."""
    return bool(attack["attack"] == "corruption")


def _folder() -> Path | None:
    """Where the attacks lie. They are a package at the top, which this does not import."""
    found = find_spec("attacks")
    return None if found is None else Path(next(iter(found.submodule_search_locations or []), ""))


@cache
def defaults(kind: str) -> Mapping[str, Any]:
    """What an attack's settings are where the suite says nothing: the fields of its class that have plain values, read
    from its source.
    """
    folder = _folder()
    if folder is None:
        return {}
    package = ast.parse((folder / "__init__.py").read_text())
    modules = {one.name: node.module for node in _of(package, ast.ImportFrom) for one in node.names}
    kinds = {ast.literal_eval(key): ast.unparse(cls) for node in _of(package, ast.Dict)
             for key, cls in zip(node.keys, node.values, strict=True) if key}  # fmt: skip
    module = modules.get(kinds.get(kind, ""), None)
    if module is None:
        return {}
    source = ast.parse(folder.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text())
    classes = {node.name: node for node in _of(source, ast.ClassDef)}
    return _fields(classes[kinds[kind]], classes)


def _fields(cls: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> dict[str, Any]:
    """Name -> default of a dataclass and of those in the same file that it is made of."""
    found: dict[str, Any] = {}
    for base in cls.bases:
        if (name := ast.unparse(base)) in classes:
            found |= _fields(classes[name], classes)
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
            value = _default(node.value)
            read = _fraction if isinstance(value, ast.BinOp) else ast.literal_eval
            try:
                found[ast.unparse(node.target)] = read(value)  # type: ignore[arg-type]
            except (ValueError, TypeError):  # none, or made of other classes
                continue
    return {name: value for name, value in found.items() if name != "version"}


def _default(value: ast.expr | None) -> ast.expr | None:
    """What stands behind `= `, or in it as field(default=...)."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        return next((one.value for one in value.keywords if one.arg == "default"), None)
    return value


def _fraction(node: ast.BinOp) -> float:
    """Such as 2 / 255."""
    return number(ast.unparse(node))


def _of(tree: ast.AST, kind: type[N]) -> list[N]:
    return [node for node in ast.walk(tree) if isinstance(node, kind)]


def unlike_suite(name: str, attack: Mapping[str, Any]) -> list[str]:
    """Where a plan's attack {"attack", "version", "settings"} is not what the suite has under its name, in words such
    as "eps 6.7e-07 instead of 8/255". [] for a name that the suite does not know: it is the user's own.
    """
    table = dict(suite().get(name, {}))
    if not table:
        return []
    kind = table.pop("attack")
    if attack["attack"] != kind:
        return [f"{attack['attack']} instead of {kind}"]
    settings = {key: value for key, value in attack["settings"].items() if key != PUBLISHED}
    own = {key: value for key, value in defaults(kind).items() if key in settings}  # others are newer than the plan
    return list(_differences(settings, own | table))


def _differences(settings: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[str]:
    """Of a table and those in it, key by key."""
    for key, wanted in table.items():
        given = settings.get(key)
        if isinstance(wanted, dict):
            yield from _differences(given if isinstance(given, Mapping) else {}, wanted)
        elif _value(given) != _value(wanted):
            yield f"{key} {_words(given)} instead of {_words(wanted)}"


def _value(value: Any) -> Any:
    """Fractions in TOML are text, in a plan they are numbers; tuples are lists there."""
    if isinstance(value, tuple | list):
        return [_value(one) for one in value]
    try:
        return number(value)
    except UserError:
        return value


def _words(value: Any) -> str:
    value = _value(value)
    if isinstance(value, float):
        return f"{value:g}" if value.is_integer() else radius(value)
    return "nothing" if value is None else str(value)


def is_closest(name: str, head: Mapping[str, Any], images: int) -> bool:
    """Whether a record of so many images is of an attack that may go beyond its radius: by its name in the suite, or,
    of a user's own name, by the kind that its id was hashed with. head: its fields.
    """
    if head["broken_by"] is not None:
        return False  # of a union an image that stands is as it was
    if name in suite():
        return suite()[name]["attack"] in CLOSEST
    outside = head.get("outside")
    kinds = [{"attack": kind, "version": version} for kind in CLOSEST for version in VERSIONS]
    if outside is not None:
        kinds = [outside] if outside.get("closest") is True and "code" in outside else []
    return any(
        eval_id(name, images, _identity(name, kind, options, head)) == head["eval_id"]
        for kind in kinds
        for options in EVAL_OPTIONS
    )


def _identity(
    name: str, kind: Mapping[str, Any], options: Mapping[str, str], head: Mapping[str, Any]
) -> dict[str, Any]:
    attack = {**kind, "settings": head["settings"]}
    source = None if head["source"] is None else head["source"].run_id
    return eval_identity(attack, name, head["images_sha256"], head["seed"], options, source)
