"""`bench tune`: which way of running a network pays on this machine, and from which amount of work on.

It measures and says; what is used stays a setting, because every way rounds otherwise. What was measured is kept for
this machine, torch and network, and said again without measuring.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks.target import default_batch_size
from bench.ground.config import UserError
from bench.ground.files import cache_folder, read_json, write_json
from bench.subjects import data, models
from bench.subjects.device import choose_device, describe
from bench.subjects.speed import AS_IT_IS, PREDICTIONS, Rate, attack_rates, training_rates
from bench.subjects.standard import DATASETS, Kind

VERSION = 1  # of what is measured: another one is measured anew
TRAINING_BATCH = 128
WORTH = 1.05  # times as fast, below which a way is not worth another rounding
SETTINGS = {"bfloat16": "--gradient-precision bfloat16", "compiled": "--compile auto"}
SCHEDULE = {"bfloat16": "schedule.precision=bfloat16", "compiled": "schedule.compile=auto"}


@dataclass(frozen=True)
class Tuned:
    """What was measured. machine: device, threads and torch in words. attack, training: rates; _batch: their images."""

    arch: str
    machine: str
    attack_batch: int
    attack: list[Rate]
    training_batch: int
    training: list[Rate]


def tune(arch: str, dataset: str, device: str, batch_size: int | None, again: bool) -> list[str]:
    """Measure, or read what was measured, and say it. dataset: a name or a path; of a name no image is read.

    Raises UserError.
    """
    models.check_name(arch)
    like, place = DATASETS.get(dataset) or data.load(dataset), choose_device(device)
    shape = like.shape if isinstance(like, Kind) else like.image_shape
    network = models.create(arch, shape, like.classes, seed=0).to(place)
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)).to(place)
    sizes = batch_size or default_batch_size(x), batch_size or TRAINING_BATCH
    file = cache_folder() / "tune" / f"{key(network, x, sizes, place)}.json"
    known = _read(file) if not again else None
    found = known or _measure(arch, network, x, sizes, place)
    if known is None:
        write_json(file, found)
    return [
        f"{arch} on {dataset}, {found.machine}",
        *_lines("attack", found.attack_batch, found.attack, SETTINGS),
        *_lines("training", found.training_batch, found.training, SCHEDULE),
        f"{'measured before; --again measures anew' if known else 'kept'}: {file}",
    ]


def start_up(arch: str, dataset: str, network: nn.Module, x: Tensor, batch: int) -> str:
    """What compiling a training costs and when it pays, as far as it was measured here. x: images like [1, C, H, W],
    of the data set of that name.
    """
    sizes = [(attack, batch) for attack in (batch, default_batch_size(x))]
    every = [key(network, x, size, x.device) for size in sizes]
    found = next(filter(None, (_read(cache_folder() / "tune" / f"{one}.json") for one in every)), None)
    rates = {rate.way: rate for rate in found.training} if found else {}
    if "compiled" not in rates or rates["compiled"].failed:
        how = f"`bench tune {arch} --dataset {dataset} --batch-size {batch}`"
        return f"compiling comes first, seconds to minutes; {how} measures when that pays"
    after = rates["compiled"].pays_after(rates[AS_IT_IS])
    pays = "did not pay" if after is None else f"paid after {after:.0f} batches"
    return f"compiling comes first; when measured, it took {rates['compiled'].once:.0f} s and {pays}"


def _measure(arch: str, network: nn.Module, x: Tensor, sizes: tuple[int, int], device: torch.device) -> Tuned:
    batches = [torch.cat([x] * size) for size in sizes]
    attack, training = attack_rates(network, batches[0]), training_rates(network, batches[1])
    return Tuned(arch, _machine(device), sizes[0], attack, sizes[1], training)


def _lines(what: str, batch: int, rates: Sequence[Rate], settings: dict[str, str]) -> list[str]:
    """A table of the ways, and the settings of the quickest."""
    plain = next(rate for rate in rates if rate.way == AS_IT_IS)
    lines = [f"{what}, batches of {batch}:", f"  {'':28} {'images/s':>9} {'times':>6} {'once':>8}  pays after"]
    for rate in rates:
        if rate.failed:
            lines.append(f"  {rate.way:28} failed: {rate.failed}")
            continue
        after = rate.pays_after(plain)
        pays = "never" if after is None else f"{after * batch:.0f} images"
        figures = f"{batch / rate.seconds:9.0f} {plain.seconds / rate.seconds:6.2f} {rate.once:6.1f} s"
        lines.append(f"  {rate.way:28} {figures}  {'' if rate.way in (AS_IT_IS, PREDICTIONS) else pays}".rstrip())
    return [*lines, f"  {_advice(rates, settings)}"]


def _advice(rates: Sequence[Rate], settings: dict[str, str]) -> str:
    """The settings of the quickest way, where one of them gains."""
    able = [rate for rate in rates if not rate.failed and rate.way != PREDICTIONS]
    default = min((r for r in able if not any(one in r.way for one in settings)), key=lambda rate: rate.seconds)
    best = min(able, key=lambda rate: rate.seconds)
    words = " ".join(text for way, text in settings.items() if way in best.way)
    if not words or default.seconds / best.seconds < WORTH:
        return "the default is the quickest"
    times, after = default.seconds / best.seconds, best.pays_after(default) or 0
    return f"quickest: {words}; {times:.2f} times the default, from {after:.0f} batches on"


def _read(file: Path) -> Tuned | None:
    """None where nothing was measured, or not what is measured now."""
    try:
        return read_json(file, Tuned) if file.exists() else None
    except UserError:  # of another release, or damaged: measured anew
        return None


def _machine(device: torch.device) -> str:
    place = f"{platform.machine()} CPU" if device.type == "cpu" else describe(device)
    return f"{place}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def key(network: nn.Module, x: Tensor, sizes: tuple[int, int], device: torch.device) -> str:
    """Of everything that a speed depends on and that can be named."""
    shapes = [f"{name} {tuple(value.shape)} {value.dtype}" for name, value in network.state_dict().items()]
    parts = [VERSION, platform.node(), _machine(device), repr(network), *shapes, tuple(x.shape), sizes]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
