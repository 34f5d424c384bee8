"""PGD side by side in one run: ours, foolbox, torchattacks, and the bare cost of the passes without any attack.

    python benchmarks/attack_speed.py --arch resnet8 --images 256 --steps 20 100

Images: CIFAR-10 from --data-dir or BENCH_DATA where there is one, otherwise digits. The network is trained here for a
little while with AT, and the radius is then bisected so that its robust accuracy under PGD is about one half. All take
turns (A B C A B C ...) in random order; medians are printed, and ratios pair by pair. The bare rate is
autograd.grad of the cross-entropy with respect to the images, as many passes, in the same batches. Needs the `peers`
extra.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.contract import ThreatModel
from attacks.noise import Noise
from attacks.pgd import PGD
from attacks.target import Target, default_batch_size
from bench import data, models
from bench.train import _split
from trainers.at import AT
from trainers.contract import Inner
from trainers.loop import Schedule, fit

Run = Callable[[], Tensor]


def problem(arch: str, count: int, data_dir: str | None, train_images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A slightly robust network, and `count` test images that it gets right."""
    dataset = data.load("cifar10" if data_dir else "digits", data_dir)
    network = models.create(arch, dataset.image_shape, dataset.classes, seed=0)
    cpu = torch.device("cpu")
    train = _split(dataset.train.head(min(train_images, len(dataset.train))), cpu)
    method = AT(Inner(eps=4 / 255 if data_dir else 0.1, steps=2, step=3 / 255 if data_dir else 0.06))
    schedule = Schedule(epochs=2, batch_size=64, lr=0.05, kind="cyclic", augment=False, validation_steps=1)
    fit(method, [network], train, _split(dataset.validation.head(64), cpu), schedule, 0)
    logits = Target(network).logits(dataset.test.x)
    right = (logits.argmax(1) == dataset.test.y).nonzero().squeeze(1)[:count]
    return network, dataset.test.x[right], dataset.test.y[right]


def half_robust_radius(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """The Linf radius at which PGD-20 leaves about half of the images."""
    low, high = 0.0, 0.3
    for _ in range(8):
        eps = (low + high) / 2
        fooled = ours(network, x, y, eps, 20, "float32", "first")()
        low, high = (low, eps) if (Target(network).logits(fooled).argmax(1) == y).double().mean() < 0.5 else (eps, high)
    return (low + high) / 2


def ours(network: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, precision: str, stop: str) -> Run:
    attack = PGD(ThreatModel("Linf", eps), steps, step_of(eps, steps), stop=stop)
    return lambda: attack(Target(network, None, precision), x, y, Noise(0, torch.arange(len(x))))


def step_of(eps: float, steps: int) -> float:
    """The same for everybody: the papers' 0.003 at 8/255 and K = 100, in proportion."""
    return eps * 0.003 / (8 / 255) * max(1.0, 20 / steps)


def bare(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> Run:
    """As many forward and backward passes as PGD without early stop, and nothing else."""
    size = default_batch_size(x)

    def run() -> Tensor:
        for _ in range(steps):
            for rows in range(0, len(x), size):
                variable = x[rows : rows + size].detach().requires_grad_(True)
                loss = F.cross_entropy(network(variable), y[rows : rows + size], reduction="sum")
                torch.autograd.grad(loss, variable)
        return x

    return run


def foolbox_pgd(network: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int) -> Run:
    import foolbox

    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=step_of(eps, steps), steps=steps, random_start=True)
    size = default_batch_size(x)

    def run() -> Tensor:
        parts = zip(x.split(size), y.split(size), strict=True)
        return torch.cat([attack(model, images, labels, epsilons=eps)[1] for images, labels in parts])

    return run


def torchattacks_pgd(network: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int) -> Run:
    import torchattacks

    attack = torchattacks.PGD(network, eps=eps, alpha=step_of(eps, steps), steps=steps, random_start=True)
    size = default_batch_size(x)
    return lambda: torch.cat([attack(*pair) for pair in zip(x.split(size), y.split(size), strict=True)])


def compare(runs: dict[str, Run], repeats: int) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Seconds of each, taking turns, and the images of the last turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    images: dict[str, Tensor] = {}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            images[name] = run()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - started)
    return seconds, images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="cnn-a")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--train-images", type=int, default=4000)
    parser.add_argument("--data-dir", default=os.environ.get("BENCH_DATA"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    network, x, y = problem(options.arch, options.images, options.data_dir, options.train_images)
    eps = half_robust_radius(network, x, y)
    where = f"Linf {eps * 255:.2f}/255, {torch.get_num_threads()} threads"
    print(f"{options.arch}, {len(x)} images of {tuple(x.shape[1:])}, {where}")
    for steps in options.steps:
        runs = {
            "bare passes": bare(network, x, y, steps),
            "ours, every image to the end": ours(network, x, y, eps, steps, "float32", "last"),
            "ours": ours(network, x, y, eps, steps, "float32", "first"),
            "ours, bf16 gradients": ours(network, x, y, eps, steps, "bfloat16", "first"),
            "foolbox": foolbox_pgd(network, x, y, eps, steps),
            "torchattacks": torchattacks_pgd(network, x, y, eps, steps),
        }
        seconds, images = compare(runs, options.repeats)
        print(f"\nPGD-{steps}{'':22} seconds  passes/s  x bare rate  x faster than the best peer  robust accuracy")
        for name, times in seconds.items():
            robust = float((Target(network).logits(images[name]).argmax(1) == y).double().mean())
            rate = statistics.median(b / t for b, t in zip(seconds["bare passes"], times, strict=True))
            best = [min(pair) for pair in zip(seconds["foolbox"], seconds["torchattacks"], strict=True)]
            faster = statistics.median(p / t for p, t in zip(best, times, strict=True))
            passes = len(x) * steps / statistics.median(times)
            print(f"{name:29} {statistics.median(times):7.2f} {passes:9.0f} {rate:12.2f} {faster:27.2f} {robust:17.4f}")


if __name__ == "__main__":
    main()
