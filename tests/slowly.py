"""Cases of a test that wait for `-m slow`, where a few hold the code to the same promise every day."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow(cases: Iterable[Any]) -> list[Any]:
    """The same cases of `pytest.mark.parametrize`, each marked slow; a tuple is one case of several arguments."""
    return [_marked(one) for one in cases]


def _marked(case: Any) -> Any:
    if isinstance(case, type(pytest.param())):
        return pytest.param(*case.values, id=case.id, marks=[*case.marks, pytest.mark.slow])
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
