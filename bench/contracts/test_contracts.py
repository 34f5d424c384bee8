"""What pytest collects: every law on everything that was named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_contract(bench_law: Callable[[Any], None], bench_subject: Any) -> None:
    """The law holds; where not, the last line says which promise is broken and what to do."""
    bench_law(bench_subject)
