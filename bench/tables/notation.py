"""How a number is written: percent, decimals, and the signs behind it."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

import pandas as pd

from bench.ground.stats import LEVEL

SICK = "(!)"  # behind a number of a network whose training went wrong
ABOVE, BELOW = "+", "-"  # of a row against the baseline
TIED = "="  # behind a number that cannot be told apart from the best of its column
FINE = 1000  # images from which two decimals mean something: one image is 0.1 points or less


def percent(share: float, n: int) -> str:
    """0.8314, 450 -> "83.1"; two decimals from 1000 images on."""
    return f"{100 * share:.{2 if n >= FINE else 1}f}"


def audit_words(line: Mapping[Any, Any]) -> list[str]:
    """ "(audit: at most -0.31, 81 % saved)": how much lower a dearer attack would make it at most, in points, and the
    share of its passes that were saved; [] where an attack has no audit. line: of `cells.table`.
    """
    audit = line["audit"]
    if audit is None:
        return []
    if isnan(audit.below):
        return ["(not audited)"]
    return [f"(audit: at most -{100 * audit.below:.2f}, {100 * max(0.0, audit.saved):.0f} % saved)"]


def proven_words(line: Mapping[Any, Any]) -> list[str]:
    """ "(proven 45.0, open 38.1)" beside the accuracy under an attack, in percent; that bounds say nothing where they
    prove no image; [] where there is no certificate. line: of `cells.table`.
    """
    if line["proven"] is None:
        return []
    n, found = int(line["n"]), line["proven"]
    if not found.proven:
        return ["(bounds say nothing)"]
    return [f"(proven {percent(found.proven, n)}, open {percent(found.open, n)})"]


def signs(line: Mapping[Any, Any]) -> list[str]:
    """Those behind the number of a cell. line: of `cells.table`."""
    found = [SICK] if line["health"] else []
    if line["p_baseline"] <= 1 - LEVEL:
        found.append(ABOVE if line["difference"] > 0 else BELOW)
    if line["best"] and not pd.isna(line["p_best"]):
        found.append(TIED)
    return found
