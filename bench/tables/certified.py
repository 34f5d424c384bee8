"""What certificates say in a table: the share proven, as a column of its own or below an attack's number.

An attack says how robust a network is at most, a proof how robust it is at least; between the two it is open. A proof
counts that is of the same weights, images, norm and radius; of several, an image is proven that one of them proves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.ground.stats import over_seeds
from bench.ledger.budgets import radius
from bench.ledger.certificates import BOUNDS, SMOOTHING, CertificateRecord, Contradiction, read_certificates
from bench.ledger.evals import EvalRecord
from bench.ledger.find import MISSING, OK
from bench.ledger.folder import Results
from bench.ledger.plan import Certified, Plan
from bench.ledger.runs import read_run
from bench.tables.compare import Robust

NOTHING = "proves nothing"  # the state of a cell: bounds that prove no image are no finding, and no number


class Bracket(NamedTuple):
    """Of one attack's number. proven, open: shares in [0, 1], means over the seeds; told: words for each seed."""

    proven: float
    open: float
    told: list[str]


def beside(plan: Plan, seeds: Sequence[Sequence[EvalRecord]], results: Results) -> Bracket | None:
    """What is proven of the networks behind a number; None where that is not known of all of them.

    seeds: for each seed the records that the number is the worst case of. Raises Contradiction for an image that is
    proven and broken, UserError for a broken record.
    """
    shares, left, told = [], [], []
    for records in seeds:
        one, threats = records[0], {(record.norm, record.eps) for record in records}
        found = _certificates(plan, one.run_id, one.weights_sha256, *threats.pop(), None, results)
        if threats or not found:
            return None
        proven = set().union(*(record.of("proven") for record in found))
        broken = set().union(*(set(record.images.loc[~record.images["robust"], "image"]) for record in records))
        if both := sorted(proven & broken):
            raise Contradiction(
                f"image {both[0]}{f' and {len(both) - 1} more' if both[1:] else ''} of {one.run_id} is proven by "
                f"{found[0].certificate_id} and broken by {', '.join(record.eval_id for record in records)} within "
                f"{one.norm} {one.eps:g}: one of the two is wrong, which is a bug; use no number of either, and report "
                "it"
            )
        n = len(one.images)
        shares.append(len(proven) / n)
        left.append((n - len(proven) - len(broken)) / n)
        told.append(f"{len(proven)} of {n} proven, {len(broken)} broken, {n - len(proven) - len(broken)} open")
    return Bracket(float(np.mean(shares)), float(np.mean(left)), told)


def line(plan: Plan, row: str, column: str, results: Results) -> tuple[dict[str, Any], Robust | None]:
    """One cell of a column `certified`, as `bench.tables.cells` makes those of attacks: the share of images that are
    proven. Without a number where a certificate is missing, and where the certificates prove nothing at all.
    """
    how = plan.proofs[column]
    runs = [cell.run_id for cell in plan.cells if (cell.row, cell.column) == (row, how.column)]
    found = [_of_run(plan, run_id, how, results) for run_id in runs]
    about: dict[str, Any] = {
        "table": plan.name, "row": row, "column": column, "seeds": len(plan.seeds), "health": {},
        "run_ids": ";".join(dict.fromkeys(runs)),
    }  # fmt: skip
    if without := [run_id for run_id, records in zip(runs, found, strict=True) if not records]:
        asked = f" --smoothing {how.sigma:g}" if how.sigma is not None else f" --norm {how.norm}"
        command = f"bench certify {without[0]}{asked} --eps {radius(how.eps)} --images {plan.images}"
        return about | {"state": MISSING, "error": f"{row} / {column}: no certificate; make it with `{command}`"}, None
    flags = np.array([_proven(records) for records in found])
    if not flags.any():
        what = "smoothing" if how.sigma is not None else "these bounds"
        error = (
            f"{row} / {column}: {what} proved no image within {how.norm} {radius(how.eps)}, which says nothing about "
        )
        return about | {"state": NOTHING, "error": f"{error}how robust it is"}, None
    value, spread = over_seeds(flags)
    number = {"n": value.n, "accuracy": value.value, "low": value.low, "high": value.high, "seed_spread": spread}
    return about | number | {"state": OK, "error": None}, Robust(np.array(sorted(found[0][0].images)), flags[..., None])


def _of_run(plan: Plan, run_id: str, how: Certified, results: Results) -> list[CertificateRecord]:
    """The certificates of a network that count; none where it is not there."""
    if not results.run(run_id).exists():
        return []
    weights = read_run(results, run_id).weights_sha256
    return _certificates(plan, run_id, weights, how.norm, how.eps, how.sigma, results)


def _certificates(
    plan: Plan, run_id: str, weights_sha256: str, norm: str, eps: float, sigma: float | None, results: Results
) -> list[CertificateRecord]:
    """Of these weights, on the table's images, within that radius: of bounds, or of smoothing with sigma."""
    method = BOUNDS if sigma is None else SMOOTHING
    wanted = (method, sigma, weights_sha256, plan.dataset, plan.images_sha256, norm, eps)
    return [
        one
        for one in read_certificates(results, run_id)
        if (
            one.method, one.settings.get("sigma"), one.weights_sha256, one.dataset, one.images_sha256, one.norm, one.eps
        ) == wanted
    ]  # fmt: skip


def _proven(records: Sequence[CertificateRecord]) -> list[bool]:
    """In the order of the images' numbers, whether one of the certificates proves it."""
    proven = set().union(*(record.of("proven") for record in records))
    return [image in proven for image in sorted(records[0].images)]
