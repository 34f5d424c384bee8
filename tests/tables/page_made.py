"""A results folder with everything that a page can show, from hand-made records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from hand_made import MADE_BY, frame, of_cell, plan_2x2, run_record, with_distances

from bench.ground.provenance import Cost
from bench.ledger import adversarial
from bench.ledger.diagnoses import DiagnosisRecord, Finding, trust_of, write_diagnosis
from bench.ledger.evals import write_eval
from bench.ledger.folder import Results
from bench.ledger.histories import Epoch, HistoryRecord, write_history
from bench.ledger.plan import Plan, write_plan
from bench.ledger.runs import write_run
from bench.ledger.spec import Column
from bench.tables.cells import table

IMAGES = 8
MORE = [Column("L2 0.1", "ddn", at=0.1), Column("L2 0.5", "ddn", at=0.5)]
MORE += [Column("FGSM", "fgsm"), Column("Worst", union=("C&W", "FGSM"))]
CLEAN = {"AT": [1] * 8, "MAT_h2": [1, 1, 1, 1, 1, 1, 1, 0]}
CW = {"AT": [1, 1, 1, 0, 0, 0, 1, 1], "MAT_h2": [1, 1, 1, 1, 0, 0, 1, 0]}
FGSM = {"AT": [1, 1, 1, 1, 0, 0, 0, 1], "MAT_h2": [1, 1, 1, 1, 1, 1, 1, 0]}
NEEDED = {"AT": [0.05, 0.2, 0.6, 0, 1, 1, 1, 1], "MAT_h2": [0.3, 0.3, 0.3, 0.3, 0, 1, 1, 1]}
DELTA = 0.03


def make(root: Path, seeds: tuple[int, ...] = (0,)) -> tuple[Plan, Results, pd.DataFrame]:
    """Two networks, clean, under two attacks, their union, and at two radii; images of AT kept, MAT_h2 diagnosed."""
    plan, results = planned(seeds), Results(root)
    verdicts = {(row, column): of_it[row] for column, of_it in _columns().items() for row in plan.rows}
    for cell in plan.cells:
        write_run(results, run_record(cell.run_id))
        if cell.at is not None:
            record = with_distances(cell.run_id, cell.eval_id, NEEDED[cell.row])
            write_eval(results, replace(record, settings={"steps": 100}))
            continue
        images = frame(verdicts[cell.row, cell.column], CLEAN[cell.row])
        record = of_cell(plan, cell, images)
        if (cell.row, cell.column) == ("AT", "C&W"):
            record = replace(record, adversarial_sha256=_kept(results, cell.run_id, cell.eval_id, images))
        write_eval(results, record)
    _diagnosed(results, next(cell.run_id for cell in plan.cells if cell.row == "MAT_h2"))
    for training_id in {cell.training_id for cell in plan.cells}:
        epochs = [Epoch(n, 1 / n, 0.1, [0.9, 0.8], [0.2 * n, 0.1 * n], [0.3, 0.4], 1.0) for n in (1, 2, 3)]
        write_history(results, HistoryRecord(training_id, epochs))
    write_plan(results, plan)
    return plan, results, table(plan, results)


def planned(seeds: tuple[int, ...] = (0,)) -> Plan:
    attacks = {
        name: {"attack": name, "version": 1, "settings": {"threat": {"norm": norm, "eps": eps}, "steps": 100}}
        for name, norm, eps in (("cw", "Linf", 8 / 255), ("fgsm", "Linf", 8 / 255), ("ddn", "L2", 0.5))
    }
    return plan_2x2(seeds=seeds, images=IMAGES, more=MORE, attacks=attacks)


def _columns() -> dict[str, dict[str, list[int]]]:
    return {"Clean": CLEAN, "C&W": CW, "FGSM": FGSM}


def _kept(results: Results, run_id: str, eval_id: str, images: pd.DataFrame) -> str:
    x = np.full((len(images), 1, 4, 4), 0.5, np.float32)
    x_adv = x + DELTA * np.where(np.arange(16).reshape(4, 4) % 2, 1, -1).astype(np.float32)
    return adversarial.keep(results, run_id, eval_id, images, x_adv.astype(np.float32), x)


def _diagnosed(results: Results, run_id: str) -> None:
    findings = [Finding("square", "warn", "10 % fewer", "try harder"), Finding("logits", "pass", "fine", "nothing")]
    record = DiagnosisRecord(
        run_id,
        "Linf",
        8 / 255,
        {},
        0,
        "dots",
        "w",
        "img",
        100,
        None,
        findings,
        trust_of(findings),
        Cost(1.0, 1, 1),
        MADE_BY,
    )
    write_diagnosis(results, record)
