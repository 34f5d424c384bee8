"""The contract tests, for what comes from outside as for ours: a plugin of pytest, and the laws that it runs.

    python -m pytest -p bench.contracts --pyargs bench.contracts --attack my_package.attacks:MyAttack

--attack, --trainer, --model and --dataset take what TOML takes: module:name, the name that an installed package has for
it, one of ours; of an attack or a recipe also the name of settings, of ours or in --recipes FILE.
"""

from __future__ import annotations

from pathlib import Path

import pytest

KINDS = ("attack", "trainer", "model", "dataset")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that name what is tested."""
    group = parser.getgroup("bench", "contracts of robustness-bench")
    for kind in KINDS:
        group.addoption(f"--{kind}", action="append", default=[], metavar="NAME", help=f"a {kind} to test")
    group.addoption("--recipes", type=Path, metavar="FILE", help="settings of attacks and recipes, as for bench run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each law and each thing that was named."""
    if "bench_subject" not in metafunc.fixturenames:
        return
    from bench.contracts.given import cases

    config = metafunc.config
    named = {kind: config.getoption(f"--{kind}") for kind in KINDS}
    if not any(named.values()):
        raise pytest.UsageError(f"name what is to be tested with {', '.join(f'--{kind}' for kind in KINDS)}")
    found = cases(named, config.getoption("--recipes"))
    metafunc.parametrize(
        ("bench_law", "bench_subject"), [(one.law, one.subject) for one in found], ids=[one.name for one in found]
    )
