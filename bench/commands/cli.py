"""The commands. torch is imported inside the ones that need it, so `bench report` and `bench check` start fast.

A user's mistake is one sentence and exit code 2; a cell that failed is exit code 1 after the others are done; Ctrl-C
and SIGTERM are one sentence and 130 or 143, and what is done is kept.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from bench.commands import certify, completing, exchange, verifying
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
    PROFILE,
    PROGRESS,
    RANGE,
    RECIPES,
    RESULTS,
    SEED,
    SEEDS,
    SET,
    STD,
    WEIGHTS,
    WEIGHTS_KEY,
    arranged_of,
    choice_of,
    filled_of,
    options,
    progress_of,
    run_options_of,
)
from bench.ground.config import UserError, choose, settings_of
from bench.ground.terminal import tell, warn
from bench.ledger.folder import Results

OUTPUT_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="robustness-bench")
def app() -> None:
    """Trains classifiers adversarially, attacks them, judges every image, and makes the tables."""


@app.command()
@click.argument("table", shell_complete=completing.of(completing.tables))
@options(*DATA, ARCH, PROFILE, IMAGES, SEEDS, DEVICE, DATA_DIR, RESULTS, RECIPES, SET, BATCH, PRECISION, COMPILE, KEEP)
@options(*PROGRESS)
@click.option("--fast", is_flag=True, help="Leave out the columns that take longest; the title says which.")
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


@app.command()
@click.argument("names", nargs=-1, metavar="[TABLE ...]", shell_complete=completing.of(completing.planned))
@click.option(
    "--format",
    "style",
    default="markdown",
    show_default=True,
    type=click.Choice(["markdown", "csv", "latex", "html", "text"]),
)
@click.option(
    "--out",
    callback=filled_of,
    metavar="PATH",
    help="Write to this file instead of the terminal; with --format html a folder (report/) gets one page of all.",
)
@click.option("--baseline", metavar="ROW", help="Test the other rows against this one, not against the table's own.")
@click.option("--no-intervals", "bare", is_flag=True, help="LaTeX without the intervals below the numbers.")
@click.option("--figures", "pictures", is_flag=True, help="Also draw the tables' figures, beside their CSV.")
@RESULTS
def report(
    names: tuple[str, ...], style: str, out: str | None, baseline: str | None, bare: bool, pictures: bool, results: Path
) -> int:
    """Tables from records alone: all that were planned, or the named ones (table2 or table2-digits).

    --format html --out report/ writes report/index.html, a page with charts, pictures and the records behind every
    number, that opens without a network.

    \b
    Example:
      bench report table2 --format latex --out table2.tex
    """
    from bench.ground.files import write_text
    from bench.ledger.plan import meant
    from bench.tables import cells, figures, report

    folder = Results(results)
    plans = [plan if baseline is None else plan.against(baseline) for plan in meant(names, folder)]
    made = [(plan, cells.table(plan, folder)) for plan in plans]
    for plan, frame in made if pictures else []:
        drawn = figures.draw(plan, frame, folder)
        for line in [f"wrote {picture}" for picture in drawn] or [f"{plan.name} has no figure"]:
            tell(line, err=True)
    if style == "html" and out is not None and (out.endswith(("/", os.sep)) or Path(out).is_dir()):
        from bench.tables.page import build

        tell(f"wrote {build.write_page(made, folder, Path(out))}")
        return 0
    text = "\n\n".join(report.render(plan, frame, style, not bare).rstrip("\n") for plan, frame in made)
    if out is None:
        tell(text)
    else:
        if Path(out).exists() and not Path(out).is_file():
            raise UserError(f"--out {out} is no plain file; leave it out, and the tables are printed")
        write_text(Path(out).resolve(), text + "\n")
    return 0


@app.command()
@click.argument("names", nargs=-1, metavar="[TABLE ...]", shell_complete=completing.of(completing.planned))
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="This file, not results/reference/TABLE.csv below the current folder; or a folder of results, whose records "
    "the tables are then held to, image by image.",
)
@click.option("--paper", is_flag=True, help="Only tell how far the paper's numbers lie; exit code 0.")
@click.option("--update", is_flag=True, help="Write today's numbers as the new reference, and tell what changes.")
@click.option(
    "--format",
    "style",
    default="text",
    show_default=True,
    type=click.Choice(["text", "junit", "json", "github"]),
)
@RESULTS
def check(names: tuple[str, ...], reference: Path | None, paper: bool, update: bool, style: str, results: Path) -> int:
    """Hold tables to their reference; exit code 1 when a number moved by more than its tolerance, or than chance.

    \b
    Example:
      bench check table2
      bench check table2 --reference results-before
    """
    from bench.ledger.plan import meant
    from bench.regression import check, outcome
    from bench.regression import reference as numbers
    from bench.tables import cells

    folder, outcomes = Results(results), []
    plans = meant(names, folder)
    of_records = reference is not None and reference.is_dir()
    if of_records and (paper or update):
        raise UserError(f"{reference} is a folder; --paper and --update want a CSV file")
    if reference is not None and not of_records and len(plans) > 1:
        raise UserError(f"--reference goes with one table, not with {', '.join(plan.name for plan in plans)}")
    if paper and update:
        raise UserError("--update writes our own numbers, and --paper holds them to others; give one of them")
    for plan in plans:
        path = reference or (numbers.paper_path(plan) if paper else numbers.reference_path(plan.name))
        if of_records:
            outcomes.append(check.check_records(plan, folder, Results(path)))
        elif paper:
            outcomes.append(check.check_paper(plan, cells.table(plan, folder), path))
        elif update:
            tell("\n".join(numbers.update(plan, folder, path)))
        else:
            outcomes.append(check.check(plan, cells.table(plan, folder), path))
    if outcomes:
        tell(outcome.tell(outcomes, style))
    return 0 if all(one.ok for one in outcomes) else 1


@app.command()
@click.argument("first", metavar="A", shell_complete=completing.of(completing.runs))
@click.argument("second", metavar="B", shell_complete=completing.of(completing.runs))
@FORMAT
@RESULTS
def diff(first: str, second: str, style: str, results: Path) -> int:
    """Which images flipped between A and B, and whether it may be chance.

    A and B: two run ids (every attack that both have), two eval records (.parquet files), or two folders of results
    (every table that both have, cell by cell).

    \b
    Example:
      bench diff results-before results
    """
    from bench.regression import diff

    tell(diff.tell(*diff.diff(first, second, Results(results)), style))
    return 0


@app.command()
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
        return _complain(f"training {recipe} failed: {error}", code=1)
    if in_words:
        tell("\n".join(run_ids))
    return 0


@app.command()
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
        return _complain(f"no number: {error}", code=1)
    return 0


@app.command()
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


@app.command()
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


@app.command("list")
@click.argument("what", shell_complete=completing.of(completing.lists))
@RESULTS
def list_(what: str, results: Path) -> int:
    """List tables, recipes, attacks, trainers, datasets, models or runs; table1: who teaches whom.

    \b
    Example:
      bench list attacks
    """
    from bench.commands import listing

    for line in listing.LISTS[choose(what, listing.LISTS, "list")](results):
        tell(line)
    return 0


app.add_command(certify.certify)
app.add_command(verifying.verify)
app.add_command(exchange.export_)
app.add_command(exchange.import_)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which so takes the way of Ctrl-C."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point: runs the command and returns its exit code; `sys.exit` is the console script's business."""
    try:
        with _sigterm_as_exception():
            code = app.main(arguments, prog_name="bench", standalone_mode=False)
    except UserError as error:
        return _complain(str(error))
    except click.UsageError as error:
        return _complain(error.format_message() + (f"; see `{error.ctx.command_path} --help`" if error.ctx else ""))
    except OSError as error:
        if error.errno not in OUTPUT_FULL or error.filename is not None:
            raise  # of files everything is a UserError; what is left is a mistake of ours
        return _complain(f"cannot write the output: {error.strerror}")
    except click.Abort as stop:
        terminated = isinstance(stop.__cause__, _Terminated)
        sentence = "what is done is kept, and the same command goes on from there"
        return _complain(f"stopped; {sentence}", 143 if terminated else 130)
    except SystemExit as stop:
        if completing.asked():  # click answers the shell and leaves
            return int(stop.code or 0)
        # nothing of ours does that, and what it says must not pass for success
        return _complain(f"the code of a model, or a package, ended the command with sys.exit({stop.code!r})")
    return int(code or 0)


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """So that files are closed, temporary ones removed, and what was done is said."""

    def terminate(number: int, frame: object) -> NoReturn:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _complain(sentence: str, code: int = 2) -> int:
    warn(sentence)
    return code
