"""import bench loads nothing; every name it promises is there, also for mypy and editors."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import bench

ROOT = Path(__file__).parents[2]


def test_importing_it_loads_nothing():
    code = (
        "import bench, sys; sys.exit(bool({'torch', 'numpy', 'pandas', 'bench.api', 'bench.ground'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_mistake_can_be_named_without_torch():
    code = "import bench, sys; bench.UserError; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_what_type_checkers_see_is_what_there_is():
    tree = ast.parse((ROOT / "bench" / "__init__.py").read_text())
    branch = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in branch.body for alias in node.names}
    assert seen == bench._WHERE and sorted(seen) == bench.__all__ and set(seen) <= set(dir(bench))
    for name, module in seen.items():
        assert getattr(bench, name).__module__ == module
    assert (ROOT / "bench" / "py.typed").exists()


def test_every_public_function_says_shapes_errors_and_an_example():
    for name in ("evaluate", "attack", "diagnose", "run", "train", "table", "load"):
        said = inspect.getdoc(getattr(bench, name))
        assert "Raises UserError" in said and f"bench.{name}(" in said, name


def test_the_page_has_every_function_and_every_part_of_a_result():
    page = (ROOT / "docs" / "python.md").read_text()
    parts = {name for name, value in vars(bench.Result).items() if isinstance(value, property)}
    assert {"clean", "robust", "fallen", "trust"} <= parts
    for name in (*(name for name in bench.__all__ if name.islower()), *parts, "adversarial", "images", "attacks"):
        assert f"`{name}" in page, name


def test_a_name_that_is_not_there_is_no_module():
    with pytest.raises(AttributeError, match=r"no attribute 'evalaute'; it has .*evaluate"):
        _ = bench.evalaute
