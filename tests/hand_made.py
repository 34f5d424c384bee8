"""Hand-made plans and records for the tests of the right side of the wall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from bench.ground.provenance import Cost, Provenance, TrainingCost
from bench.ledger.certificates import CertificateRecord
from bench.ledger.evals import EvalRecord, write_eval
from bench.ledger.folder import Results
from bench.ledger.ids import training_of
from bench.ledger.plan import Cell, Plan
from bench.ledger.planning import Data, Meaning, make
from bench.ledger.runs import RunRecord, write_run
from bench.ledger.spec import Column, Row, Setting, TableSpec

MADE_BY = Provenance("c0ffee", False, {"torch": "2.10"}, "3.11", "cpu", 2, "2026-01-01T00:00:00+00:00", "bench run")
SETTING = Setting("tiny", "cnn", "dots", ("dots",), ("*",), (0,), None, "5 % of the paper's radius.")


def spec_2x2(*more: Column) -> TableSpec:
    """Two networks, no attack and one attack, with names that need escapes, and more columns."""
    rows = [Row("AT", "at"), Row("MAT_h2", "mat", member=1)]
    columns = [Column("Clean", "clean"), Column("C&W", "cw"), *more]
    return TableSpec("Robustness of A & B", "a paper, Table 1", "mat.csv:2", rows, columns, [SETTING])


def plan_2x2(
    seeds: tuple[int, ...] = (0,), images: int = 4, eps: float = 8 / 255, more: Sequence[Column] = (), **changes: object
) -> Plan:
    """The plan of `spec_2x2` with more columns; eps and changes go into its identities."""
    about: dict = {"table": "tiny", "arch": "cnn", "seeds": seeds, "spec": spec_2x2(*more), "setting": SETTING}
    data: dict = {"dataset": "dots", "train_sha256": "train", "images": images, "images_sha256": "img"}
    data |= {"validation_sha256": None}
    threat = {"norm": "Linf", "eps": eps}
    meaning: dict = {
        "recipes": {
            "at": {"trainer": "at", "version": 1, "settings": {"schedule": {"epochs": 3}}},
            "mat": {"trainer": "mat", "version": 1, "settings": {"schedule": {"epochs": 3}}},
        },
        "members": {"at": 1, "mat": 2},
        "attacks": {
            "cw": {"attack": "cw", "version": 1, "settings": {"threat": threat, "steps": 100, "step": 0.003}},
            "ddn": {"attack": "ddn", "version": 1, "settings": {"threat": {"norm": "L2", "eps": 0.5}, "steps": 100}},
        },
        "options": {"gradient_precision": "float32"},
    }
    for name, value in changes.items():
        next(part for part in (data, meaning, about) if name in part)[name] = value
    return make(data=Data(**data), meaning=Meaning(**meaning), **about)


def renamed(plan: Plan, row: str, label: str) -> Plan:
    """The plan with another label for a row."""
    cells = [replace(cell, row=label) if cell.row == row else cell for cell in plan.cells]
    return replace(plan, rows=[label if one == row else one for one in plan.rows], cells=cells)


def frame(robust: Sequence[bool], clean: Sequence[bool] | None = None) -> pd.DataFrame:
    """A per-image table: labels 3; robust [n]; clean [n], all right unless given."""
    clean = [True] * len(robust) if clean is None else clean
    n = len(robust)
    columns = {
        "image": range(n),
        "label": [3] * n,
        "clean_prediction": [3 if c else 5 for c in clean],
        "adversarial_prediction": [3 if r else 7 for r in robust],
        "robust": [bool(r and c) for r, c in zip(robust, clean, strict=True)],
    }
    columns |= {"linf": [0.03] * n} | {norm: [0.5] * n for norm in ("l2", "l1", "l0")}
    return pd.DataFrame(columns | {"forward_passes": [2] * n, "backward_passes": [1] * n})


def run_record(run_id: str, weights: str = "w", health: Sequence[str] = ()) -> RunRecord:
    """A trained network."""
    label = run_id.rpartition(".")[2]
    return RunRecord(
        run_id=run_id,
        training_id=training_of(run_id),
        trainer="at",
        recipe="at-tiny",
        settings={"steps": 10, "threat": {"eps": 8 / 255}},
        dataset="dots",
        images_sha256="train",
        arch="cnn",
        image_shape=[1, 8, 8],
        classes=10,
        seed=0,
        member=0,
        checkpoint="best",
        epoch=3,
        validation={"robust_accuracy": 0.5},
        weights_sha256=weights,
        weights_file=f"{label}.safetensors",
        health=list(health),
        cost=TrainingCost(1.5, 100, 100, 200.0, 1 << 28),
        provenance=MADE_BY,
    )


def eval_record(
    run_id: str, eval_id: str, images: pd.DataFrame, weights: str = "w", images_sha256: str = "img"
) -> EvalRecord:
    """An attacked network."""
    return EvalRecord(
        run_id=run_id,
        eval_id=eval_id,
        attack="cw",
        settings={"steps": 100},
        norm="Linf",
        eps=8 / 255,
        seed=0,
        dataset="dots",
        weights_sha256=weights,
        images_sha256=images_sha256,
        cost=Cost(0.5, 20, 10),
        provenance=MADE_BY,
        images=images,
    )


def proof(run_id: str, proven: set[int], sigma: float | None = None, **changes) -> CertificateRecord:
    """A certificate at 8/255 of the four images of a plan; sigma: of smoothing; changes: of the record."""
    verdicts = ["proven" if image in proven else "open" for image in range(4)]
    made = CertificateRecord(
        run_id=run_id,
        certificate_id=f"proof-{sorted(proven)}-{sigma}".translate(dict.fromkeys(map(ord, "[], "), "_")).replace(
            ".", "_"
        ),
        method="bounds" if sigma is None else "smoothing",
        settings={"slopes": 20} if sigma is None else {"sigma": sigma},
        norm="Linf",
        eps=8 / 255,
        seed=0,
        dataset="dots",
        weights_sha256="w",
        images_sha256="img",
        images=[0, 1, 2, 3],
        labels=[3] * 4,
        verdicts=verdicts,
        by=["linear bounds"] * 4,
        figures=[1.0] * 4,
        domains=[0] * 4,
        cost=Cost(0.5, 0, 0),
        provenance=MADE_BY,
    )
    return replace(made, **changes)


def with_distances(run_id: str, eval_id: str, needed: Sequence[float]) -> EvalRecord:
    """A network under a minimal-norm attack in L2 of radius 0.5. needed [n]: the distance at which an image was
    fooled; 0 the first time is never, and from then on wrong without an attack and far from the original.
    """
    zeros = [number for number, length in enumerate(needed) if length == 0]
    clean = [number not in zeros[1:] for number in range(len(needed))]
    fooled = [length > 0 or not right for length, right in zip(needed, clean, strict=True)]
    far = [length if right else 9.0 for right, length in zip(clean, needed, strict=True)]
    images = frame([not one for one in fooled], clean).assign(l2=far)
    robust = [right and (not bad or length > 0.5) for right, bad, length in zip(clean, fooled, needed, strict=True)]
    return replace(eval_record(run_id, eval_id, images.assign(robust=robust)), attack="ddn", norm="L2", eps=0.5)


def of_cell(plan: Plan, cell: Cell, images: pd.DataFrame) -> EvalRecord:
    """The record of a cell, in the threat model of its attack."""
    threat = plan.attacks[cell.attack]["settings"].get("threat", {})
    return replace(eval_record(cell.run_id, cell.eval_id, images), **threat)


def fill(plan: Plan, results: Results, verdicts: dict[tuple[str, str], Sequence[bool]]) -> None:
    """Writes the records of the cells (row, column) that are in `verdicts`, the same for every seed."""
    for cell in plan.cells:
        write_run(results, run_record(cell.run_id))
        if (cell.row, cell.column) in verdicts:
            images = frame(verdicts[cell.row, cell.column])
            write_eval(results, of_cell(plan, cell, images))
