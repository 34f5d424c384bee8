"""`bench.train`, `bench.run`, `bench.table`, `bench.load`: networks and tables, in a folder of results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict, Unpack

import pandas as pd
from torch import nn

from bench.api import given
from bench.api.untouched import untouched
from bench.ground.config import UserError, choose
from bench.ground.progress import Progress
from bench.ledger import plan as plans
from bench.ledger.find import OK
from bench.ledger.folder import Results
from bench.ledger.plan import Plan
from bench.ledger.runs import list_runs
from bench.running.jobs import fill
from bench.running.recipe import train_recipe
from bench.running.run import Summary
from bench.running.table import Options
from bench.subjects import registry
from bench.subjects.quick import Arrangement
from bench.tables import cells, figures, report
from trainers.passes import Compile

Folder = str | os.PathLike[str]


class Changes(TypedDict, total=False):
    """What a call may change about a table or a training; each has the name of the command's option.

    settings: {"at-digits.schedule.epochs": 3}, as --set. Others as in `bench run --help`.
    """

    dataset: str
    arch: str
    profile: str
    images: int
    device: str
    data_dir: Folder | None
    recipes: Folder
    settings: Mapping[str, object]
    fast: bool
    also: str | Sequence[str]
    last: bool
    keep_adversarial: bool
    batch_size: int
    gradient_precision: given.Precision
    compile: Compile
    columns: Mapping[str, str]
    size: int
    crop: int
    classes: int


@dataclass(frozen=True)
class Filled:
    """A table that was run: its plan, a line for each cell, where it was written, its pictures, what was done, and a
    sentence for each failure and for the cells without a number.
    """

    plan: Plan
    frame: pd.DataFrame
    path: Path
    pictures: list[Path]
    summary: Summary
    failures: list[str]


def filled(table: str, options: Options, jobs: int | None = None, progress: Progress | None = None) -> Filled:
    """Train and attack what a table lacks, write it and draw its figures. progress: see `fill`. Raises UserError."""
    job, summary = fill(table, options, jobs, progress)
    frame = cells.table(job.plan, job.results)
    path = report.write_table(job.plan, frame, job.results)
    pictures = figures.draw(job.plan, frame, job.results)
    lacking = lacking_of(job.plan, frame)
    refused = f"{len(lacking)} of {len(frame)} cells have no number: {'; '.join(lacking.head(1))}"
    failures = summary.failures or ([refused] if len(lacking) else [])
    if progress is not None:
        progress.wrote += map(str, [path, *pictures])
        progress.failed = bool(failures)
    return Filled(job.plan, frame, path, list(pictures), summary, failures)


def lacking_of(plan: Plan, frame: pd.DataFrame) -> pd.Series:
    """Why cells have no number that a run should have filled: proofs are made by `bench certify`."""
    return frame.loc[(frame["state"] != OK) & ~frame["column"].isin(list(plan.proofs)), "error"]


def run(
    table: str,
    *,
    seeds: Sequence[int] | None = None,
    jobs: int | None = 1,
    results: Folder = "results",
    **changes: Unpack[Changes],
) -> pd.DataFrame:
    """Fill a table as `bench run TABLE` does, and return it as `bench.table` does.

    table: a name of `bench list tables`, or a TOML file. seeds: of the trainings. jobs: processes; None is one for each
    core where a CPU trains a small network, and then a script calls this below `if __name__ == "__main__"`. results:
    the folder of records; what is there already is not made again. A cell that failed has its reason in `error`, and
    NaN for a number. Raises UserError.

        bench.run("table2", images=100)[["row", "column", "accuracy", "low", "high"]]
    """
    if isinstance(seeds, int):
        raise UserError(f"seeds = {seeds}; give a list of whole numbers, such as [0, 1, 2]")
    given.whole("jobs", jobs)
    with untouched():
        return filled(table, _options(seeds, results, dict(changes)), jobs).frame


def train(
    recipe: str,
    *,
    seeds: Sequence[int] = (0,),
    results: Folder = "results",
    **changes: Unpack[Changes],
) -> list[str]:
    """Train a recipe as `bench train RECIPE` does -> the run ids of its networks, of the best and the last epoch.

    recipe: a name of `bench list recipes`; one that does not end in -digits needs dataset=. What is trained already is
    not trained again. Raises UserError, TrainingError where a training failed.

        best, last = bench.train("at-digits", settings={"at-digits.schedule.epochs": 3})
    """
    if isinstance(seeds, int):
        raise UserError(f"seeds = {seeds}; give a list of whole numbers, such as [0, 1, 2]")
    with untouched():
        return train_recipe(recipe, _options(seeds, results, dict(changes)))


def table(name: str, *, results: Folder = "results") -> pd.DataFrame:
    """A table from its records alone, one line for each cell: row, column, n, accuracy, low, high in [0, 1], ...

    name: of a table that was run, "table2" (of every data set that it was run on) or "table2-digits". The columns are
    those of `bench.tables.cells.table`. Raises UserError for one that was not, and for a broken record.

        bench.table("table2-digits").pivot(index="row", columns="column", values="accuracy")
    """
    folder = Results(Path(results))
    return pd.concat([cells.table(plan, folder) for plan in plans.meant((name,), folder)], ignore_index=True)


def load(run_id: str, *, results: Folder = "results", arch: str | None = None) -> nn.Module:
    """The registered network, in evaluation mode on the CPU: images [B, C, H, W] in [0, 1] -> logits [B, K].

    run_id: of `bench list runs`. arch: said for one of the form module:factory, whose code then runs. Raises UserError
    for a run that is not there, and for weights that are not those of its record.

        model = bench.load("at-digits-cnn-small-s0-3f9c2a1b.best")
    """
    folder = Results(Path(results))
    choose(run_id, list_runs(folder), "run", "runs")
    with untouched():
        return registry.load(folder, run_id, () if arch is None else (arch,))[0]


def _options(seeds: Sequence[int] | None, results: Folder, changes: dict[str, Any]) -> Options:
    """Raises UserError for a keyword that nobody knows."""
    known = given.known(changes, Changes)
    about = {name: known.pop(name) for name in list(known) if name not in _OPTIONS}
    also = known.pop("also", ())
    also = (also,) if isinstance(also, str) else also
    if not isinstance(also, (list, tuple)) or not all(isinstance(name, str) for name in also):
        raise UserError(f"also = {also!r}; give the name of an attack, or a list of names")
    run = {field.name: about[field.name] for field in fields(Arrangement) if field.name in about}
    return Options(
        Results(Path(results)),
        seeds=None if seeds is None else tuple(seeds),
        arrangement=Arrangement(**run),
        reading=given.reading_of(about),
        also=tuple(also),
        assignments=given.assignments_of(about.get("settings")),
        **known,
    )


_OPTIONS = {field.name for field in fields(Options)}
