"""`bench run` and `bench train`: what makes networks and numbers."""

from __future__ import annotations

from typing import Any

import click

from bench.commands import completing
from bench.commands.options import (
    ARCH,
    BATCH,
    COMPILE,
    DATA,
    DATA_DIR,
    DEVICE,
    IMAGES,
    KEEP,
    PRECISION,
    PROFILE,
    PROGRESS,
    RECIPES,
    RESULTS,
    SEEDS,
    SET,
    complain,
    options,
    progress_of,
    run_options_of,
)
from bench.ground.config import UserError
from bench.ground.terminal import tell


@click.command()
@click.argument("table", shell_complete=completing.of(completing.tables))
@options(*DATA, ARCH, PROFILE, IMAGES, SEEDS, DEVICE, DATA_DIR, RESULTS, RECIPES, SET, BATCH, PRECISION, COMPILE, KEEP)
@options(*PROGRESS)
@click.option("--fast", is_flag=True, help="Leave out the columns that take longest; the title says which.")
@click.option(
    "--also",
    multiple=True,
    metavar="ATTACK",
    shell_complete=completing.of(completing.attacks),
    help="Add a column of this attack, such as strong; the title says so. Several times for several.",
)
@click.option("--last", is_flag=True, help="Judge the networks of the last epoch, not those of the best.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Processes that share the work and the cores; by default one for each core if a CPU trains a small network.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be trained and attacked.")
def run(table: str, dry_run: bool, jobs: int | None, **given: Any) -> int:
    """Fill TABLE, a name of `bench list tables` or a TOML file: train and attack what is missing, then print it.

    \b
    Example:
      bench run table2
      bench run table2 --dataset cifar10 --arch resnet18 --data-dir DATA
    """
    from bench.api.filling import filled
    from bench.running.jobs import fitting
    from bench.running.table import Table
    from bench.tables import report

    in_words, progress, options = not given["json"], progress_of(given), run_options_of(given)
    if dry_run:
        if not in_words:
            raise UserError("--json says what is done, and with --dry-run nothing is; leave one of them out")
        planned = Table(table, options)
        tell("\n".join(planned.describe(jobs or fitting(planned))))
        return 0
    with progress:
        done = filled(table, options, jobs, progress)
    summary = done.summary
    if in_words:
        tell(report.render(done.plan, done.frame, "text"))
        tell(f"\ntrained {summary.trained}, attacked {summary.attacked}, kept {summary.kept}; wrote {done.path}")
        for picture in done.pictures:
            tell(f"wrote {picture}")
    for failure in done.failures:
        tell(f"error: {failure}", err=True)
    return 1 if done.failures else 0


@click.command()
@click.argument("recipe", shell_complete=completing.of(completing.recipes))
@options(*DATA, ARCH, SEEDS, DEVICE, DATA_DIR, RESULTS, RECIPES, SET, *PROGRESS)
def train(recipe: str, **given: Any) -> int:
    """Train RECIPE and register its networks; prints their run ids.

    A recipe that does not end in -digits needs --dataset. --arch is by default cnn-small for digits, cnn-a for
    recipes in -quick, wrn-34-10 for those in -paper-wrn, and resnet18 for others.

    \b
    Example:
      bench train trades-digits --seeds 0,1
    """
    from bench.running.recipe import train_recipe
    from trainers.health import TrainingError

    in_words, progress = not given["json"], progress_of(given)
    try:
        with progress:
            run_ids = train_recipe(recipe, run_options_of(given), progress)
    except TrainingError as error:
        return complain(f"training {recipe} failed: {error}", code=1)
    if in_words:
        tell("\n".join(run_ids))
    return 0
