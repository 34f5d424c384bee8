"""What each row of a table cost: passes and seconds of its training and of its attacks, and the machines it ran on.

Passes are what compares methods: they are counted in images and do not hang on the machine. Seconds do, so the machines
stand beside them; nothing is taken off for what else ran there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isnan, nan
from typing import Any

import pandas as pd

from bench.ground.config import choose
from bench.ground.provenance import Cost, Provenance
from bench.ground.spreadsheet import to_csv
from bench.ground.terminal import visible
from bench.ledger.find import MISSING, OK, Found, find
from bench.ledger.folder import Results
from bench.ledger.plan import Plan
from bench.ledger.runs import RunRecord, read_run

KINDS = ("training", "attack")
COUNTS = ("forward_passes", "backward_passes", "seconds")
COLUMNS = ["table", "row", "seeds", *(f"{kind}_{count}" for kind in KINDS for count in COUNTS), "machines"]


def costs(plan: Plan, results: Results) -> pd.DataFrame:
    """A line for each row, the columns of COLUMNS: means over its seeds; passes in images, wall time in seconds.

    training: of the whole cohort, and of the teachers that it learned from. attack: of every record of the row, each
    once, as far as it was run: an image leaves an attack when it falls. NaN where a network or a record is missing.
    machines: "device, N threads" of them all. Raises UserError for a broken record.
    """
    lines = []
    for row in plan.rows:
        found = [find(plan, cell, results) for cell in plan.cells if cell.row == row]
        trainings = _trainings(found, results)
        spent: dict[str, Mapping[Any, Cost]] = {
            "training": {one.training_id: one.cost for one in trainings},
            "attack": {(one.run_id, one.record.eval_id): one.record.cost for one in found if one.record},
        }
        whole = all(one.state == OK for one in found)
        means = {
            f"{kind}_{count}": sum(getattr(cost, count) for cost in spent[kind].values()) / len(plan.seeds)
            if whole
            else nan
            for kind in KINDS
            for count in COUNTS
        }
        made = [one.provenance for one in trainings] + [one.record.provenance for one in found if one.record]
        lines.append({"table": plan.name, "row": row, "seeds": len(plan.seeds), "machines": _machines(made)} | means)
    return pd.DataFrame(lines, columns=COLUMNS)


def _trainings(found: Iterable[Found], results: Results) -> list[RunRecord]:
    """Every training behind these cells, one record of each, and those of the teachers."""
    wanted, there = [one.run_id for one in found if one.record], dict[str, RunRecord]()
    while wanted:
        record = read_run(results, wanted.pop())
        if record.training_id not in there:
            there[record.training_id] = record
            wanted += [record.teacher.run_id] if record.teacher else []
    return list(there.values())


def _machines(made: Iterable[Provenance]) -> str:
    """Such as "cpu, 2 threads; NVIDIA H100, 16 threads"."""
    return "; ".join(sorted({f"{one.device}, {one.threads} thread{'s' * (one.threads != 1)}" for one in made}))


def render(plan: Plan, frame: pd.DataFrame, style: str) -> str:
    """`costs` in one of FORMATS: passes in millions of images, and notes. Raises UserError for another format."""
    if choose(style, FORMATS, "format") == "csv":
        return to_csv(frame, float_format="%.4f")
    columns = {"Network": list(frame["row"])}
    for kind in KINDS:
        passes = frame[f"{kind}_forward_passes"] + frame[f"{kind}_backward_passes"]
        columns |= {
            f"{kind.capitalize()}, 10^6 passes": [_number(count / 1e6, ".3f") for count in passes],
            f"{kind.capitalize()}, s": [_number(seconds, ".1f") for seconds in frame[f"{kind}_seconds"]],
        }
    wide = pd.DataFrame(columns | {"Machine": list(frame["machines"])})
    align = ["left", *["right"] * 4, "left"]
    body = wide.to_markdown(index=False, tablefmt=FORMATS[style], disable_numparse=True, colalign=align)
    means = f"means over {len(plan.seeds)} seeds" if len(plan.seeds) > 1 else f"seed {plan.seeds[0]}"
    notes = (
        f"Cost of {plan.name}, {means}. Passes, forward and backward, are counted in images; seconds are wall time, "
        "with whatever else ran on the machine. A training is that of the whole cohort and of the teachers it learned "
        "from, also where several rows share it; an attack is all of the row's, as far as it was run."
    )
    return visible(f"{plan.title}\n\n{body}\n\n{notes}")


FORMATS = {"markdown": "pipe", "text": "simple", "latex": "latex_booktabs", "html": "html", "csv": "csv"}


def _number(value: float, spec: str) -> str:
    return MISSING if isnan(value) else format(value, spec)
