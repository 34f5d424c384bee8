"""Options that several commands share, and how their text is read. Raises UserError for text that does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bench.commands import completing
from bench.ground.config import UserError, number
from bench.ground.terminal import warn
from bench.ledger.folder import Results

SIDE = 1 << 14  # pixels
RESULTS = click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    show_default=True,
    is_eager=True,  # what the shell completes depends on it
    help="Folder of plans, runs, evals, diagnoses and tables.",
)


def filled_of(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """The text; an empty one, such as of a shell variable that is not set, is no choice."""
    if text is not None and not text.strip():
        raise UserError(f"{parameter.opts[0]} is empty; give a name, or leave it out")
    return text


def columns_of(context: click.Context, parameter: click.Parameter, text: str | None) -> dict[str, str]:
    """ "image=pixels,label=fine" -> {"image": "pixels", "label": "fine"}."""
    pairs = [part.partition("=") for part in (text or "").split(",") if part.strip()]
    found = {key.strip(): name.strip() for key, _, name in pairs}
    if not found.keys() <= {"image", "label"} or not all(found.values()) or (text is not None and not found):
        raise UserError(f"--columns {text!r} is not of the form image=NAME,label=NAME (one of them may be left out)")
    return found


DATASET = click.option(
    "--dataset",
    callback=filled_of,
    shell_complete=completing.of(completing.datasets),
    help="Data set: a name of `bench list datasets`, or a path (docs/data.md).",
)
COLUMNS = click.option(
    "--columns",
    callback=columns_of,
    metavar="image=NAME,label=NAME",
    help="Which columns or arrays of a path are meant.",
)
SIZE = click.option(
    "--size", type=click.IntRange(1, SIDE), help="Resize images of a path: their shorter side, in pixels (bilinear)."
)
CROP = click.option("--crop", type=click.IntRange(1, SIDE), help="Then cut out the middle square of so many pixels.")
CLASSES = click.option(
    "--classes", type=click.IntRange(2), help="How many classes a path has, if its labels do not show all."
)
DATA = (DATASET, COLUMNS, SIZE, CROP, CLASSES)


def reading_of(given: dict[str, Any]) -> Any:
    """What the options behind --dataset ask for; they are taken out of `given`."""
    from bench.subjects.own_data import Reading

    columns = given.pop("columns")
    return Reading(
        columns.get("image"), columns.get("label"), *(given.pop(name) for name in ("size", "crop", "classes"))
    )


ARCH = click.option(
    "--arch",
    callback=filled_of,
    shell_complete=completing.of(completing.archs),
    help="Architecture; see `bench list models`.",
)
PROFILE = click.option(
    "--profile",
    callback=filled_of,
    help="Recipes of the table, where it has several that fit; see `bench list tables`.",
)
DEVICE = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ... or auto.")
DATA_DIR = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="BENCH_DATA",
    help="Where data sets lie  [env: BENCH_DATA].",
)
RECIPES = click.option(
    "--recipes",
    type=click.Path(path_type=Path),
    help="TOML file of your own: [recipes.*], [methods.*], [profiles.*], [schedules.*], [attacks.*], [suites.*].",
)
SET = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    shell_complete=completing.of(completing.settings),
    help="Change a setting of a recipe or attack, e.g. pgd-100-digits.steps=50 or '*-digits.schedule.epochs=3'.",
)
IMAGES = click.option("--images", type=click.IntRange(min=1), help="Use N test images: the first ones (docs/data.md).")
BATCH = click.option("--batch-size", type=click.IntRange(min=1), help="Images per pass (no result depends on it).")
PRECISION = click.option(
    "--gradient-precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Precision of attack gradients; verdicts are always float32.",
)

COMPILE = click.option(
    "--compile",
    type=click.Choice(["off", "auto"]),
    default="off",
    show_default=True,
    help="auto: compile the passes of long attacks (`bench tune` says whether that pays).",
)
DRAWS = click.option(
    "--draws",
    type=click.IntRange(min=1),
    metavar="N",
    help="Ask a model that answers at random N times, in every pass of an attack and for every verdict; 1: a single "
    "draw, which is else refused.",
)


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several click options as one decorator, in the order written."""

    def decorate(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def seeds_of(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """ "0,1,2" -> (0, 1, 2)."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--seeds {text!r} is not a list of whole numbers; write for example --seeds 0,1,2") from None


def number_of(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """ "8/255" -> 0.03137..."""
    return None if text is None else number(text)


def numbers_of(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """ "0.49,0.48,0.45" -> (0.49, 0.48, 0.45)."""
    return None if text is None else tuple(number(part) for part in text.split(","))


MEAN = click.option(
    "--mean",
    callback=numbers_of,
    help="Normalisation of a weights file, e.g. 0.49,0.48,0.45 or 125.3/255,123/255,113.9/255.",
)
STD = click.option("--std", callback=numbers_of, help="See --mean.")
NORMALIZATION = click.option(
    "--normalization",
    callback=filled_of,
    metavar="NAME",
    help="In place of --mean and --std: imagenet, cifar10, cifar100, mnist; none: also not what the model itself says.",
)


def range_of(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, float] | None:
    """ "255" -> (0, 255), "-1,1" -> (-1, 1)."""
    from bench.subjects.normalization import read_range

    return None if text is None else read_range(text)


RANGE = click.option(
    "--range",
    "input_range",
    callback=range_of,
    metavar="HIGH|LOW,HIGH",
    help="What the model expects in place of [0, 1], in which --mean and --std are then given: 255, or -1,1.",
)
WEIGHTS = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="File of weights for a MODEL that is a name (torchvision:NAME, timm:NAME, ...) or a module:factory.",
)
LABELS = click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="File that says which of the model's classes are the data set's: a line for each, the number of its logit.",
)
WEIGHTS_KEY = click.option(
    "--weights-key",
    callback=filled_of,
    metavar="KEY",
    help="Where the weights lie in a file with several networks, e.g. state_dict_ema; a wrong one lists what is there.",
)
EPS = click.option(
    "--eps",
    callback=number_of,
    help="Radius, e.g. 8/255 or 0.5 (Linf: a bare 8 is refused); steps that no --set gives scale with it.",
)
NORM = click.option("--norm", help="Linf, L2 or L1.")
SEED = click.option("--seed", type=int, default=0, show_default=True, help="Seed of the attack's noise.")
INDICES = click.option("--indices", type=click.Path(path_type=Path), help="File with test image numbers, one a line.")
KEEP = click.option("--keep-adversarial", is_flag=True, help="Keep the images that fool, beside their record.")
AUDIT = click.option(
    "--audit",
    type=click.IntRange(min=0),
    metavar="N",
    help="Try AutoAttack on N images that strong leaves standing (its default 300), 0 for none.",
)
FORMAT = click.option("--format", "style", default="text", show_default=True, type=click.Choice(["text", "json"]))
QUIET = click.option("--quiet", is_flag=True, help="Say nothing but errors and the result.")
JSON = click.option(
    "--json", is_flag=True, help="Each event as a JSON object on a line of standard output (docs/progress.md)."
)
TENSORBOARD = click.option(
    "--tensorboard",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the curves of trainings there (needs the extra tensorboard).",
)
PROGRESS = (QUIET, JSON, TENSORBOARD)
SEEDS = click.option("--seeds", callback=seeds_of, metavar="0,1,...", help="Training seeds.")


def choice_of(model: str, given: dict[str, Any]) -> Any:
    """The model and the images that a command names; their options are taken out of `given`."""
    from dataclasses import fields

    from bench.subjects.chosen import Choice

    if "columns" in given:
        given["reading"] = reading_of(given)
    about = {field.name: given.pop(field.name) for field in fields(Choice) if field.name in given}
    return Choice(model, **about | {"results": Results(about["results"])})


def progress_of(given: dict[str, Any]) -> Any:
    """Who listens to what a command says while it runs; their options are taken out of `given`."""
    from bench.ground.progress import Progress

    return Progress(**{name: given.pop(name) for name in ("quiet", "json", "tensorboard")})


def run_options_of(given: dict[str, Any]) -> Any:
    """What a command may change about a table or a run."""
    from bench.running.table import Options

    reading = reading_of(given)
    return Options(**arranged_of(given) | {"reading": reading, "results": Results(given["results"])})


def arranged_of(given: dict[str, Any]) -> dict[str, Any]:
    """The options that say how a network is run for attacks, as the one value that they are."""
    from dataclasses import fields

    from bench.subjects.quick import Arrangement

    about = {field.name: given.pop(field.name) for field in fields(Arrangement) if field.name in given}
    return {**given, "arrangement": Arrangement(**about)}


def complain(sentence: str, code: int = 2) -> int:
    """Say on standard error what is wrong -> the exit code."""
    warn(sentence)
    return code
