"""`bench export` and `bench import`: networks that leave, and networks that come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.commands import completing
from bench.commands.options import (
    ARCH,
    DATA,
    DATA_DIR,
    LABELS,
    MEAN,
    NORMALIZATION,
    RANGE,
    RESULTS,
    STD,
    WEIGHTS,
    WEIGHTS_KEY,
    choice_of,
    options,
)
from bench.ground.terminal import tell
from bench.ledger.folder import Results


@click.command("export")
@click.argument("run", metavar="RUN", shell_complete=completing.of(completing.runs))
@click.option(
    "--format",
    "form",
    default="safetensors",
    show_default=True,
    type=click.Choice(["safetensors", "robustbench", "huggingface", "torch-export"]),
)
@click.option("--out", type=click.Path(path_type=Path), help="A new folder; by default RUN-FORMAT.")
@click.option("--name", default="", metavar="[THREAT/]NAME", help="Name in RobustBench's layout; by default the run's.")
@options(ARCH, RESULTS)
def export_(run: str, form: str, out: Path | None, name: str, arch: str | None, results: Path) -> int:
    """Write the network RUN as files that others load, with a model card made from its records.

    --arch module:factory says that a network of your own may run its code.

    \b
    Example:
      bench export RUN_ID --format robustbench --name Standard
    """
    from bench.running.export import export

    tell("\n".join(export(Results(results), run, form, out, arch, name)))
    return 0


@click.command("import")
@click.argument("model", metavar="FILE")
@options(*DATA, ARCH, DATA_DIR, RESULTS, MEAN, STD, NORMALIZATION, RANGE, LABELS, WEIGHTS, WEIGHTS_KEY)
def import_(model: str, **given: Any) -> int:
    """Register somebody else's network; prints its run id.

    FILE: a weights file with --arch, or another MODEL of `bench attack`.

    \b
    Example:
      bench import Standard.pt --arch wrn-28-10 --dataset cifar10
    """
    from bench.running.imports import import_model

    run_id, lines = import_model(choice_of(model, given))
    tell("\n".join(lines), err=True)
    tell(run_id)
    return 0
