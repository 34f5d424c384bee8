"""One epoch of AT against the bare cost of its (K + 1) forward and backward passes, and MAT (N = 2) against AT.

    python benchmarks/train_speed.py --arch cnn-a --images 2048 --steps 10

Random images: only the cost matters. All take turns in one run; medians of ratios, pair by pair, are printed. The bare
epoch does K passes with respect to the images and one with respect to the weights per batch, and an optimiser step. All
epochs leave out validation and augmentation.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from bench import models
from trainers.at import AT
from trainers.contract import Cohort, Inner
from trainers.loop import Schedule, Split, _Run
from trainers.mat import MAT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="cnn-a")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(options.images, 3, 32, 32, generator=generator)
    train = Split(x, torch.randint(0, 10, (len(x),), generator=generator), torch.arange(len(x)))
    inner = Inner(eps=8 / 255, steps=options.steps, step=0.007)
    epochs = {
        "bare": bare(options.arch, train, options.steps),
        "AT": ours(AT(inner), options.arch, train),
        "MAT, flowing teacher": ours(MAT(inner), options.arch, train),
        "MAT, detached teacher": ours(MAT(inner, teacher_grad="detach"), options.arch, train),
    }
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for turn in range(options.repeats + 1):
        for name, epoch in epochs.items():
            started = time.perf_counter()
            epoch()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    print(f"{options.arch}, {options.images} images, K = {options.steps}, {torch.get_num_threads()} threads")
    print(f"{'epoch of':24} seconds  x bare  x AT")
    for name, times in seconds.items():
        ratios = [statistics.median(t / b for t, b in zip(times, seconds[of], strict=True)) for of in ("bare", "AT")]
        print(f"{name:24} {statistics.median(times):7.2f} {ratios[0]:7.3f} {ratios[1]:5.3f}")


def ours(method: AT | MAT, arch: str, train: Split) -> Callable[[], None]:
    networks = [models.create(arch, (3, 32, 32), 10, seed) for seed in range(method.members)]
    schedule = Schedule(epochs=1, batch_size=128, lr=0.01, augment=False)
    run = _Run(method, networks, train, schedule, 0, None, False)

    def epoch() -> None:
        cohort = Cohort(networks)
        for network in networks:
            network.train()
        for rows in torch.randperm(len(train.x)).split(128):
            run._step(cohort, rows, 1, 0.01)

    return epoch


def bare(arch: str, train: Split, steps: int) -> Callable[[], None]:
    network = models.create(arch, (3, 32, 32), 10, 0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)

    def epoch() -> None:
        for rows in torch.randperm(len(train.x)).split(128):
            x, y = train.x[rows], train.y[rows]
            network.eval()
            for _ in range(steps):
                variable = x.detach().requires_grad_(True)
                torch.autograd.grad(F.cross_entropy(network(variable), y, reduction="sum"), variable)
            network.train()
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(network(x), y).backward()
            optimizer.step()

    return epoch


if __name__ == "__main__":
    main()
