"""Attacks, methods, models and data sets from outside this repository: of installed packages by their name, or of the
user's own code as module:name. Whatever their code does wrong is one sentence that names it.

What is theirs is told apart by its package, the package's version and a hash of its code, which go into ids.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from attacks import ATTACKS
from attacks.contract import Attack, ThreatModel
from bench.ground import packages
from bench.ground.config import UserError, build, choose, settings_of
from bench.ground.packages import Entry, Kind
from bench.subjects import factories
from bench.subjects.code import source_sha256
from trainers import TRAINERS
from trainers.contract import Inner, Trainer

SHOWN = 8  # digits of the hash of code
GUIDE = "see docs/extend.md"
MEMBERS = {
    "attack": ("threat", "closest", "version", "__call__"),
    "trainer": ("inner", "members", "version", "batch_loss"),
}


class Found(NamedTuple):
    """A class or a function by its name. code: whose it is, with a hash of its code; "" of this repository. words: how
    sentences call it.
    """

    thing: Any
    code: str
    words: str


def known(kind: Kind, ours: Mapping[str, Any]) -> set[str]:
    """Every name of that kind, ours and those of installed packages."""
    return {*ours, *packages.entries(kind)}


def is_outside(kind: Kind, name: str, ours: Mapping[str, Any]) -> bool:
    """Whether it is the name of a thing of an installed package, and none of ours."""
    return name not in ours and name in packages.entries(kind)


def find(kind: Kind, name: str, ours: Mapping[str, Any], lists: str) -> Found:
    """One of `ours`, of an installed package, or module:name. lists: the `bench list` that shows them. Raises
    UserError.
    """
    if isinstance(name, str) and name in ours:
        packages.say_hidden(kind, name)
        return Found(ours[name], "", f"{kind} {name!r}")
    if isinstance(name, str) and ":" in name:
        factories.load_module(name, name.partition(":")[0])
        return _found(name, name, f"{kind} {name}", "")
    entry = packages.find(kind, name) if isinstance(name, str) else None
    if entry is None:
        choose(name, known(kind, ours), kind, lists)
    assert entry is not None
    return _of_package(entry)


def attack(name: str) -> Found:
    """A kind of attack: a frozen dataclass. Raises UserError."""
    return _class("attack", find("attack", name, ATTACKS, "attacks"))


def trainer(name: str) -> Found:
    """A training method: a frozen dataclass. Raises UserError."""
    return _class("trainer", find("trainer", name, TRAINERS, "trainers"))


def built_attack(found: Found, table: Mapping[str, Any], where: str) -> Attack:
    """The attack with these settings. Raises UserError, also where it is none."""
    made = _built(found, table, where)
    if found.code:
        _check(found, "threat", made.threat, ThreatModel)
        _check(found, "closest", made.closest, bool)
        _check(found, "version", made.version, int)
    return made


def built_trainer(found: Found, table: Mapping[str, Any], where: str) -> Trainer:
    """The method with these settings. Raises UserError, also where it is none."""
    made = _built(found, table, where)
    if found.code:
        _check(found, "inner", made.inner, Inner)
        _check(found, "members", made.members, int)
        _check(found, "version", made.version, int)
        if made.members < 1:
            raise UserError(f"{found.words}: members = {made.members}, but a method trains one network or more")
    return made


def resolved(name: str, attack: Attack, code: str) -> dict[str, Any]:
    """What an attack's id is hashed of. closest: is told of those whose class a reader of records may not have."""
    found: dict[str, Any] = {"attack": name, "version": attack.version, "settings": settings_of(attack)}
    if code:
        found |= {"code": code} | ({"closest": True} if attack.closest else {})
    return found


def for_record(resolved: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a record says of an attack from outside; None for one of this repository."""
    return {key: value for key, value in resolved.items() if key != "settings"} if "code" in resolved else None


def images(name: str, data_dir: Path | None) -> tuple[Found, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """What the function of a data set returns: part -> (images, labels), as arrays. Raises UserError."""
    found = find("dataset", name, {}, "datasets")
    with said(found.words):
        parts = found.thing(data_dir)
    pairs = isinstance(parts, Mapping) and all(
        isinstance(one, tuple | list) and len(one) == 2 for one in parts.values()
    )
    if not pairs:
        given = type(parts).__name__
        raise UserError(f"{found.words} returned {given}, not a dict of part -> (images, labels); {GUIDE}")
    return found, {str(part): (_array(x), _array(y)) for part, (x, y) in parts.items()}


@contextmanager
def said(words: str) -> Iterator[None]:
    """Whatever code from outside raises inside is a sentence. Raises UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{words}: {error}") from error
    except Exception as error:  # whatever the user's code raises is the user's to read
        raise UserError(f"{words} raises {type(error).__name__}: {error}") from error


def _of_package(entry: Entry) -> Found:
    """Raises UserError for a package that is broken."""
    module, colon, _ = entry.value.partition(":")
    if not colon:
        raise UserError(f"{entry.words} is not of the form module:name; {GUIDE}")
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever the package raises
        said = f"importing {module} raises {type(error).__name__}: {error}"
        raise UserError(f"{entry.words}: {said}; mend the package, or uninstall it") from error
    packages.use(entry)
    return _found(entry.name, entry.value, entry.words, entry.origin)


def _found(name: str, value: str, words: str, origin: str) -> Found:
    """The thing at module:name, whose module is imported. Raises UserError."""
    module, _, attribute = value.partition(":")
    thing: Any = importlib.import_module(module)
    for part in attribute.split("."):
        if not hasattr(thing, part):
            raise UserError(f"{words}: {module} has no {attribute!r}")
        thing = getattr(thing, part)
    code = f"code {source_sha256(module, getattr(thing, '__module__', module) or module)[:SHOWN]}"
    return Found(thing, f"{origin}, {code}" if origin else code, words)


def _class(kind: str, found: Found) -> Found:
    """Raises UserError for what is no attack or method."""
    if not found.code:
        return found
    cls = found.thing
    if not (isinstance(cls, type) and is_dataclass(cls) and cls.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        is_what = f"the class {cls.__name__}" if isinstance(cls, type) else f"a {type(cls).__name__}"
        raise UserError(f"{found.words} is {is_what}, and not a frozen dataclass of settings; {GUIDE}")
    names = {*dir(cls), *cls.__dataclass_fields__}
    if lacking := [name for name in MEMBERS[kind] if name not in names]:
        raise UserError(f"{found.words} is no {kind}: it has no {', '.join(lacking)}; {GUIDE}")
    return found


def _built(found: Found, table: Mapping[str, Any], where: str) -> Any:
    """Of ours what breaks is a mistake of ours, with its traceback."""
    if not found.code:
        return build(found.thing, table, where)
    try:
        return build(found.thing, table, where)
    except UserError:
        raise
    except Exception as error:  # also of pydantic, for fields that TOML cannot fill
        problem = (str(error).splitlines() or [""])[0]
        raise UserError(f"{where}: {found.words} cannot be made: {type(error).__name__}: {problem}") from error


def _check(found: Found, name: str, value: Any, wanted: type) -> None:
    """Raises UserError where a member is of another type."""
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise UserError(f"{found.words}: {name} is {value!r}, and {wanted.__name__} is wanted; {GUIDE}")


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
