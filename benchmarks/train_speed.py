"""One epoch of every training method against the bare cost of its passes, and AT against a loop as it is published.

    python benchmarks/train_speed.py --arch cnn-a --images 2048 --steps 10 --methods at,mat,trades

Random images: only the cost matters. All take turns in one run; medians of ratios, turn by turn, are printed. The bare
epoch makes as many passes as the method (counted on its networks: with gradients in the images, in the weights, or
without) and steps of the optimiser, and nothing else. The published loop is AT as widely copied code has it, written
from its description: a DataLoader, `loss.backward` and `requires_grad_` on the images, SGD as it comes, `loss.item()`
after every batch. Epochs leave out validation and augmentation.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bench.subjects import models
from bench.subjects.catalog import Catalog, Recipe
from bench.subjects.device import keep_freed_memory
from trainers.contract import rounds_of
from trainers.loop import fit
from trainers.validation import Split

EPS, STEP = 8 / 255, 0.007


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="cnn-a")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="of every inner attack")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--methods", default="", help="of the profile quick; all of them if empty")
    options = parser.parse_args()
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(options.images, 3, 32, 32, generator=generator)
    train = Split(x, torch.randint(0, 10, (len(x),), generator=generator), torch.arange(len(x)))
    recipes = {name: recipe_of(name, options.steps, options.batch) for name in methods(options.methods)}

    print(f"{options.arch}, {options.images} images, K = {options.steps}, {torch.get_num_threads()} threads")
    print(
        f"{'an epoch of':20} {'seconds':>8} {'x bare':>8} {'x AT':>6}   passes a batch: attack, training, forward only"
    )
    at = partial(ours, recipe_of("at", options.steps, options.batch), options.arch, train)
    for name, recipe in recipes.items():
        passes = counted(recipe, options.arch, train)
        epochs = {
            "bare": partial(bare, passes, options.arch, train, options.batch, recipe),
            "AT": at,
            name: partial(ours, recipe, options.arch, train),
        }
        counts = ", ".join(f"{round(passes[kind] / len(x))}" for kind in ("attack", "training", "forward"))
        table(name, turns(epochs, options.repeats), counts)
    published = partial(as_published, options.arch, train, options.batch, options.steps)
    table("AT as published", turns({"bare": at, "AT": at, "AT as published": published}, options.repeats), "(x AT)")


def methods(names: str) -> list[str]:
    """The methods of that list, or all that have a recipe of the profile quick."""
    known = [name.removesuffix("-quick") for name in Catalog().recipe_tables if name.endswith("-quick")]
    return names.split(",") if names else known


def recipe_of(method: str, steps: int, batch: int) -> Recipe:
    """METHOD-quick with that many steps of every inner attack."""
    tables = Catalog().recipe_tables[f"{method}-quick"]
    changes = {"inner": tables["inner"] | {"steps": steps}} if "inner" in tables else {}
    if "inners" in tables:
        changes = {"inners": [inner | {"steps": steps} for inner in tables["inners"]]}
    recipe = Catalog().recipe(f"{method}-quick", changes)
    return replace(recipe, schedule=replace(recipe.schedule, epochs=1, batch_size=batch, augment=False))


def turns(epochs: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, in turns; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for turn in range(repeats + 1):
        for name, epoch in epochs.items():
            taken = epoch()
            if turn:
                seconds[name].append(taken)
    return seconds


def table(name: str, seconds: dict[str, list[float]], counts: str) -> None:
    """A line for `name`."""
    ratios = [
        statistics.median(t / b for t, b in zip(seconds[name], seconds[of], strict=True)) for of in ("bare", "AT")
    ]
    print(f"{name:20} {statistics.median(seconds[name]):8.2f} {ratios[0]:8.3f} {ratios[1]:6.2f}   {counts}", flush=True)


def create(recipe: Recipe, arch: str) -> tuple[list[nn.Module], list[nn.Module]]:
    """Networks and frozen teachers."""
    networks = [models.create(arch, (3, 32, 32), 10, seed) for seed in range(recipe.trainer.members)]
    return networks, [models.create(arch, (3, 32, 32), 10, 99)] if recipe.teacher else []


def ours(recipe: Recipe, arch: str, train: Split) -> float:
    """Seconds of the loop's epoch; one image to validate on, which is not in them."""
    networks, teachers = create(recipe, arch)
    validation = Split(*(part[:1] for part in train))
    return (
        fit(recipe.trainer, networks, train, validation, recipe.schedule, 0, teachers=teachers)
        .history[0]
        .training_seconds
    )


def counted(recipe: Recipe, arch: str, train: Split) -> Counter[str]:
    """Images that pass through the networks in an epoch, by what is differentiated: attack, training, forward."""
    networks, teachers = create(recipe, arch)
    counts: Counter[str] = Counter()

    def count(network: nn.Module, inputs: tuple[Tensor]) -> None:
        kind = "forward" if not torch.is_grad_enabled() else "attack" if inputs[0].requires_grad else "training"
        counts[kind] += len(inputs[0])

    for network in [*networks, *teachers]:
        network.register_forward_pre_hook(count)
    one = Split(*(part[:1] for part in train))
    fit(recipe.trainer, networks, train, one, recipe.schedule, 0, teachers=teachers)
    return counts


def bare(passes: Counter[str], arch: str, train: Split, batch: int, recipe: Recipe) -> float:
    """Seconds of as many passes through one network, and as many steps of the optimiser."""
    network = models.create(arch, (3, 32, 32), 10, 0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    each = Counter({kind: round(count / len(train.x)) for kind, count in passes.items()})
    steps = recipe.trainer.members * rounds_of(recipe.trainer)
    started = time.perf_counter()
    for rows in torch.randperm(len(train.x)).split(batch):
        x, y = train.x[rows], train.y[rows]
        network.eval()
        for _ in range(each["attack"]):
            variable = x.detach().requires_grad_(True)
            torch.autograd.grad(F.cross_entropy(network(variable), y, reduction="sum"), variable)
        with torch.no_grad():
            for _ in range(each["forward"]):
                network(x)
        network.train()
        for _ in range(each["training"]):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(network(x), y).backward()
        for _ in range(steps):
            optimizer.step()
    return time.perf_counter() - started


def as_published(arch: str, train: Split, batch: int, steps: int) -> float:
    """Seconds of an epoch of AT in the manner of published training scripts; see the top of this file."""
    network = models.create(arch, (3, 32, 32), 10, 0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(TensorDataset(train.x, train.y), batch_size=batch, shuffle=True)
    total = 0.0
    started = time.perf_counter()
    for x, y in loader:
        network.eval()
        x_adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
        for _ in range(steps):
            x_adv.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(network(x_adv), y), [x_adv])
            x_adv = x_adv.detach() + STEP * gradient.sign()
            x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
        network.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x_adv.detach()), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(x)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
