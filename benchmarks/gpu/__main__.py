"""benchmarks/gpu.sh: what fits into one short loan of a device without a network. docs/gpu.md says in which order.

benchmarks/gpu.sh measure --data DATA --out OUT                                       # one table, under nine minutes
benchmarks/gpu.sh train at-paper-short --data DATA --state STATE --seconds 530        # again and again, until finished
benchmarks/gpu.sh pack --data DATA --to LOADS      # and: carry, join
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bench.commands.options import DEVICE, RESULTS, SET
from bench.ground.config import UserError
from bench.ground.terminal import warn
from bench.ledger.folder import Results
from benchmarks.gpu.clock import Clock

FOLDER = click.Path(file_okay=False, path_type=Path)
DATA = click.option("--data", type=FOLDER, envvar="BENCH_DATA", help="Parquet shards; one training shard is enough.")
DATASET = click.option("--dataset", default="cifar10", show_default=True)
SECONDS = click.option("--seconds", type=click.FloatRange(min=1), default=530, show_default=True, help="Of the loan.")


@click.group(help=__doc__.partition("\n")[0], context_settings={"max_content_width": 110})
def app() -> None:
    pass


@app.command()
@click.option("--out", type=FOLDER, required=True, help="Figures are written there as they come.")
@click.option("--size", type=click.Choice(["auto", "full", "small", "tiny"]), default="auto", show_default=True)
@click.option("--only", default="levers,epochs,attacks", show_default=True, help="Sections, beside the ceilings.")
@click.option("--then", metavar="RECIPE", help="Train this in the seconds that are left; needs --state.")
@click.option("--state", type=FOLDER)
@DATA
@SECONDS
@DEVICE
@RESULTS
def measure(out: Path, data: Path | None, seconds: float, size: str, device: str, only: str, **given: Any) -> int:
    """Ceilings, seconds an epoch, levers, attacks; then, if asked, training."""
    from benchmarks.gpu import training
    from benchmarks.gpu.measure import SECTIONS, measure

    sections = tuple(filter(None, only.split(",")))
    if unknown := set(sections) - set(SECTIONS):
        raise UserError(f"--only {min(unknown)!r} is no section; known: {', '.join(SECTIONS)}")
    then, state, results = given["then"], given["state"], Results(given["results"])
    if then and state is None:
        raise UserError("--then trains, which needs a folder for its state: --state")
    clock = Clock(seconds)
    good = measure(out, data, clock, size, device, sections)
    if then:
        training.train(training.Loan(then, state, results, seconds, data=data, device=device), clock)
    return 0 if good else 1


@app.command()
@click.argument("recipe")
@click.option("--state", type=FOLDER, required=True, help="What travels; goes on from there.")
@click.option("--arch", default="resnet18", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--most", type=click.FloatRange(min=0), default=63, show_default=True, help="MiB of the state.")
@click.option("--reserve", type=click.FloatRange(min=0), help="Seconds kept for it; 45, or a quarter of the loan.")
@click.option("--batches", type=click.IntRange(min=0), default=0, help="Stop after so many; 0: when time is up.")
@DATASET
@DATA
@SECONDS
@DEVICE
@RESULTS
@SET
def train(recipe: str, seconds: float, results: Path, most: float, reserve: float | None, **given: Any) -> int:
    """Train RECIPE until it is finished or the loan is over; then the same command goes on."""
    from benchmarks.gpu import training

    kept = min(45.0, seconds / 4) if reserve is None else reserve
    loan = training.Loan(
        recipe, results=Results(results), seconds=seconds, most=int(most * 2**20), reserve=kept, **given
    )
    training.train(loan, Clock(seconds))
    return 0


@app.command()
@click.option("--to", type=FOLDER, required=True, help="Folder of the loads.")
@DATASET
@DATA
def pack(to: Path, dataset: str, data: Path | None) -> int:
    """Cut a data set into loads that travel: a training shard each, with a share of the test images."""
    from benchmarks.gpu import images

    if data is None:
        raise UserError(f"say where {dataset} lies with --data")
    for load in images.pack(dataset, data, to):
        size = sum(path.stat().st_size for path in load.iterdir())
        click.echo(f"{load}: {size / 2**20:.1f} MiB")
    return 0


@app.command()
@click.argument("name", metavar="TRAINING|RUN")
@click.option("--to", type=FOLDER, required=True, help="Folder of the pieces.")
@click.option("--part", type=int, default=1, show_default=True)
@RESULTS
def carry(name: str, to: Path, part: int, results: Path) -> int:
    """Write one part of what was registered, in pieces that travel."""
    from benchmarks.gpu import parcel

    click.echo("\n".join(parcel.carry(Results(results), name, to, part)))
    return 0


@app.command()
@click.argument("folders", nargs=-1, required=True, type=FOLDER)
@RESULTS
def join(folders: tuple[Path, ...], results: Path) -> int:
    """Put what `carry` wrote into a folder of results."""
    from benchmarks.gpu import parcel

    click.echo("\n".join(parcel.join(folders, Results(results))))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: done, or stopped in time; 1: a row failed, or a training broke down; 2: a mistake in the command."""
    from attacks.model import ModelError
    from trainers.health import TrainingError

    try:
        return int(app.main(arguments, prog_name="benchmarks/gpu.sh", standalone_mode=False) or 0)
    except (TrainingError, ModelError) as error:
        warn(str(error))
        return 1
    except UserError as error:
        warn(str(error))
    except click.UsageError as error:
        warn(error.format_message())
    return 2


if __name__ == "__main__":
    sys.exit(main())
