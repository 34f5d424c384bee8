"""Seconds of training steps: the loop's own epoch on real images, by method, and by what its passes are run with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch._dynamo.utils
import torch._inductor.config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.subjects import data, models
from bench.subjects.catalog import Catalog, Recipe
from bench.subjects.data import Dataset
from benchmarks.gpu.device import synchronize
from benchmarks.train_speed import counted
from trainers.loop import Partial, _Run
from trainers.passes import Passes
from trainers.validation import Split

SHAPE, CLASSES = (3, 32, 32), 10


@dataclass(frozen=True)
class Levers:
    """How passes are run. graphs: CUDA graphs, which torch.compile then records (its mode reduce-overhead)."""

    channels_last: bool = False
    compiled: bool = False
    bf16: bool = False
    graphs: bool = False


def all_levers(bf16: bool) -> Levers:
    """Every lever but CUDA graphs; bf16: only where it is the faster."""
    return Levers(channels_last=True, compiled=True, bf16=bf16)


def each_lever(bf16: bool) -> dict[str, Levers]:
    """None, each alone, and all, by name."""
    return {
        "none": Levers(),
        "channels last": Levers(channels_last=True),
        "compiled": Levers(compiled=True),
        "bf16": Levers(bf16=True),
        "all": all_levers(bf16),
        "all, CUDA graphs": replace(all_levers(bf16), graphs=True),
    }


class LeveredPasses(Passes):
    """Passes with each lever on its own."""

    def __init__(self, levers: Levers, batch: int) -> None:
        super().__init__(batch if levers.compiled else None)
        self.levers = levers

    def arranged(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self.levers.channels_last else x

    def arrange(self, networks: Sequence[nn.Module]) -> None:
        for network in networks if self.levers.channels_last else ():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Contender:
    """One way to train, ready to run some batches as often as wanted."""

    def __init__(
        self, method: str, arch: str, batch: int, inner: int, images: Split, levers: Levers, device: torch.device
    ) -> None:
        self.device, self.levers, self.batch, self.images = device, levers, batch, images
        self.recipe = recipe_of(method, inner, batch, "bfloat16" if levers.bf16 else "float32")
        networks = [models.create(arch, SHAPE, CLASSES, seed).to(device) for seed in range(self.recipe.trainer.members)]
        self.run = _Run(self.recipe.trainer, networks, [], images, self.recipe.schedule, 0, data.augment, True)
        self.run.passes = LeveredPasses(levers, batch)
        self.run.passes.arrange(networks)
        self.turns: list[float] = []  # seconds
        self.seconds_first, self.note = 0.0, ""

    def warm_up(self) -> None:
        """The first two batches, in which whatever is compiled is compiled."""
        self.run.train = Split(*(part[: 2 * self.batch] for part in self.images))
        before = _left_out()
        with self._recording():
            self.seconds_first = self._seconds(2)
        if left_out := _left_out() - before:
            self.note = f", {left_out} passes left out of the CUDA graphs"
        self.run.train = self.images

    def take_turn(self) -> None:
        """All batches once."""
        self.turns.append(self._seconds(len(self.turns) + 3))

    def _seconds(self, epoch: int) -> float:
        """Of an epoch, until the device has done its work. The first one has checks of its own."""
        synchronize(self.device)
        started = time.perf_counter()
        self.run._train(epoch, Partial(), lambda partial: None)
        synchronize(self.device)
        return time.perf_counter() - started

    def _recording(self) -> AbstractContextManager[object]:
        return torch._inductor.config.patch({"triton.cudagraphs": True}) if self.levers.graphs else nullcontext()


def _left_out() -> int:
    """Compiled passes that torch did not record as a CUDA graph so far, as those that write into their inputs."""
    return int(torch._dynamo.utils.counters["inductor"]["cudagraph_skips"])


def recipe_of(method: str, inner: int, batch: int, precision: str) -> Recipe:
    """METHOD-paper-short with that many steps of its attack; how its passes are run is the levers' business."""
    recipe = Catalog().recipe(f"{method}-paper-short", {"inner": {"steps": inner}})
    schedule = replace(recipe.schedule, epochs=1, milestones=(), batch_size=batch, precision=precision, compile="off")
    return replace(recipe, schedule=schedule)


def some(dataset: Dataset, count: int, device: torch.device) -> Split:
    """The first `count` training images as bytes, again from the start where there are fewer."""
    rows = torch.arange(count) % len(dataset.train)
    x, y, ids = (part[rows] for part in (dataset.train.x, dataset.train.y, torch.arange(len(dataset.train))))
    return Split((x * 255).round().to(torch.uint8).to(device), y.to(device), ids.to(device))


@cache
def operations(method: str, arch: str, inner: int) -> float:
    """Floating-point operations that a method makes of one image (a product and a sum are two): forward F, backward to
    the image F, to image and weights 2 F.
    """
    recipe = recipe_of(method, inner, 64, "float32")
    x = torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(0))
    passes = counted(recipe, "cnn-a", Split(x, torch.arange(64) % CLASSES, torch.arange(64)))
    each = {kind: round(passes[kind] / len(x)) for kind in ("attack", "training", "forward")}
    return _forward(arch) * (2 * each["attack"] + 3 * each["training"] + each["forward"])


@cache
def _forward(arch: str) -> float:
    """Operations of one image's forward pass."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        network = models.create(arch, SHAPE, CLASSES, 0).to("meta").eval()
        network(torch.empty(1, *SHAPE))
    return float(counter.get_total_flops())
