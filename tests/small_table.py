"""A table of two methods that takes seconds, and what its results come to."""

from __future__ import annotations

import re
from pathlib import Path

from bench.ledger.evals import read_eval
from bench.ledger.folder import Results
from bench.ledger.runs import list_runs, read_run

TABLE = """
title = "Small"
source = "no paper"
reference = ""
rows = [{ label = "AT", method = "at" }, { label = "Natural", method = "natural" }]
columns = [
  { label = "Clean", attack = "clean" },
  { label = "FGSM", attack = "fgsm" },
  { label = "PGD", attack = "pgd-20" },
]

[[settings]]
profile = "digits"
arch = "cnn-small"
dataset = "digits"
datasets = ["digits"]
archs = ["*"]
images = 30
"""
SMALL = ["--set", "*-digits.schedule.epochs=2", "--set", "at-digits.inner.steps=2"]


def content(results: Path) -> dict[str, str]:
    """What results are about: weights and verdicts, without times. Nothing else may be left over."""
    left = [path for path in results.rglob("*") if path.suffix in (".part", ".lock", ".pt") or path.name == "lock"]
    assert not left
    folder = Results(results)
    found = {run_id: read_run(folder, run_id).weights_sha256 for run_id in list_runs(folder)}
    for path in (results / "evals").glob("*/*.parquet"):
        found[f"{path.parent.name}/{path.stem}"] = read_eval(folder, path.parent.name, path.stem).images.to_csv()
    return found


def done(output: str) -> list[int]:
    """[trained, attacked, kept]."""
    match = re.search(r"trained (\d+), attacked (\d+), kept (\d+)", output)
    assert match, output
    return [int(word) for word in match.groups()]
