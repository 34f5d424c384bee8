"""One direction of flow: who may import whom, and the wall that torch does not cross."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    "ground", "ledger", "tables", "regression", "subjects", "judge", "bounds", "running", "diagnosis", "api",
    "contracts", "commands",
)  # fmt: skip
RIGHT = ROOMS[:4]  # of the wall: no torch
LEFT = ROOMS[4:9]
THIRD_PARTY_ATTACKS = {"foolbox", "torchattacks", "pyautoattack", "art"}
FILES = [path for room in ("attacks", "trainers", "bench") for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Dotted names of the modules that a file imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_imports_only_what_its_room_allows(path):
    room = path.relative_to(ROOT).parts[0]
    names = imports(path)
    if room == "attacks":
        assert not rooms(names) & {"trainers", "bench"}
    if room == "trainers":
        assert "bench" not in rooms(names)
    if room == "bench":
        _check_room(path, names)
    if "adapters" not in path.parts:
        assert not rooms(names) & THIRD_PARTY_ATTACKS


def _check_room(path: Path, names: set[str]) -> None:
    """A room imports itself and rooms above it in ROOMS; torch stays left of the wall, which looks at no table."""
    inside = path.relative_to(ROOT / "bench").parts[:-1]
    above = set(ROOMS[: ROOMS.index(inside[0]) + 1]) if inside else {"api", "commands", "ground", "judge"}
    ours = {name.split(".")[1] for name in names if name.startswith("bench.")}
    assert ours <= above, f"{path} imports {ours - above}"
    if inside and inside[0] in RIGHT:
        assert not rooms(names) & {"attacks", "trainers", "torch", "torchvision"}
    if inside and inside[0] in LEFT:
        assert not ours & {"tables", "regression"}


def test_bench_is_rooms_and_nothing_else():
    assert {path.name for path in (ROOT / "bench").glob("*.py")} == {"__init__.py", "__main__.py"}
    assert {path.parent.name for path in (ROOT / "bench").glob("*/__init__.py")} == set(ROOMS)
    twice = [path for path in FILES if path.stem in path.parent.parts[-1:]]
    assert not twice, f"{twice}: no path says a word twice"


def test_commands_load_torch_only_when_they_need_it():
    assert not rooms(imports(ROOT / "bench" / "commands" / "cli.py", top_level_only=True)) & {
        "torch",
        "attacks",
        "trainers",
    }


@pytest.mark.parametrize("module", ["bench.commands.cli", *(f"bench.{name}" for name in RIGHT)])
def test_the_right_side_leaves_torch_unloaded(module):
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_only_lists_are_complete():
    """A file with an attack or a method that no list names would never be tested."""
    from attacks import ATTACKS
    from trainers import TRAINERS

    shared = {
        "__init__",
        "contract",
        "target",
        "norms",
        "losses",
        "noise",
        "latent",
        "scale",
        "survivors",
        "closest",
        "decision",
        "regions",
        "distortions",
        "model",
    }
    paths = [path.relative_to(ROOT / "attacks").with_suffix("") for path in (ROOT / "attacks").rglob("*.py")]
    files = {".".join(path.parts) for path in paths if path.name not in shared}
    assert files == {attack.__module__.removeprefix("attacks.") for attack in ATTACKS.values()}
    shared = {
        "__init__",
        "contract",
        "schedule",
        "loop",
        "ema",
        "awp",
        "checkpoint",
        "health",
        "validation",
        "network",
        "passes",
        "rehearsal",
    }
    files = {path.stem for path in (ROOT / "trainers").glob("*.py")} - shared
    assert files == {trainer.__module__.split(".")[1] for trainer in TRAINERS.values()}


def test_the_readmes_tree_names_every_file():
    tree = (ROOT / "README.md").read_text().partition("## The tree")[2].partition("Read first")[0]
    modules = [path for room in ("attacks", "trainers", "bench") for path in (ROOT / room).rglob("*.py")]
    modules += [*(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
    missing = [path.name for path in modules if path.name not in tree and not path.name.startswith("__")]
    assert not missing, f"README.md's tree lacks {missing}"
    named = {word for word in tree.split() if word.endswith((".py", ".toml"))}
    there = {path.name for path in ROOT.rglob("*.*") if ".git" not in path.parts}
    assert named <= there, f"README.md's tree names what is gone: {named - there}"
