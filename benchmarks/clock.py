"""Estimates beside what the same then took: ten runs and more, of different kinds, as a table in Markdown.

    python -m benchmarks.clock --data-dir DATA                     # CIFAR-10 and digits; about an hour on two cores
    python -m benchmarks.clock --data-dir DATA --only digits       # those with that word in their name
    python -m benchmarks.clock --small                             # digits alone, one epoch, few images: minutes

Each estimate is made right before its run, from rates measured anew, so that both meet the same neighbours on a shared
machine. Seconds are of the work, without importing torch. Networks that are attacked are trained here first, for one
epoch with one inner step.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from bench.ground.pace import duration
from bench.ground.progress import Progress
from bench.ledger.folder import Results
from bench.running import rates
from bench.running.attack import How, attack_model
from bench.running.clock import NONE, Clock, Span, probed
from bench.running.recipe import train_recipe
from bench.running.run import TableRun
from bench.running.table import Options
from bench.running.train import Training
from bench.subjects import data
from bench.subjects.catalog import Catalog
from bench.subjects.chosen import Choice
from bench.subjects.device import choose_device

SHORT = ("*-quick.schedule.epochs=1",)
ATTACKED = {  # attack: images
    "pgd-100": 500, "autoattack": 40, "ddn": 200, "square": 60, "boundary": 30, "fog": 200,
}  # fmt: skip
SMALL = {"pgd-100": 200, "ddn": 200, "fog": 100, "cw": 50, "boundary": 20, "autoattack": 10}
TORCHVISION = "torchvision:resnet18"


class Pair(NamedTuple):
    """A run: its name, what estimates it and what does it."""

    name: str
    estimate: Callable[[], Span]
    run: Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("BENCH_DATA"), help="where CIFAR-10 lies")
    parser.add_argument("--only", default="", help="part of the names to run")
    parser.add_argument("--small", action="store_true", help="digits alone, one epoch, few images")
    parser.add_argument("--images", type=int, default=0, help="of every attack; by default as in ATTACKED")
    options = parser.parse_args()
    today, threads = datetime.date.today(), torch.get_num_threads()
    print(
        f"{platform.machine()}, {threads} threads, torch {torch.__version__}, {today}, load {os.getloadavg()[0]:.1f}\n"
    )
    print("| run | estimate | between | took | took / estimate |\n|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        results = Results(Path(folder))
        pairs = small(results) if options.small else every(results, options.data_dir, options.images)
        for pair in pairs:
            if options.only in pair.name:
                span = anew(pair.estimate)
                started = time.perf_counter()
                pair.run()
                row(pair.name, span, time.perf_counter() - started)


def anew(estimate: Callable[[], Span]) -> Span:
    """From rates measured now; the run that follows finds them, as a second command would."""
    kept, rates.FRESH = rates.FRESH, -1.0
    try:
        return estimate()
    finally:
        rates.FRESH = kept


def row(name: str, span: Span, took: float) -> None:
    """One line of the table."""
    between = f"{duration(span.low)} to {duration(span.high)}"
    about = f"{span.about:.1f} s | {between} | {took:.1f} s | {took / span.about:.2f}"
    print(f"| {name} | {about} |", flush=True)


def every(results: Results, data_dir: Path | None, images: int) -> Iterator[Pair]:
    """All pairs, the ones on digits first."""
    yield table("table2", results, images or 50, fast=False)
    yield table("table5", results, images or 20, fast=True)
    for method in ("at", "mat", "trades"):
        yield training(f"{method}-digits", "digits", "cnn-small", results, data_dir, ())
    for method in ("at", "trades", "mat"):
        yield training(f"{method}-quick", "cifar10", "cnn-a", results, data_dir, SHORT)
    light = (*SHORT, "*-quick.inner.steps=1", "*-quick.inner.step=8/255")
    for arch in ("resnet8", TORCHVISION):
        yield training("at-quick", "cifar10", arch, results, data_dir, light)
        name = train_recipe("at-quick", _options(results, "cifar10", arch, data_dir, light))[0]
        for attack, count in ATTACKED.items() if arch == "resnet8" else (("pgd-100", 50),):
            yield attacking(attack, name, arch, images or count, results, data_dir)


def small(results: Results) -> Iterator[Pair]:
    """Some of each kind on digits."""
    once = ("*-digits.schedule.epochs=1",)
    for method in ("at", "mat", "trades", "at-msd"):
        yield training(f"{method}-digits", "digits", "cnn-small", results, None, once)
    name = train_recipe("at-digits", _options(results, "digits", "cnn-small", None, once))[0]
    for attack, count in SMALL.items():
        yield attacking(f"{attack}-digits", name, "cnn-small", count, results, None)


def _options(results: Results, dataset: str, arch: str, data_dir: Path | None, changes: tuple[str, ...]) -> Options:
    return Options(results, dataset, arch, data_dir=data_dir, assignments=changes)


def table(name: str, results: Results, images: int, fast: bool) -> Pair:
    """A table of digits, in one process."""
    run = TableRun(name, Options(results, "digits", images=images, fast=fast))

    def estimate() -> Span:
        wanted, pace = run.survey()
        spans = run.foresee(wanted, pace, torch.get_num_threads()).spans.values()
        return sum_of(spans)

    def work() -> None:
        with Progress(quiet=True) as progress:
            run.execute(progress)

    return Pair(f"{name}{' --fast' if fast else ''}, digits, {images} images", estimate, work)


def sum_of(spans: object) -> Span:
    """One after the other."""
    total = NONE
    for span in spans:  # type: ignore[attr-defined]
        total = total.plus(span)
    return total


def training(
    name: str, dataset: str, arch: str, results: Results, data_dir: Path | None, changes: tuple[str, ...]
) -> Pair:
    """A recipe on a data set, with one seed."""
    recipe, device = Catalog(None, changes).recipe(name), choose_device("auto")

    def estimate() -> Span:
        loaded = data.load(dataset, data_dir)
        return Clock(loaded, device).training(Training(recipe, loaded, arch, 0, device)) or NONE

    def work() -> object:
        return train_recipe(name, _options(results, dataset, arch, data_dir, changes))

    return Pair(f"train {name}, {dataset}, {arch}, {recipe.schedule.epochs} epochs", estimate, work)


def attacking(name: str, run_id: str, arch: str, images: int, results: Results, data_dir: Path | None) -> Pair:
    """An attack on a network that was trained here."""
    choice = Choice(run_id, results, images=images, data_dir=data_dir)

    def estimate() -> Span:
        loaded, device = choice.load(), choose_device("auto")
        (subject,) = choice.subjects(loaded, device)
        attack, _ = Catalog().attack(name)
        network, some = subject.blank.fresh(), choice.pick(loaded, images)
        standing = probed(network, some, {name: attack})
        return Clock(loaded, device).attack(name, attack, network, images, standing) or NONE

    def work() -> None:
        attack_model(choice, (name,), How(), say=lambda line: None)

    return Pair(f"attack {name}, {arch}, {images} images", estimate, work)


if __name__ == "__main__":
    main()
