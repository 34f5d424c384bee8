"""Names in TOML -> trainers and attacks, built and checked: recipes, schedules and attack settings by name.

Reads trainers/recipes.toml and attacks/suite.toml, then a user's own file (tables [recipes.NAME], [schedules.NAME],
[attacks.NAME], [suites.NAME]), then `--set` assignments. Nothing is built before it is asked for, so a mistake in a
recipe that no table uses costs nobody anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from attacks import ATTACKS
from attacks.contract import Attack
from bench.config import UserError, build, choose, override, read_toml, settings_of
from bench.spec import CLEAN
from trainers import TRAINERS
from trainers.contract import Trainer
from trainers.loop import Schedule


@dataclass(frozen=True)
class Recipe:
    """A named way to train: the method with its settings, and the schedule of the one loop."""

    name: str
    trainer_name: str
    trainer: Trainer
    schedule: Schedule

    @property
    def resolved(self) -> dict[str, Any]:
        """Everything of the recipe that can change a result, defaults included."""
        settings = settings_of(self.trainer) | {"schedule": settings_of(self.schedule)}
        return {"trainer": self.trainer_name, "version": self.trainer.version, "settings": settings}


@dataclass(frozen=True)
class Suite:
    """Attacks whose worst case counts, cheap and strong ones first. images: the first so many test images."""

    parts: tuple[str, ...]
    images: int | None = None
    note: str = ""


class Catalog:
    """All recipes and attack settings by name. Raises UserError for unknown names and settings that do not fit."""

    def __init__(self, file: Path | None = None, assignments: Sequence[str] = ()) -> None:
        book = read_toml(Path(str(files("trainers") / "recipes.toml")))
        tables = {"recipes": book["recipes"], "schedules": book["schedules"]}
        tables["attacks"] = read_toml(Path(str(files("attacks") / "suite.toml")))
        tables["suites"] = tables["attacks"].pop("suites")
        if file is not None:
            own = read_toml(file)
            for kind, entries in own.items():
                choose(kind, tables, f"section in {file}")
                tables[kind] |= entries
        recipes = {name: _with_schedule(name, table, tables["schedules"]) for name, table in tables["recipes"].items()}
        merged = override(recipes | tables["attacks"], list(assignments))
        self.recipe_tables = {name: merged[name] for name in recipes}
        self.attack_tables = {name: merged[name] for name in tables["attacks"]}
        self.suites = {name: build(Suite, table, f"suite {name!r}") for name, table in tables["suites"].items()}

    def with_threat(self, name: str, eps: float | None, norm: str | None) -> Catalog:
        """The same catalog where the attack of that name has another radius or norm."""
        threat = {key: value for key, value in (("eps", eps), ("norm", norm)) if value is not None}
        changed = copy(self)
        table = self.attack_tables.get(name, {})
        merged = table | {"threat": table.get("threat", {}) | threat}
        changed.attack_tables = self.attack_tables | ({name: merged} if table else {})
        return changed

    def recipe(self, name: str) -> Recipe:
        """The recipe of that name, checked."""
        choose(name, self.recipe_tables, "recipe")
        table = dict(self.recipe_tables[name])
        where = f"recipe {name!r}"
        trainer_name = _pop(table, "trainer", where)
        schedule = build(Schedule, _pop(table, "schedule", where), f"{where}, schedule")
        trainer: Trainer = build(TRAINERS[choose(trainer_name, TRAINERS, "trainer")], table, where)
        return Recipe(name, trainer_name, trainer, schedule)

    def attack(self, name: str) -> tuple[Attack | None, dict[str, Any]]:
        """The attack of that name, checked, and its resolved settings; "clean" is no attack."""
        if name == CLEAN:
            return None, {"attack": CLEAN, "version": 1, "settings": {}}
        choose(name, self.attack_tables, "attack")
        table = dict(self.attack_tables[name])
        kind = _pop(table, "attack", f"attack {name!r}")
        attack: Attack = build(ATTACKS[choose(kind, ATTACKS, "attack")], table, f"attack {name!r}")
        return attack, {"attack": kind, "version": attack.version, "settings": settings_of(attack)}

    def parts(self, names: Sequence[str]) -> list[str]:
        """Names of attacks and suites -> names of attacks, each once."""
        for name in names:
            choose(name, {CLEAN, *self.attack_tables, *self.suites}, "attack or suite")
        return list(dict.fromkeys(part for name in names for part in self._parts(name)))

    def _parts(self, name: str) -> tuple[str, ...]:
        return self.suites[name].parts if name in self.suites else (name,)


def _with_schedule(name: str, table: dict[str, Any], schedules: dict[str, Any]) -> dict[str, Any]:
    """The recipe's table with its schedule written out, so that --set reaches into it."""
    schedule = table.get("schedule")
    if isinstance(schedule, str):
        choose(schedule, schedules, f"schedule (named by recipe {name!r})")
        return table | {"schedule": deepcopy(schedules[schedule])}
    return table


def _pop(table: dict[str, Any], key: str, where: str) -> Any:
    if key not in table:
        raise UserError(f"{where} has no {key!r}; every entry names one")
    return table.pop(key)
