"""What the names of attacks stand for, where attacks cannot be imported: `attacks/suite.toml`, read as data.

A record and its plan may call any settings "pgd-100"; tables say where those are not the suite's. And only an attack
that looks for the closest image may have gone beyond its radius, see `is_closest`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.ground.config import UserError, number, read_toml
from bench.ledger.budgets import radius
from bench.ledger.ids import eval_id, eval_identity

# kinds of attacks that return the closest fooling image, also beyond their radius (`closest` in attacks/contract.py);
# those of libraries do where the library's attack does
CLOSEST = (
    "boundary", "cw-l2", "ddn", "deepfool", "fab", "foolbox", "pointwise", "salt-and-pepper", "torchattacks",
)  # fmt: skip
VERSIONS = range(1, 20)
PRECISIONS = ("float32", "bfloat16")


@cache
def suite() -> Mapping[str, dict[str, Any]]:
    """Name -> its table in attacks/suite.toml, beside the attacks and without loading them; none where there are none.
    Raises UserError for a file that is no TOML.
    """
    found = find_spec("attacks")  # of a package at the top, which this does not import
    places = [] if found is None else list(found.submodule_search_locations or [])
    tables = read_toml(Path(places[0]) / "suite.toml") if places else {}
    return {name: table for name, table in tables.items() if name != "suites"}


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
    return list(_differences(attack["settings"], table))


def _differences(settings: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[str]:
    """Of a table and those in it, key by key."""
    for key, wanted in table.items():
        given = settings.get(key)
        if isinstance(wanted, dict):
            yield from _differences(given if isinstance(given, Mapping) else {}, wanted)
        elif _value(given) != _value(wanted):
            yield f"{key} {_words(given)} instead of {_words(wanted)}"


def _value(value: Any) -> Any:
    """Fractions in TOML are text, in a plan they are numbers."""
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
    return any(
        eval_id(name, images, _identity(name, kind, version, precision, head)) == head["eval_id"]
        for kind in CLOSEST
        for version in VERSIONS
        for precision in PRECISIONS
    )


def _identity(name: str, kind: str, version: int, precision: str, head: Mapping[str, Any]) -> dict[str, Any]:
    attack = {"attack": kind, "version": version, "settings": head["settings"]}
    source = None if head["source"] is None else head["source"].run_id
    return eval_identity(attack, name, head["images_sha256"], head["seed"], {"gradient_precision": precision}, source)
