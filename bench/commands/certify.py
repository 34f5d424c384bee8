"""`bench certify`: bounds from below, beside what attacks say from above."""

from __future__ import annotations

from typing import Any

import click

from bench.commands.options import (
    ARCH,
    DATA,
    DATA_DIR,
    DEVICE,
    EPS,
    IMAGES,
    INDICES,
    LABELS,
    MEAN,
    NORM,
    NORMALIZATION,
    RANGE,
    RESULTS,
    SEED,
    STD,
    WEIGHTS,
    WEIGHTS_KEY,
    choice_of,
    number_of,
    options,
)
from bench.ground.config import UserError
from bench.ground.terminal import tell


@click.command("certify")
@click.argument("model")
@options(*DATA, ARCH, IMAGES, DEVICE, DATA_DIR, RESULTS, EPS, NORM, SEED, INDICES)
@options(MEAN, STD, NORMALIZATION, RANGE, LABELS, WEIGHTS, WEIGHTS_KEY)
@click.option(
    "--budget",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Parts of the ball that branch and bound may look at, for each image that bounds leave open; 0: none.",
)
@click.option(
    "--smoothing",
    "sigma",
    callback=number_of,
    metavar="SIGMA",
    help="Certify in L2 the classifier that MODEL is under Gaussian noise of this deviation, by vote.",
)
@click.option("--draws", type=click.IntRange(min=1), default=1000, show_default=True, help="Votes of --smoothing.")
def certify(model: str, budget: int, sigma: float | None, draws: int, **given: Any) -> int:
    """Prove which images no attack can break: MODEL's robust accuracy is at least that.

    MODEL as in `bench attack`; --norm Linf (the default) or L2, by --smoothing always L2. Attack records of the same
    weights bound it from above. Takes all test images unless told otherwise.

    \b
    Example:
      bench certify RUN_ID --eps 2/255 --images 100
    """
    from bench.bounds.branching import Budget
    from bench.bounds.certify import Effort, certify_model
    from bench.bounds.smoothing import Smoothing

    eps, norm, seed = given.pop("eps"), given.pop("norm"), given.pop("seed")
    if eps is None:
        raise UserError("say at which radius, as in --eps 2/255")
    smoothing = None if sigma is None else Smoothing(sigma, draws)
    norm = norm or ("L2" if smoothing else "Linf")
    effort = Effort(budget=Budget(domains=budget))
    for line in certify_model(choice_of(model, given), eps, norm, seed, smoothing=smoothing, effort=effort):
        tell(line)
    return 0
