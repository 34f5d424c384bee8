"""TOML -> validated frozen dataclasses, and the messages when it does not fit.

Every mistake of a table is reported at once, in sentences that name the place, what was given and what is
known. pydantic checks the types (strictly: true is no number, "3" no integer); it is used in this module
only. One addition to TOML: a float may be written as text, "8/255", so that radii stay exact and readable.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from bench.ground.plain import TEXT, read_plain

T = TypeVar("T")
_CONFIG = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # building one takes milliseconds, and a report reads many
LISTED = 20  # names that a message lists
DEEPEST = 40  # tables and lists inside each other; ours have six
_WILD = "*?["
_EXPONENT = re.compile(r"[eE][+-]?[0-9_]{4}|.{100}", re.DOTALL)  # as exact fractions they would fill the memory


class UserError(ValueError):
    """A user's mistake; the command line prints its sentence and exits with code 2."""


class CannotWrite(UserError):
    """A file that cannot be written; who can do without it goes on."""


def choose(name: str, known: Iterable[str], what: str, *lists: str) -> str:
    """`name` if it is known. Raises UserError with the nearest known name, and all of them or, of many, some and the
    `lists` of `bench list` that show all.
    """
    names = sorted(known)
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=1) if isinstance(name, str) else []
    hint = f" did you mean {close[0]!r}?" if close else ""
    listed = f"known: {', '.join(names) or 'none'}"
    if len(names) > LISTED:
        near = difflib.get_close_matches(str(name), names, n=5, cutoff=0)
        all_of_them = " and ".join(f"`bench list {one}`" for one in lists)
        listed = f"known, among others: {', '.join(near)}" + (f"; for all see {all_of_them}" if lists else "")
    raise UserError(f"unknown {what} {name!r};{hint} {listed}")


def first_line(error: Exception) -> str:
    """What an error of another package says, as part of a sentence; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def number(text: str | float) -> float:
    """ "8/255", "0.5", "1e-3" or a number -> the nearest float. Raises UserError for anything else."""
    try:
        if isinstance(text, (int, float)) and not isinstance(text, bool) and math.isfinite(text):
            return float(text)
        if _EXPONENT.search(str(text)):
            raise ValueError
        parts = [Fraction(part.strip()) for part in str(text).split("/")]
        top, bottom = parts if len(parts) == 2 else (*parts, Fraction(1))
        return float(top / bottom)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise UserError(f"{text!r:.50} is not a number; write it like 0.03 or 8/255") from error


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises UserError that names the file, and for bad syntax the line."""
    try:
        tables = tomllib.loads(read_plain(Path(path), TEXT).decode())
        check_depth(tables)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}), so it is not TOML") from error
    except (ValueError, RecursionError) as error:  # also for numbers of thousands of digits
        raise UserError(f"{path}: is not valid TOML: {error}") from error
    return tables


def check_depth(content: Any) -> None:
    """Raises ValueError for tables and lists that lie more than DEEPEST deep in each other: what goes through them
    later, here or in other packages, calls itself for each. Does not call itself.
    """
    level, depth = [content], 0
    while level := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"tables or lists lie more than {DEEPEST} deep in each other")
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]


def build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """A plain frozen dataclass from a TOML or JSON table; may hold dataclasses, tuples, Literal and None.

    where: named at the head of the message, such as "suite.toml [pgd-100]". A ValueError from __post_init__
    becomes part of the message. Raises one UserError with every problem of the table.
    """
    if not isinstance(table, Mapping):
        raise UserError(f"{where}: it must be a table, not {table!r}")
    adapter = _ADAPTERS.get(cls)
    if adapter is None:  # as a list: only there pydantic applies a config to a plain dataclass
        adapter = _ADAPTERS[cls] = TypeAdapter(list[cls], config=_CONFIG)  # type: ignore[valid-type]
    content = [deepcopy(dict(table))]
    try:
        return adapter.validate_json(_json(content))[0]
    except ValidationError as error:
        problems = error.errors()
    if any([_parse_number(content, problem) for problem in problems]):
        try:
            return adapter.validate_json(_json(content))[0]
        except ValidationError as error:
            problems = error.errors()
    raise UserError(f"{where}: " + "; ".join(_sentence(cls, problem) for problem in problems))


def settings_of(instance: Any) -> dict[str, Any]:
    """All fields of a dataclass, defaults included, as plain JSON types; infinities and NaN become text.

    A field that came later (`metadata={"since": 2}`) is left out at its default: what was made before keeps its id.
    """
    kept = [f for f in fields(instance) if "since" not in f.metadata or getattr(instance, f.name) != f.default]
    return {f.name: _plain(getattr(instance, f.name)) for f in kept}


def override(tables: Mapping[str, dict[str, Any]], assignments: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Copies of the tables with `NAME.key[.sub]=VALUE` applied, in order.

    NAME may be a glob; it then applies to the tables that have the key. VALUE is TOML, or else plain text.
    A key that the table lacks is set (`build` complains if it is unknown). Raises UserError when nothing
    matches.
    """
    changed = {name: deepcopy(table) for name, table in tables.items()}
    for assignment in assignments:
        target, equals, text = assignment.partition("=")
        name, *keys = target.strip().split(".")
        if not equals or not name or not keys or not all(keys) or len(keys) > DEEPEST:
            raise UserError(f"--set {assignment!r} is not of the form NAME.key=VALUE, as in pgd-100.steps=20")
        for match in _matches(changed, name, keys[0], assignment):
            _assign(changed[match], keys, _value(text.strip()), assignment)
    return changed


def _matches(tables: Mapping[str, dict[str, Any]], name: str, key: str, assignment: str) -> list[str]:
    """The tables that `name` means. A glob needs at least one table that has the key."""
    if not any(sign in name for sign in _WILD):
        return [choose(name, tables, f"name in --set {assignment}:", "recipes", "attacks")]
    named = [table for table in tables if fnmatchcase(table, name)]
    if not named:
        choose(name, tables, f"pattern in --set {assignment}:", "recipes", "attacks")
    keyed = [table for table in named if key in tables[table]]
    if not keyed:
        known = {known for table in named for known in tables[table]}
        choose(key, known, f"key in --set {assignment}:")
    return keyed


def _assign(table: dict[str, Any], keys: list[str], value: Any, assignment: str) -> None:
    """table[k1][k2]... = value. Raises UserError when a key on the way is not a table."""
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {assignment}: {key!r} is not a table but {table!r}")
    table[keys[-1]] = deepcopy(value)


def _value(text: str) -> Any:
    """TOML value, or the text itself."""
    try:
        found = tomllib.loads(f"value = {text}")
        check_depth(found)
    except (ValueError, RecursionError):  # also for numbers of thousands of digits
        return text
    return found["value"] if len(found) == 1 else text


def _plain(value: Any) -> Any:
    """JSON types only."""
    if is_dataclass(value):
        return settings_of(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list, set, frozenset)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)


def _json(content: Any) -> str:
    """Dates, the one TOML type that JSON lacks, become text; the type check refuses it where unwanted."""
    return json.dumps(content, default=str)


def _parse_number(content: list[Any], problem: Any) -> bool:
    """Replaces "8/255" where a float was wanted; says whether it did."""
    if problem["type"] != "float_type" or not isinstance(problem["input"], str):
        return False
    *path, last = problem["loc"]
    place: Any = content
    try:
        for key in path:
            place = place[key]
        place[last] = number(place[last])
    except (KeyError, IndexError, TypeError, UserError):  # a union's branch in the path, or no number at all
        return False
    return True


def _sentence(cls: type, problem: Any) -> str:
    """One problem as a short sentence."""
    keys = [str(key) for key in problem["loc"][1:]]
    at, given, kind = ".".join(keys), problem["input"], problem["type"]
    if kind == "missing":
        return f"{at!r} is missing"
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = [f.name for f in fields(_class_at(cls, keys[:-1])) if f.init]
        try:
            choose(keys[-1], known, "key")
        except UserError as error:
            return f"{error}" + (f" (in {'.'.join(keys[:-1])!r})" if keys[1:] else "")
    if kind == "value_error":
        return (f"{at}: " if at else "") + str(problem["ctx"]["error"])
    if kind == "literal_error":
        return f"{at} = {given!r} is not one of {problem['ctx']['expected']}"
    if kind == "dataclass_type":
        return f"{at or 'it'} must be a table, not {given!r}"
    wanted = problem["msg"].replace("Input should be", "it should be")
    if kind == "float_type":
        wanted = 'it should be a number, such as 0.03 or "8/255"'
    return f"{at} = {given!r} does not fit: {wanted[0].lower()}{wanted[1:]}"


def _class_at(cls: Any, keys: list[str]) -> Any:
    """The dataclass that a path of keys leads to, through Optional and sequences."""
    for key in keys:
        if key.isdigit():
            continue
        kinds = [get_type_hints(cls)[key]]
        while not any(is_dataclass(kind) for kind in kinds):
            kinds = [inner for kind in kinds for inner in get_args(kind)]
        cls = next(kind for kind in kinds if is_dataclass(kind))
    return cls
