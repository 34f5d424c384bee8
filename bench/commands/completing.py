"""What a shell completes: names, read from files without torch, so that the Tab key does not wait for it.

Names that are keys of a dict in a module that needs torch are read from the module's text; a test compares them.
"""

from __future__ import annotations

import ast
import os
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

ROOT = Path(__file__).parents[2]
VARIABLE = "_BENCH_COMPLETE"  # where the shell says that it asks
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def asked() -> bool:
    """Whether it is the shell that runs the command, for names or for its script."""
    return VARIABLE in os.environ


def tables(results: Path) -> list[str]:
    """Tables that come with the package."""
    from bench.ledger.spec import list_specs

    return list_specs()


def planned(results: Path) -> list[str]:
    """Tables that were run."""
    from bench.ledger.folder import Results
    from bench.ledger.plan import list_plans

    return list_plans(Results(results))


def runs(results: Path) -> list[str]:
    """Run ids of the folder of results."""
    from bench.ledger.folder import Results
    from bench.ledger.runs import list_runs

    return list_runs(Results(results))


def recipes(results: Path) -> list[str]:
    """Recipes: those with a table of their own, and METHOD-PROFILE as in `bench.subjects.catalog`."""
    tables = _toml("trainers/recipes.toml")
    return [*tables["recipes"], *(name for name in _composed(tables) if name not in tables["recipes"])]


def attacks(results: Path) -> list[str]:
    """Attacks, suites and "clean"."""
    from bench.ledger.named import with_corruptions

    tables = with_corruptions(_toml("attacks/suite.toml"))
    return ["clean", *(name for name in tables if name != "suites"), *tables["suites"]]


def trainers(results: Path) -> list[str]:
    """Training methods."""
    return _keys("trainers/__init__.py", "TRAINERS")


def archs(results: Path) -> list[str]:
    """Architectures."""
    return _keys("bench/subjects/models.py", "MODELS")


def datasets(results: Path) -> list[str]:
    """Data sets."""
    return _keys("bench/subjects/standard.py", "DATASETS")


def lists(results: Path) -> list[str]:
    """What `bench list` lists."""
    return _keys("bench/commands/listing.py", "LISTS")


def settings(results: Path) -> list[str]:
    """What --set begins with: a recipe or an attack, and a point."""
    return [f"{name}." for name in [*recipes(results), *attacks(results)] if name != "clean"]


def of(*sources: Callable[[Path], Iterable[str]]) -> Complete:
    """A click `shell_complete` of the names in `sources`, which are asked with the folder of --results."""

    def complete(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        results = Path(context.params.get("results") or "results")
        names = dict.fromkeys(name for source in sources for name in source(results) if name.startswith(begun))
        return [CompletionItem(name) for name in names]

    return complete


def _composed(tables: dict[str, Any]) -> Iterable[str]:
    """METHOD-PROFILE where the profile has the attacks that the method trains against."""
    for method, own in tables["methods"].items():
        for profile, said in tables["profiles"].items():
            like = said.get("like", profile)
            base, against = tables["profiles"][like] | said, own.get("against")
            norms = [inner.get("norm", "Linf") for inner in base.get("inners", [])]
            wanted = against if isinstance(against, list) else [against]
            fits = "inner" in base if against is None else bool(norms) if against == "all" else {*wanted} <= {*norms}
            if fits and like in own.get("profiles", [like]):
                yield f"{method}-{profile}"


def _toml(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


def _keys(path: str, name: str) -> list[str]:
    """The keys of the dict called `name` in a file of ours, unless they are computed."""
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        value = getattr(node, "value", None)
        if any(isinstance(one, ast.Name) and one.id == name for one in targets) and isinstance(value, ast.Dict):
            return [str(key.value) for key in value.keys if isinstance(key, ast.Constant)]
    raise AssertionError(f"{path} has no dict {name}")
