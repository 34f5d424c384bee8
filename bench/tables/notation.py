"""How a number is written: percent, decimals, and the signs behind it."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

import pandas as pd

from bench.ground.stats import LEVEL
from bench.ledger.named import PUBLISHED, is_corruption
from bench.ledger.plan import Plan
from bench.ledger.spec import CLEAN

SICK = "(!)"  # behind a number of a network whose training went wrong
ABOVE, BELOW = "+", "-"  # of a row against the baseline
TIED = "="  # behind a number that cannot be told apart from the best of its column
FINE = 1000  # images from which two decimals mean something: one image is 0.1 points or less


def percent(share: float, n: int) -> str:
    """0.8314, 450 -> "83.1"; two decimals from 1000 images on."""
    return f"{100 * share:.{2 if n >= FINE else 1}f}"


def counting(plan: Plan) -> str:
    """When an image counts, in words."""
    of_attack = "an image counts if it is right without and with the attack"
    corrupted = {cell.column for cell in plan.cells if is_corruption(plan.attacks[cell.attack])}
    if not corrupted:
        return of_attack
    of_corruption = "under a corruption an image counts if it is right corrupted, whether or not it is right clean"
    attacked = {cell.column for cell in plan.cells if plan.attacks[cell.attack]["attack"] != CLEAN}
    return of_corruption if attacked <= corrupted else f"{of_attack}; {of_corruption}"


def corrupted(plan: Plan) -> list[str]:
    """Where the images under corruptions come from, where there are any."""
    found = [attack["settings"] for attack in plan.attacks.values() if is_corruption(attack)]
    read = sorted({one["name"] for one in found if PUBLISHED in one})
    made = sorted({one["name"] for one in found if PUBLISHED not in one})
    words = ["read from the published files" + (f" ({', '.join(read)})" if made else "")] if read else []
    words += (
        [
            "made here from the published constants, close to the published files and not equal"
            + (f" ({', '.join(made)})" if read else "")
        ]
        if made
        else []
    )
    return [f"Corrupted images: {'; '.join(words)}."] if words else []


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
