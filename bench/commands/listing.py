"""`bench list`: what there is, one line each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.ground.packages import Kind
    from bench.subjects.catalog import Recipe
    from trainers.contract import Trainer

ADDRESS = re.compile(r"https?://[^\s,;)]*[^\s,;.:)]")


def tables(results: Path) -> list[str]:
    """Name, title and profiles of every table."""
    from bench.ledger.spec import list_specs, load_spec

    def line(name: str) -> str:
        spec = load_spec(name)
        return f"{name:12} {spec.title} ({', '.join(one.profile for one in spec.settings)})"

    return [*(line(name) for name in list_specs()), *_outside("table", list_specs(), line)]


def recipes(results: Path) -> list[str]:
    """Name, method and length of every recipe."""
    from bench.subjects.catalog import Catalog

    catalog = Catalog()
    built = [catalog.recipe(name) for name in catalog.recipe_tables]
    return [
        f"{recipe.name:18} {recipe.trainer_name:8} {recipe.schedule.epochs} epochs, batches of "
        f"{recipe.schedule.batch_size}, {recipe.trainer.members} network(s)"
        for recipe in built
    ]


def attacks(results: Path) -> list[str]:
    """Name, implementation, budget and source of every attack setting, then the suites."""
    from attacks import ATTACKS
    from bench.ledger.budgets import budget
    from bench.subjects import outside
    from bench.subjects.catalog import Catalog

    catalog = Catalog()
    lines = []
    for name in catalog.attack_tables:
        attack, resolved = catalog.attack(name)
        maker = "" if type(attack).__module__.startswith("attacks.adapters.") else "own "
        made_by = maker + ":".join([resolved["attack"], *filter(None, [resolved["settings"].get("name")])])
        kind = "closest, read at " if attack is not None and attack.closest else ""
        source = _source(inspect.getmodule(type(attack)))
        lines.append(f"{name:26} {made_by:32} {kind + budget(resolved):52} {source}")
    for name, suite in catalog.suites.items():
        note = f" ({suite.note})" if suite.note else ""
        lines.append(f"{name:26} {'worst case of':32} {', '.join(suite.parts)}{note}")

    def line(name: str) -> str:
        return f"{name:26} {_first_line(outside.attack(name).thing)}"

    return [*lines, *_outside("attack", ATTACKS, line)]


def trainers(results: Path) -> list[str]:
    """Every training method and where it comes from."""
    from bench.subjects import outside
    from trainers import TRAINERS

    def line(name: str) -> str:
        return f"{name:12} {_first_line(outside.trainer(name).thing)}"

    lines = [f"{name:12} {_source(inspect.getmodule(trainer))}" for name, trainer in TRAINERS.items()]
    return [*lines, *_outside("trainer", TRAINERS, line)]


def table1(results: Path) -> list[str]:
    """Table 1 of MAT (arXiv:2112.05005v1) for every recipe of the digits profile that distils, network by network."""
    from bench.subjects.catalog import Catalog

    catalog = Catalog()
    built = [catalog.recipe(name) for name in catalog.recipe_tables if name.endswith("-digits")]
    lines = [line for recipe in built for line in _distils(recipe)]
    return [f"{'recipe':28} {'teachers':16} {'student':8} {'distillation':13} several norms", *lines]


def _distils(recipe: Recipe) -> list[str]:
    """A line for each network that has a teacher: peers of its cohort or its own average (online), or a frozen one
    (offline).

    The networks of an ensemble know nothing of each other.
    """
    from trainers.contract import average_of, is_ensemble, perturbations

    trainer, frozen, lines = recipe.trainer, recipe.teacher, []
    for n in range(trainer.members):
        teachers = set() if is_ensemble(trainer) else {_kind(trainer, m) for m in range(trainer.members) if m != n}
        teachers |= {_kind(frozen.recipe.trainer, frozen.member)} if frozen else set()
        teachers |= {_kind(trainer, n)} if average_of(trainer) else set()
        if teachers:
            name = recipe.name.removesuffix("-digits") + (f" h{n + 1}" if trainer.members > 1 else "")
            several = len({inner.norm for inner in perturbations(trainer, n)}) > 1
            form = "offline" if frozen else "online"
            who = " and ".join(sorted(teachers))
            lines.append(f"{name:28} {who:16} {_kind(trainer, n):8} {form:13} {'yes' if several else 'no'}")
    return lines


def _kind(trainer: Trainer, n: int) -> str:
    from trainers.contract import perturbations

    return "robust" if perturbations(trainer, n) else "natural"


def datasets(results: Path) -> list[str]:
    """Every data set."""
    from bench.subjects import outside
    from bench.subjects.standard import DATASETS

    def line(name: str) -> str:
        return f"{name:18} {_first_line(outside.find('dataset', name, DATASETS, 'datasets').thing)}"

    return [*DATASETS, *_outside("dataset", DATASETS, line)]


def models(results: Path) -> list[str]:
    """Every architecture."""
    from bench.subjects import outside
    from bench.subjects.models import MODELS

    def line(name: str) -> str:
        return f"{name:18} {_first_line(outside.find('model', name, MODELS, 'models').thing)}"

    others = {
        "torchvision:NAME": "an image classifier of torchvision",
        "timm:NAME": "one of timm (an extra)",
        "module:factory": "your own; its code runs",
    }
    lines = [f"{name:18} {_first_line(factory)}" for name, factory in MODELS.items()]
    return [*lines, *_outside("model", MODELS, line), *(f"{name:18} {words}" for name, words in others.items())]


def _outside(kind: Kind, ours: Collection[str], line: Callable[[str], str]) -> list[str]:
    """A line for each thing that an installed package brings, and from which; of a broken one the reason."""
    from bench.ground import packages
    from bench.ground.config import UserError

    lines = []
    for name, (entry, *others) in sorted(packages.entries(kind).items()):
        try:
            if name in ours:
                raise UserError(f"the suite has one of that name; theirs is {entry.value}")
            lines.append(f"{line(name)} ({entry.origin})")
        except UserError as error:
            of = " and ".join(one.origin for one in (entry, *others))
            lines.append(f"{name:12} ({of}) cannot be used by its name: {error}")
    return lines


def runs(results: Path) -> list[str]:
    """Every registered network, with its accuracies on validation images and what is wrong with it. A record that
    cannot be read has its reason for a line.
    """
    from bench.ground.config import UserError
    from bench.ledger.folder import Results
    from bench.ledger.runs import list_runs, read_run

    folder, lines = Results(results), []
    for run_id in list_runs(folder):
        try:
            run = read_run(folder, run_id)
        except UserError as error:
            lines.append(f"{run_id}  {error}")
            continue
        shares = ", ".join(f"{name} {100 * value:.1f}%" for name, value in run.validation.items())
        lines.append("; ".join([f"{run_id}  validation {shares}", *run.health]))
    return lines or [f"no runs in {results}"]


def _source(module: object) -> str:
    """What a module is by its first line, and the addresses in its text where that line has none."""
    line = _first_line(module)
    found = [] if ADDRESS.search(line) else ADDRESS.findall(inspect.getdoc(module) or "")
    return " ".join([line, *dict.fromkeys(found)])


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").split("\n")[0]


LISTS: dict[str, Callable[[Path], list[str]]] = {
    "tables": tables,
    "recipes": recipes,
    "attacks": attacks,
    "trainers": trainers,
    "table1": table1,
    "datasets": datasets,
    "models": models,
    "runs": runs,
}
