"""Names on pytest's command line -> what the laws are run on. Raises UserError for a name that is nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from attacks.contract import Attack, Norm, ThreatModel
from bench.contracts import attacks, datasets, models, trainers
from bench.contracts.problems import INNER, THREE
from bench.ground.config import UserError, settings_of
from bench.subjects import outside
from bench.subjects.catalog import Catalog
from trainers.contract import Trainer

THREATS: tuple[tuple[Norm, float], ...] = (("Linf", 0.05), ("L2", 0.5), ("L1", 4.0), ("L0", 12.0))


class Case(NamedTuple):
    """One law on one thing, by the name that pytest shows."""

    name: str
    law: Callable[[Any], None]
    subject: Any


def cases(named: Mapping[str, Sequence[str]], recipes: Path | None) -> list[Case]:
    """named: kind -> names. recipes: a file with settings."""
    catalog, found = Catalog(recipes), list[tuple[str, Sequence[Callable[[Any], None]], Any]]()
    for name in named["attack"]:
        found += [(f"{name}-{attack.threat.norm}", attacks.LAWS, attack) for attack in _attacks(name, catalog)]
    found += [(name, trainers.LAWS, _trainer(name, catalog)) for name in named["trainer"]]
    found += [(name, models.LAWS, name) for name in named["model"]]
    found += [(name, datasets.LAWS, name) for name in named["dataset"]]
    return [Case(f"{name}-{law.__name__}", law, subject) for name, laws, subject in found for law in laws]


def _attacks(name: str, catalog: Catalog) -> list[Attack]:
    """The attack with the settings of that name; of a kind alone, with its defaults in every norm that it takes."""
    if name in catalog.attack_tables:
        attack = catalog.attack(name)[0]
        return [] if attack is None else [attack]
    found, made, refused = outside.attack(name), [], ""
    for norm, eps in THREATS:
        try:
            table = {"threat": settings_of(ThreatModel(norm, eps))}
            made.append(outside.built_attack(found, table, f"attack {name!r} in {norm}"))
        except UserError as error:
            refused = refused or str(error)
    if not made:
        raise UserError(f"{refused}; with settings in --recipes FILE, give their name instead")
    return made


def _trainer(name: str, catalog: Catalog) -> Trainer:
    """The method of the recipe of that name; of a kind alone, with its defaults against small attacks."""
    if name in catalog.recipe_tables:
        return catalog.recipe(name).trainer
    found = outside.trainer(name)
    several = "inners" in found.thing.__dataclass_fields__
    table = {"inners": [settings_of(one) for one in THREE]} if several else {"inner": settings_of(INNER)}
    return outside.built_trainer(found, table, f"trainer {name!r}")
