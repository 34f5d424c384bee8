"""`bench verify`: verdicts made again from records, and anybody's adversarial images held to a claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bench.commands import completing
from bench.commands.options import (
    ARCH,
    CLASSES,
    COLUMNS,
    CROP,
    DATA_DIR,
    DEVICE,
    EPS,
    INDICES,
    LABELS,
    MEAN,
    NORM,
    NORMALIZATION,
    RANGE,
    RECIPES,
    RESULTS,
    SIZE,
    STD,
    WEIGHTS,
    WEIGHTS_KEY,
    choice_of,
    filled_of,
    number_of,
    options,
)
from bench.ground.config import UserError
from bench.ground.terminal import tell, warn
from bench.ledger.folder import Results

DRAWN = 20  # images of each record
OF_RECORDS = ("whole", "seed", "recipes")  # options that only records have a use for
OF_BOTH = ("images", "dataset", "arch", "device", "data_dir", "results")


@click.command()
@click.argument(
    "name",
    metavar="[RUN|TABLE]",
    required=False,
    shell_complete=completing.of(completing.runs, completing.planned),
)
@click.option("--images", type=click.IntRange(min=1), help=f"So many images of each record, drawn by --seed [{DRAWN}].")
@click.option("--all", "whole", is_flag=True, help="Every image of each record.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draw.")
@click.option("--dataset", metavar="NAME|PATH", help="Where a data set of your own lies; read as the records say.")
@options(ARCH, DEVICE, DATA_DIR, RESULTS, RECIPES)
@click.option("--adversarial", type=click.Path(path_type=Path), help="Judge the adversarial images in this file.")
@click.option("--model", callback=filled_of, help="On this model, as in `bench attack`.")
@click.option("--claim", callback=number_of, metavar="PERCENT", help="The robust accuracy that they are said to leave.")
@options(EPS, NORM, INDICES, COLUMNS, SIZE, CROP, CLASSES)
@options(MEAN, STD, NORMALIZATION, RANGE, LABELS, WEIGHTS, WEIGHTS_KEY)
@click.pass_context
def verify(context: click.Context, name: str | None, adversarial: Path | None, **given: Any) -> int:
    """Make adversarial images again from their records, judge them in float64; exit code 1 on a mismatch.

    Or judge images that somebody else made: --adversarial FILE --model MODEL --norm Linf --eps 8/255 [--claim 56.2], of
    the test images of --dataset in their order, or the first --images of them, or those of --indices. FILE: .npz, .npy,
    .safetensors or .pt, [N, C, H, W] or [N, H, W, C], as bytes or floats in [0, 1]; also what `bench attack
    --keep-adversarial` wrote. Exit code 1 where the claim does not hold. With --results given, a record is written.

    \b
    Example:
      bench verify table2 --images 50
      bench verify --adversarial x_adv.npz --model weights.pt --arch cnn-a --norm Linf --eps 8/255 --claim 56.2
    """
    told = {key for key in given if context.get_parameter_source(key) != ParameterSource.DEFAULT}
    if adversarial is None:
        return _replay(name, told, given)
    if name is not None or told.intersection(OF_RECORDS):
        extra = repr(name) if name is not None else f"--{min(told.intersection(OF_RECORDS)).replace('whole', 'all')}"
        raise UserError(f"--adversarial judges the images of a file, and {extra} is about records; leave one out")
    return _judge(adversarial, "results" in told, given)


def _replay(name: str | None, told: set[str], given: dict[str, Any]) -> int:
    """The records of a run or a table."""
    from bench.judge import verify
    from bench.judge.evaluate import AttackError

    if name is None:
        raise UserError("say what is to be verified: a run, a table, or a file with --adversarial")
    if unused := sorted(told - {*OF_RECORDS, *OF_BOTH}):
        raise UserError(f"--{unused[0].replace('_', '-')} goes with --adversarial; a record knows it itself")
    kept = {key: given[key] for key in ("seed", "dataset", "arch", "device", "data_dir", "recipes")}
    kept["images"] = None if given["whole"] else given["images"] or DRAWN
    folder, wrong, refused = Results(given["results"]), 0, dict[str, int]()
    for run_id, eval_id in verify.records_of(name, folder):
        try:
            found = verify.verify(folder, run_id, eval_id, **kept)
        except AttackError as error:
            refused[f"not verified: {error}"] = 1
        except UserError as error:  # the others may still be replayed
            refused[str(error)] = 2
        else:
            tell("\n".join(found.lines))
            wrong += len(found.mismatches)
    for sentence in refused:
        warn(sentence)
    return 1 if wrong else min(refused.values(), default=0)


def _judge(file: Path, keep: bool, given: dict[str, Any]) -> int:
    """Somebody's images."""
    from bench.judge.evaluate import AttackError
    from bench.running.claim import Claim, judge_claim

    for option in ("model", "norm", "eps"):
        if given[option] is None:
            example = {"model": "--model weights.pt", "norm": "--norm Linf", "eps": "--eps 8/255"}[option]
            raise UserError(f"--adversarial needs --{option}, as in {example}: whose images, and within which ball")
    about = {key: value for key, value in given.items() if key not in OF_RECORDS}
    claim = Claim(file, about.pop("norm"), about.pop("eps"), about.pop("claim"))
    try:
        lines, holds = judge_claim(choice_of(about.pop("model"), about), claim, keep)
    except AttackError as error:
        warn(f"no number: {error}")
        return 1
    tell("\n".join(lines))
    return 0 if holds else 1
