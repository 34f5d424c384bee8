"""A function fits a screen: at most 40 lines and 8 arguments, but for those listed here with their reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES, ARGUMENTS = 40, 8
LONGER = {
    "attacks/pointwise.py::put_back": "one search over the values of an image; its state would be passed around",
    "trainers/loop.py::fit": "the one training loop, read from top to bottom",
    "bench/diagnosis/diagnose.py::diagnose_model": "the stages of a diagnosis in their order",
    "bench/judge/evaluate.py::evaluate": "the judge's steps in their order, a fifth of it what it promises",
    "bench/judge/union.py::evaluate_union": "as evaluate, for several attacks",
    "bench/ledger/planning.py::make": "one call that names every field of a Plan",
    "bench/running/table.py::Table.__init__": "what a table's names stand for, resolved in an order that matters",
    "bench/running/train.py::Training._run": "one training from its data to its records",
}
MORE_ARGUMENTS = {
    "attacks/apgd.py::_climb": "the state of one step of APGD, whose parts are tensors of different images",
    "trainers/loop.py::fit": "what a training is made of, and what a caller may watch of it",
    "bench/diagnosis/evidence.py::Witness.__init__": "a network, images and how they are attacked",
    "bench/judge/evaluate.py::evaluate": "a network, an attack, images and how they are run, for a user to call",
    "bench/judge/evaluate.py::craft": "as evaluate, on the network that images are made on",
    "bench/judge/union.py::evaluate_union": "as evaluate, for several attacks",
    "bench/judge/verify.py::verify": "which record, how much of it, and where it is replayed",
}


def functions(node: ast.AST, within: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method below a node, by the names on the way to it."""
    for child in ast.iter_child_nodes(node):
        name = within
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{within}.{child.name}".lstrip(".")
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, child
        yield from functions(child, name)


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def arguments_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    return sum(argument.arg not in ("self", "cls") for argument in every)


def every_function() -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    files = [path for room in ("attacks", "trainers", "bench") for path in sorted((ROOT / room).rglob("*.py"))]
    return {
        f"{path.relative_to(ROOT)}::{name}": one
        for path in files
        for name, one in functions(ast.parse(path.read_text()))
    }


@pytest.mark.parametrize(
    ("measure", "most", "excused"), [(lines_of, LINES, LONGER), (arguments_of, ARGUMENTS, MORE_ARGUMENTS)]
)
def test_functions_fit_a_screen_or_are_listed_with_the_reason(measure, most: int, excused: dict[str, str]):
    found = {name: measure(one) for name, one in every_function().items()}
    assert len(found) > 500, "the tree was read"
    beyond = {name: size for name, size in found.items() if size > most}
    assert not beyond.keys() - excused.keys(), f"more than {most}: cut it, or list it with the reason: {beyond}"
    assert not excused.keys() - beyond.keys(), f"no longer so, take it off the list: {excused.keys() - beyond.keys()}"
    assert all(reason.strip() for reason in excused.values())


def test_the_measures_see_every_kind_of_argument_and_function():
    code = "class A:\n  def f(self, a, /, b, *c, d, **e):\n    async def g(): pass\n    return\nasync def h():\n  x"
    found = {name: (lines_of(one), arguments_of(one)) for name, one in functions(ast.parse(code))}
    assert found == {"A.f": (3, 5), "A.f.g": (1, 0), "h": (2, 0)}
