"""Names in TOML -> trainers and attacks, built and checked: recipes, schedules and attack settings by name.

Reads trainers/recipes.toml and attacks/suite.toml, then a user's own file with tables of the same kinds, then `--set`
assignments. Recipes are made of methods and profiles, see `_recipes`. Nothing is built before it is asked for, so a
mistake in a recipe that no table uses costs nobody anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

from attacks import ATTACKS
from attacks.contract import Attack
from attacks.fog import Fog
from attacks.gabor import Gabor
from attacks.pgd import MIM, PGD
from bench.ground import packages
from bench.ground.config import UserError, build, choose, override, read_toml, settings_of
from bench.ledger.named import is_corruption, with_corruptions
from bench.ledger.spec import CLEAN, TableSpec, table_path
from bench.subjects import models, outside
from trainers import TRAINERS
from trainers.contract import Trainer, teachers_of
from trainers.schedule import Schedule

STANDARD = "standard"  # the suite that is run where no attack is named; of a norm and of digits its variants


@dataclass(frozen=True)
class Teacher:
    """A frozen network: the best epoch of a recipe's network `member`. arch: None is that of the student."""

    recipe: Recipe
    member: int
    arch: str | None


@dataclass(frozen=True)
class Recipe:
    """A named way to train: the method with its settings, and the schedule of the one loop.

    archs: one for each network of the cohort; empty where all have the one that is asked for. code: of a method from
    outside, whose it is and a hash of its code; "" of ours.
    """

    name: str
    trainer_name: str
    trainer: Trainer
    schedule: Schedule
    archs: tuple[str, ...] = ()
    teacher: Teacher | None = None
    code: str = ""

    def resolved(self, arch: str) -> dict[str, Any]:
        """Everything of the recipe that can change a result, defaults included: what `bench.ledger.ids` hashes.

        arch: that of every network for which the recipe names none; what is known of it is its version, where that is
        not 1.
        """
        settings = settings_of(self.trainer) | {"schedule": settings_of(self.schedule)}
        resolved: dict[str, Any] = {"trainer": self.trainer_name, "version": self.trainer.version, "settings": settings}
        if self.code:
            resolved["code"] = self.code
        if self.archs:
            resolved["archs"] = list(self.archs)
        if versions := models.versions(self.archs or (arch,)):
            resolved["arch_versions"] = versions
        if self.teacher:
            taught = self.teacher.recipe
            resolved["teacher"] = {
                "name": taught.name,
                "recipe": taught.resolved(self.teacher.arch or arch),
                "member": self.teacher.member,
                "members": taught.trainer.members,
                "arch": self.teacher.arch,
            }
        return resolved

    def outside(self, arch: str) -> dict[str, str] | None:
        """What of it is from outside this repository, and whose; None where nothing is."""
        return ({"trainer": self.code} if self.code else {}) | models.of_packages(self.archs or (arch,)) or None


@dataclass(frozen=True)
class Suite:
    """Attacks whose worst case counts, cheap and strong ones first. images: so many test images. draws: how
    often a model is asked, where it was not said: see `bench.judge.draws`.
    """

    parts: tuple[str, ...]
    images: int | None = None
    draws: int | None = None
    note: str = ""


class Catalog:
    """All recipes and attack settings by name. Raises UserError for unknown names and settings that do not fit."""

    def __init__(self, file: Path | None = None, assignments: Sequence[str] = (), table: str | None = None) -> None:
        """file: tables of the user's own, or the name of a table that brings some. table: the one that is run, with
        what it brings of its own.
        """
        tables = read_toml(Path(str(files("trainers") / "recipes.toml")))
        tables["attacks"] = with_corruptions(read_toml(Path(str(files("attacks") / "suite.toml"))))
        tables["suites"] = tables["attacks"].pop("suites")
        for path in [*([] if table is None else [table_path(table)]), *([] if file is None else [_settings(file)])]:
            own = read_toml(path)
            for kind, entries in own.items():
                if kind in _OF_TABLE and kind not in tables:
                    continue
                choose(kind, tables, f"section in {path}")
                if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
                    raise UserError(f"{path}: [{kind}] holds tables only, such as [{kind}.NAME]")
                tables[kind] |= entries
        self.schedules = tables["schedules"]
        recipes = {name: self._with_schedule(name, table) for name, table in _recipes(tables).items()}
        merged = override(recipes | tables["attacks"], list(assignments))
        self.recipe_tables = {name: merged[name] for name in recipes}
        self.attack_tables = {name: merged[name] for name in tables["attacks"]}
        self._assigned = [assignment.partition("=")[0].strip() for assignment in assignments]
        self._used: set[str] = set()
        self.suites = {name: build(Suite, table, f"suite {name!r}") for name, table in tables["suites"].items()}

    def recipe(self, name: str, changes: Mapping[str, Any] | None = None, students: tuple[str, ...] = ()) -> Recipe:
        """The recipe of that name, checked. changes: of its table, merged into the tables in it. students: recipes that
        it is a teacher for.
        """
        choose(name, self.recipe_tables, "recipe", "recipes")
        self._used.add(name)
        where = f"recipe {name!r}"
        if name in students:
            raise UserError(f"{where} is its own teacher (through {', '.join(students)})")
        table = self._with_schedule(name, _merged(self.recipe_tables[name], changes or {}))
        trainer_name = _pop(table, "trainer", where, outside.known("trainer", TRAINERS))
        schedule = build(Schedule, _pop(table, "schedule", where, self.schedules), f"{where}, schedule")
        cast = build(_Cast, {key: table.pop(key) for key in list(table) if key in _CAST}, where)
        found = outside.trainer(trainer_name)
        trainer = outside.built_trainer(found, table, where)
        if len(cast.archs) not in (0, trainer.members):
            raise UserError(f"{where}: archs names {len(cast.archs)} networks, but it trains {trainer.members}")
        teacher = self._teacher(name, cast, teachers_of(trainer), students)
        archs = tuple(map(models.check_name, cast.archs))
        return Recipe(name, trainer_name, trainer, schedule, archs, teacher, found.code)

    def check_assignments(self) -> None:
        """Raises UserError for a --set of a recipe or attack that nobody has asked for: it would change nothing."""
        for target in self._assigned:
            name = target.partition(".")[0]
            if not any(fnmatchcase(used, name) for used in self._used):
                choose(name, self._used, f"name among those used here, in --set {target}:")

    def _teacher(self, name: str, cast: _Cast, needed: int, students: tuple[str, ...]) -> Teacher | None:
        """The teacher that a recipe names, checked."""
        where = f"recipe {name!r}"
        if not needed:
            if cast.teacher or cast.teacher_arch or cast.teacher_member:
                raise UserError(f"{where} names a teacher, but its method learns from none; leave it out")
            return None
        if not cast.teacher:
            raise UserError(f"{where} learns from a frozen teacher; name its recipe, as in teacher = 'trades-digits'")
        recipe = self.recipe(cast.teacher, students=(*students, name))
        if not 0 <= cast.teacher_member < recipe.trainer.members:
            trained = recipe.trainer.members
            raise UserError(f"{where}: teacher_member = {cast.teacher_member}, but {recipe.name!r} trains {trained}")
        return Teacher(recipe, cast.teacher_member, cast.teacher_arch and models.check_name(cast.teacher_arch))

    def attack(
        self, name: str, eps: float | None = None, norm: str | None = None
    ) -> tuple[Attack | None, dict[str, Any]]:
        """The attack of that name, checked, and its resolved settings; "clean" is no attack.

        eps, norm: instead of its own. A step in image units then changes in proportion to eps, unless an assignment
        set it: the same number of steps gets as far in the larger ball. Raises UserError for an attack without a
        radius in a norm, and for a norm without its radius.
        """
        if name == CLEAN:
            return None, {"attack": CLEAN, "version": 1, "settings": {}}
        table = self._attack_table(name)
        self._used.add(name)
        kind = _pop(table, "attack", f"attack {name!r}", outside.known("attack", ATTACKS))
        found, where = outside.attack(kind), f"attack {name!r}"
        if "threat" not in table and eps is not None and norm is not None and not is_corruption({"attack": kind}):
            table["threat"] = {"norm": norm, "eps": eps}
        attack = outside.built_attack(found, table, where)
        if eps is not None or norm is not None:
            attack = outside.built_attack(found, table | self._with_threat(name, attack, eps, norm), where)
        return attack, outside.resolved(kind, attack, found.code)

    def lacking(self, name: str, eps: float | None, norm: str | None) -> tuple[float | None, str | None]:
        """What a kind that is asked for by its own name has no setting for: its threat model. Raises UserError."""
        if name == CLEAN or name in self.attack_tables:
            return None, None
        if eps is None or norm is None:
            raise UserError(
                f"attack {name!r} is a kind without settings: give --norm and --eps, or name settings of it in "
                f'--recipes FILE, as [attacks.NAME] with attack = "{name}"'
            )
        return eps, norm

    def kind_of(self, name: str) -> str:
        """What an attack's name is a setting of. Raises UserError."""
        return str(_pop(self._attack_table(name), "attack", f"attack {name!r}", outside.known("attack", ATTACKS)))

    def _attack_table(self, name: str) -> dict[str, Any]:
        """The settings of that name; of a kind from outside, by its own name, none but its defaults. Raises
        UserError.
        """
        if name not in self.attack_tables and (":" in name or outside.is_outside("attack", name, ATTACKS)):
            return {"attack": name}
        return dict(self.attack_tables[choose(name, self.attack_tables, "attack", "attacks")])

    def _with_threat(self, name: str, attack: Attack, eps: float | None, norm: str | None) -> dict[str, Any]:
        """What another radius or norm changes of an attack's table."""
        known = attack.threat
        if known.norm in ("own", "corruptions"):
            raise UserError(
                f"attack {name!r} is bounded in parameters of its own and not in a norm; leave out --eps and --norm, "
                f"or change its settings with --set {name}.KEY=VALUE"
            )
        if eps is None and norm != known.norm:
            raise UserError(f"attack {name!r} has a radius in {known.norm}; give the one in {norm} with --eps")
        eps = known.eps if eps is None else eps
        changes: dict[str, Any] = {"threat": {"norm": norm or known.norm, "eps": eps}}
        # the step of C&W is no distance between images
        if isinstance(attack, (PGD, MIM)) and known.eps and not self._sets_step(name):
            changes["step"] = attack.step * eps / known.eps
        return changes

    def _sets_step(self, name: str) -> bool:
        """Whether an assignment sets the attack's step."""
        return any(fnmatchcase(f"{name}.step", assigned) for assigned in self._assigned)

    def at_radius(self, name: str, eps: float) -> Attack:
        """The attack of that name at another radius, also one that bounds itself; its step then changes in proportion,
        where it is one of variables that the radius bounds. Raises UserError.
        """
        known, _ = self.attack(name)
        if known is None or known.threat.norm != "own":
            found, _ = self.attack(name, eps)
            assert found is not None, name
            return found
        changes: dict[str, Any] = {"threat": replace(known.threat, eps=eps)}
        step = getattr(known, "step", None)
        if step is not None and known.threat.eps and not isinstance(known, (Fog, Gabor)) and not self._sets_step(name):
            changes["step"] = step * eps / known.threat.eps
        return replace(known, **changes)  # type: ignore[type-var]

    def parts(self, names: Sequence[str]) -> list[str]:
        """Names of attacks and suites -> names of attacks, each once."""
        theirs = {name for name in names if ":" in name} | set(packages.entries("attack"))
        for name in names:
            choose(name, {CLEAN, *self.attack_tables, *self.suites, *theirs}, "attack or suite", "attacks")
        return list(dict.fromkeys(part for name in names for part in self._parts(name)))

    def standard(self, norm: str, dataset: str) -> str:
        """The suite that is run where no attack is named, in that norm. Raises UserError."""
        name = STANDARD + {"Linf": ""}.get(norm, f"-{norm.lower()}") + ("-digits" if dataset == "digits" else "")
        if name not in self.suites:
            raise UserError(f"no suite {name!r} is known; the standard attacks are in Linf, L2 and L1, not in {norm}")
        return name

    def _parts(self, name: str) -> tuple[str, ...]:
        return self.suites[name].parts if name in self.suites else (name,)

    def _with_schedule(self, name: str, table: dict[str, Any]) -> dict[str, Any]:
        """The recipe's table with its schedule written out, so that --set reaches into it."""
        schedule = table.get("schedule")
        if isinstance(schedule, str):
            choose(schedule, self.schedules, f"schedule (named by recipe {name!r})")
            return table | {"schedule": deepcopy(self.schedules[schedule])}
        return dict(table)


def _settings(file: Path) -> Path:
    """The TOML that --recipes means: a file, or the table of that name."""
    by_name = not file.exists() and packages.entries("table").get(str(file))
    return table_path(str(file)) if by_name else file


def coarse_steps(attacks: Mapping[str, Attack | None], values: int) -> list[str]:
    """A line for each attack, by name, that is weak on images of so few `values`: in L1 its steps may spread over more
    than a tenth of them, so that few go where the loss is steep (5 to 20 suit the 3072 of CIFAR-10, not 64 of digits).
    """
    lines = []
    for name, attack in attacks.items():
        if attack is not None and attack.threat.norm in ("L1", "own") and hasattr(attack, "l1_pixels"):
            low, high = attack.l1_pixels
            if 10 * high > values:
                lines.append(
                    f"{name}: its steps in L1 go to {low} to {high} of the {values} values of an image, too many to be "
                    f"strong; try --set {name}.l1_pixels=[1,{max(1, values // 13)}]"
                )
    return lines


@dataclass(frozen=True)
class _Cast:
    """Which networks a recipe has, beside the settings of its method."""

    archs: tuple[str, ...] = ()
    teacher: str = ""
    teacher_member: int = 0
    teacher_arch: str | None = None


NORMS = ("Linf", "L2", "L1")
_CAST = {field.name for field in fields(_Cast)}
_OF_TABLE = {field.name for field in fields(TableSpec)}


def _recipes(tables: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """METHOD-PROFILE for every method and profile, under what [recipes] says of the same name.

    A method's own keys: profiles, the only ones it has recipes for; against, "all" of a profile's `inners`, those of a
    list of norms in its order, or the one of a norm, in place of its `inner` (a profile without them has no such
    recipe); teacher, a method, trained under the same profile. A profile's key like: another profile, of which it has
    everything that it does not say, and what [recipes] changes there too.
    """
    made, changes = {}, tables["recipes"]
    for (method, own), (profile, said) in product(tables["methods"].items(), tables["profiles"].items()):
        like = choose(said.get("like", profile), tables["profiles"], f"profile in like of profile {profile!r}")
        base = tables["profiles"][like] | said
        attacks = _attacks_of(method, own, base)
        if attacks and like in own.get("profiles", [like]):
            inherited = changes.get(f"{method}-{like}", {}) if like != profile else {}
            made[f"{method}-{profile}"] = _merged(_composed(own, profile, base, attacks), inherited)
    for name, changed in changes.items():
        made[name] = _merged(made.get(name, {}), changed)
    return made


def _attacks_of(method: str, own: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What a method takes of a profile's attacks; {} where the profile lacks it. Raises UserError."""
    against = own.get("against")
    if against is None:
        return {"inner": base["inner"]} if "inner" in base else {}
    named, where = isinstance(against, list), f"norm in against of method {method!r}"
    norms = against if named else [against]
    for norm in norms:
        choose(norm, NORMS if named else ("all", *NORMS), where)
    inners = base.get("inners", [])
    if against == "all":
        return {"inners": inners} if inners else {}
    found = [inner for norm in norms for inner in inners if inner.get("norm", "Linf") == norm]
    if not norms or len(found) < len(norms):
        return {}
    return {"inners": found} if named else {"inner": found[0]}


def _composed(
    own: Mapping[str, Any], profile: str, base: Mapping[str, Any], attacks: Mapping[str, Any]
) -> dict[str, Any]:
    """The recipe of one method under one profile."""
    settings = {key: value for key, value in own.items() if key not in ("profiles", "against")}
    if "teacher" in settings:
        settings["teacher"] = f"{settings['teacher']}-{profile}"
    schedule = {"schedule": base["schedule"]} if "schedule" in base else {}
    return _merged(schedule | dict(attacks), settings)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """base under changes; tables in both are merged, one level deep."""
    merged = dict(base) | dict(changes)
    for key in base.keys() & changes.keys():
        if isinstance(base[key], dict) and isinstance(changes[key], dict):
            merged[key] = base[key] | changes[key]
    return merged


def _pop(table: dict[str, Any], key: str, where: str, known: Iterable[str]) -> Any:
    if key not in table:
        raise UserError(f"{where} has no {key!r}; name one: {', '.join(sorted(known))}")
    return table.pop(key)
