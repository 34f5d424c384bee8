"""The record of a cell, or why there is none: missing, failed, or of something else than what was planned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from bench.ledger.budgets import radius
from bench.ledger.errors import read_error
from bench.ledger.evals import CORRUPTIONS, EvalRecord, judge_at, read_eval
from bench.ledger.folder import Results, Source
from bench.ledger.named import is_corruption
from bench.ledger.plan import Cell, Plan
from bench.ledger.runs import RunRecord, read_run

OK, MISSING, STALE, ERROR = WORST = ("ok", "missing", "stale", "error")


class Found(NamedTuple):
    """One seed of a cell: its record, or why there is none. health: run id -> what is wrong with that network; and the
    signs of the record, see `EvalHead.signs`.
    """

    state: str
    reason: str
    run_id: str
    record: EvalRecord | None = None
    health: Mapping[str, str] = {}


def find(plan: Plan, cell: Cell, results: Results) -> Found:
    """The record of one cell and seed, judged at the cell's radius. Raises UserError for a broken record."""
    where = f"{cell.row} / {cell.column}, seed {cell.seed}"

    def lacking(state: str, reason: str) -> Found:
        return Found(state, f"{where}: {reason}", cell.run_id)

    for run_id in cell.networks:
        if not results.run(run_id).exists():
            if failed := read_error(results, run_id, None):
                return lacking(ERROR, failed.reason)
            return lacking(MISSING, f"there is no trained network {run_id}")
    if not results.eval(cell.run_id, cell.eval_id).exists():
        if failed := read_error(results, cell.run_id, cell.eval_id):
            return lacking(ERROR, failed.reason)
        return lacking(MISSING, f"there is no record {cell.eval_id} of {cell.run_id}")
    record = read_eval(results, cell.run_id, cell.eval_id)
    runs = {run_id: read_run(results, run_id) for run_id in cell.networks}
    if problem := _stale(plan, cell, record, runs):
        return lacking(STALE, problem)
    health = {run_id: _sick(run) for run_id, run in runs.items() if run.health}
    if record.signs:
        health[f"{cell.run_id} under {cell.attack}"] = "; ".join(record.signs)
    return Found(OK, "", cell.run_id, record if cell.at is None else judge_at(record, cell.at), health)


def _sick(run: RunRecord) -> str:
    """What is wrong with a network, and which epoch of its training it is of."""
    return f"{run.checkpoint} epoch {run.epoch}, {'; '.join(run.health)}"


def _stale(plan: Plan, cell: Cell, record: EvalRecord, runs: Mapping[str, RunRecord]) -> str | None:
    """Why a record is not the cell's, or None."""
    if record.weights_sha256 != runs[cell.run_id].weights_sha256:
        return f"the record is of other weights than {cell.run_id} has now"
    if cell.source_run_id is not None:
        source = runs[cell.source_run_id]
        if record.source != Source(source.run_id, source.weights_sha256):
            return f"the record was crafted on other weights than {cell.source_run_id} has now"
    chosen_with = runs[cell.run_id].validation_sha256
    if plan.validation_sha256 and chosen_with and chosen_with != plan.validation_sha256:
        return "its checkpoint was chosen with other images than the validation images"
    if other := _attacked_otherwise(plan.attacks[cell.attack], record):
        return f"the record is of an attack with {other}"
    if record.images_sha256 != plan.images_sha256:
        return "the record is of other images than the plan's"
    if len(record.images) != plan.images:
        return f"the record has {len(record.images)} images, the plan {plan.images}"
    return None


def _attacked_otherwise(attack: Mapping[str, Any], record: EvalRecord) -> str | None:
    """Where a record's settings or radius are not those of the plan's attack, in words."""
    settings = attack["settings"]
    for key in settings.keys() & record.settings.keys():
        if settings[key] != record.settings[key]:
            return f"{key} {record.settings[key]}, the plan's has {settings[key]}"
    threat = settings.get("threat", {})
    if is_corruption(attack):
        threat = {"norm": CORRUPTIONS, "eps": float(settings["severity"])}
    if threat and (record.norm, record.eps) != (threat["norm"], threat["eps"]):
        return f"{record.norm} {radius(record.eps)}, the plan's has {threat['norm']} {radius(threat['eps'])}"
    return None
