"""`bench calibrate`: at which radius an attack leaves how much."""

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
    BATCH,
    COMPILE,
    DATA,
    DATA_DIR,
    DEVICE,
    FORMAT,
    IMAGES,
    INDICES,
    LABELS,
    MEAN,
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
    number_of,
    options,
)
from bench.ground.config import settings_of
from bench.ground.terminal import tell


@click.command()
@click.argument("model", shell_complete=completing.of(completing.runs))
@click.argument(
    "attacks", nargs=-1, required=True, metavar="ATTACK ...", shell_complete=completing.of(completing.attacks)
)
@click.option("--to", callback=number_of, required=True, metavar="ACCURACY", help="A share of the images, e.g. 0.5.")
@click.option(
    "--rounds",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Rounds of bisection: 5 end within 2.2 %.",
)
@click.option("--most", callback=number_of, metavar="EPS", help="Try no larger radius than this one.")
@options(*DATA, ARCH, IMAGES, DEVICE, DATA_DIR, RESULTS, RECIPES, SET, BATCH, PRECISION, COMPILE)
@options(SEED, INDICES, MEAN, STD, NORMALIZATION, RANGE, LABELS, WEIGHTS, WEIGHTS_KEY)
@FORMAT
def calibrate(model: str, attacks: tuple[str, ...], style: str, to: float, **given: Any) -> int:
    """Find the radius at which MODEL falls to --to under each ATTACK, by bisection; writes no record.

    MODEL and ATTACK as in `bench attack`; steps scale with the radius. Takes 100 test images unless told otherwise. It
    starts at the attack's own radius, and finds one place where accuracy crosses: attacks need not grow stronger
    steadily. Exit code 1 where an attack has no such radius.

    \b
    Example:
      bench calibrate RUN_ID fog-digits --to 0.5
    """
    from bench.judge.evaluate import AttackError
    from bench.running.attack import How
    from bench.running.calibrate import calibrate_model

    try:
        choice, search = choice_of(model, given), {name: given.pop(name) for name in ("rounds", "most")}
        with redirect_stdout(sys.stderr):  # a model's own code may print
            how, say = How(**arranged_of(given)), partial(tell, err=True)
            found = calibrate_model(choice, attacks, how, to, say=say, **search)
    except AttackError as error:
        return complain(f"no number: {error}", code=1)
    tell("\n".join(found.lines) if style == "text" else json.dumps(settings_of(found), indent=1))
    return 1 if any(one.found.eps is None for one in found.attacks) else 0
