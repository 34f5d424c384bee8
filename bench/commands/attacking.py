"""`bench attack`, `bench diagnose` and `bench tune`: one model at a time."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import click

from bench.commands import completing
from bench.commands.options import (
    ARCH,
    AUDIT,
    BATCH,
    COMPILE,
    DATA,
    DATA_DIR,
    DEVICE,
    DRAWS,
    EPS,
    FORMAT,
    IMAGES,
    INDICES,
    KEEP,
    LABELS,
    MEAN,
    NORM,
    NORMALIZATION,
    PRECISION,
    RANGE,
    RECIPES,
    RESULTS,
    SEED,
    SET,
    STD,
    WEIGHTS,
    WEIGHTS_KEY,
    arranged_of,
    choice_of,
    complain,
    options,
)
from bench.ground.config import settings_of
from bench.ground.terminal import tell


@click.command()
@click.argument("model", shell_complete=completing.of(completing.runs))
@click.argument(
    "attacks",
    nargs=-1,
    metavar="[ATTACK ...]",
    shell_complete=completing.of(completing.attacks),
)
@options(*DATA, ARCH, IMAGES, DEVICE, DATA_DIR, RESULTS, RECIPES, SET, BATCH, PRECISION, COMPILE, KEEP)
@options(EPS, NORM, SEED, AUDIT, DRAWS, INDICES, MEAN, STD, NORMALIZATION, RANGE, LABELS, WEIGHTS, WEIGHTS_KEY)
@click.option("--source", metavar="MODEL", help="Craft the attack on this model instead, and judge it on MODEL.")
@FORMAT
def attack(model: str, attacks: tuple[str, ...], style: str, **given: Any) -> int:
    """Attack MODEL with ATTACK and judge every image; of several attacks the worst case counts.

    MODEL: a run id, a weights file (with --arch), module:factory (runs that code), torchvision:NAME, timm:NAME,
    hf:FOLDER or robustbench:DATASET/THREAT/NAME. ATTACK: a name of `bench list attacks`, a suite of them, or "clean".
    Each attack sees what the ones before it left standing.

    Without ATTACK: a verdict on one screen. The suite `standard` of the norm, at the radius of the run's training or
    the usual one of the data set, on 100 test images (--images), and the checks of `bench diagnose` that cost little.

    \b
    Example:
      bench attack RUN_ID pgd-20-digits
      bench attack weights.pt pgd-100 --arch resnet18 --dataset cifar10 --eps 8/255
    """
    from bench.judge.evaluate import AttackError
    from bench.running.attack import How, attack_model

    try:
        choice, how = choice_of(model, given), How(**arranged_of(given))
        on_one_screen = attacks in ((), ("standard",))
        if not on_one_screen and style == "text":
            tell("\n".join(attack_model(choice, attacks, how, say=tell).lines))
            return 0
        from bench.api.evaluating import attacked, verdict

        with redirect_stdout(sys.stderr):  # a model's own code may print
            evaluate = partial(verdict, attacks=("standard",)) if on_one_screen else partial(attacked, attacks=attacks)
            result = evaluate(choice, how=how, say=partial(tell, err=True))
        tell(result if style == "text" else json.dumps(result.as_json(), indent=1))
    except AttackError as error:
        return complain(f"no number: {error}", code=1)
    return 0


@click.command()
@click.argument("model", shell_complete=completing.of(completing.runs))
@options(*DATA, ARCH, IMAGES, DEVICE, DATA_DIR, RESULTS, BATCH, EPS, NORM, SEED, INDICES)
@options(MEAN, STD, NORMALIZATION, RANGE, LABELS, WEIGHTS, WEIGHTS_KEY)
@click.option("--source", metavar="MODEL", help="Craft the transfer attack on this model, not on a substitute.")
@FORMAT
def diagnose(model: str, style: str, **given: Any) -> int:
    """Check whether MODEL's robustness may be believed: named checks for gradient masking, and a verdict.

    MODEL as in `bench attack`, --eps and --norm by default those it was trained with (of several norms the first;
    --norm chooses another). Takes 100 test images unless told otherwise. Exit code 1 when a check fails.

    \b
    Example:
      bench diagnose RUN_ID
    """
    from bench.diagnosis.diagnose import diagnose_model

    with redirect_stdout(sys.stderr):  # a model's own code may print
        record, lines = diagnose_model(choice_of(model, given), **given)
    tell("\n".join(lines) if style == "text" else json.dumps(settings_of(record), indent=1))
    return 1 if any(finding.verdict == "fail" for finding in record.findings) else 0


@click.command()
@click.argument("arch", shell_complete=completing.of(completing.archs))
@click.option(
    "--dataset",
    default="cifar10",
    show_default=True,
    shell_complete=completing.of(completing.datasets),
    help="Whose image size and classes.",
)
@options(DEVICE, BATCH)
@click.option("--again", is_flag=True, help="Measure anew, also what was measured before.")
def tune(arch: str, **given: Any) -> int:
    """Say which way of running ARCH pays here: compiled, in bfloat16, or as it is; measured in some seconds.

    ARCH: a name of `bench list models`, or module:factory. Changes nothing: what it advises are settings.

    \b
    Example:
      bench tune resnet18 --dataset cifar10
    """
    from bench.running.tune import tune as measure

    tell("\n".join(measure(arch, **given)))
    return 0
