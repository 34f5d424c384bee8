"""A training step with each lever alone and with all, beside another checkout's and beside the bare cost of its passes.

    git worktree add ../before COMMIT
    python -m benchmarks.step_speed --before ../before --arch resnet8 --batch 128

Random images, no augmentation, no validation: the loop's own step. All take turns in one run; medians of seconds a step
are printed, and ratios turn by turn. "bare" makes the passes of a step (to the image in evaluation mode, to the weights
in training mode) and the optimiser's steps, and nothing else: as they are, and with all levers (bf16 among them where
this CPU has it). The other checkout runs in a process of its own that waits while others are at work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from bench.subjects import models
from bench.subjects.catalog import Catalog
from bench.subjects.device import keep_freed_memory
from trainers.contract import rounds_of
from trainers.loop import Partial, _Run
from trainers.validation import Split

Step = Callable[[], object]
SHAPE, CLASSES = (3, 32, 32), 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet8")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--inner", type=int, default=10, help="steps of the inner attack")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1, help="in a turn")
    parser.add_argument("--methods", default="at,trades,mat")
    parser.add_argument("--levers", default="none,channels last,compiled,bf16,all", help="of the first method")
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    keep_freed_memory()
    if options.worker:
        return work(options.worker, options)
    from benchmarks.gpu.ceilings import why_not_bf16

    reason = why_not_bf16(torch.device("cpu"))
    options.bf16 = not reason
    if reason:
        print(f"without bf16: {reason}")
    print(
        f"{options.arch}, batches of {options.batch}, K = {options.inner}, {torch.get_num_threads()} threads",
        flush=True,
    )
    print(f"{'':28} {'s a step':>9} {'x before':>9} {'x bare':>7} {'once, s':>8}")
    for number, method in enumerate(options.methods.split(",")):
        table(method, measured(method, options, every_lever=number == 0), options.steps)


def measured(method: str, options: argparse.Namespace, every_lever: bool) -> dict[str, list[float]]:
    """Seconds of each contender: the first time, then the turns."""
    from benchmarks.gpu.steps import Contender, each_lever

    images, device = some(options.batch * options.steps), torch.device("cpu")
    levers = each_lever(options.bf16)
    steps: dict[str, Step] = {}
    if options.before:
        steps["before"] = elsewhere(method, options)
    wanted = [name for name in options.levers.split(",") if options.bf16 or name != "bf16"]
    for name in wanted if every_lever else [name for name in ("none", "all") if name in wanted]:
        one = Contender(method, options.arch, options.batch, options.inner, images, levers[name], device)
        one.run.augment = None
        steps[name] = one.take_turn
    for name in ("bare", "bare, all") if "all" in wanted else ("bare",):
        steps[name] = bare(method, options, images, name != "bare")
    return in_turns(steps, options.turns)


def in_turns(steps: dict[str, Step], turns: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def table(method: str, seconds: dict[str, list[float]], steps: int) -> None:
    first = {name: took[0] for name, took in seconds.items()}
    turns = {name: took[1:] for name, took in seconds.items()}

    def times(name: str, of: str) -> str:
        if of not in turns:
            return ""
        return f"{statistics.median(a / b for a, b in zip(turns[of], turns[name], strict=True)):.2f}"

    for name, took in turns.items():
        middle = statistics.median(took)
        least = f"{1 / float(times(name, 'bare, all' if 'all' in name else 'bare')):.2f}"
        once = max(0.0, first[name] - middle)
        figures = f"{middle / steps:9.3f} {times(name, 'before'):>9} {least:>7} {once:8.1f}"
        print(f"{method.upper() + ', ' + name:28} {figures}", flush=True)


def bare(method: str, options: argparse.Namespace, images: Split, levers: bool) -> Step:
    """The passes of a step of that method and nothing else; levers: all of them."""
    from benchmarks.gpu.steps import LeveredPasses, each_lever, recipe_of
    from benchmarks.train_speed import counted

    recipe = recipe_of(method, options.inner, options.batch, "float32")
    counts: Counter[str] = counted(recipe, "cnn-a", some(options.batch))
    each = {kind: round(count / options.batch) for kind, count in counts.items()}
    network = models.create(options.arch, SHAPE, CLASSES, 0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    passes = LeveredPasses(each_lever(options.bf16)["all" if levers else "none"], options.batch)
    passes.arrange([network])
    mixed = levers and options.bf16

    def run() -> None:
        for x, y in zip(images.x.split(options.batch), images.y.split(options.batch), strict=True):
            laid = passes.arranged(x)
            network.eval()
            for _ in range(each.get("attack", 0)):
                variable = laid.detach().requires_grad_(True)
                with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                    logits = passes(network, variable, frozen=True)
                torch.autograd.grad(F.cross_entropy(logits.float(), y, reduction="sum"), variable)
            network.train()
            for _ in range(each.get("forward", 0)):
                with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                    passes(network, laid)
            for _ in range(each.get("training", 0)):
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                    logits = passes(network, laid)
                F.cross_entropy(logits.float(), y).backward()
            for _ in range(recipe.trainer.members * rounds_of(recipe.trainer)):
                optimizer.step()

    return run


def elsewhere(method: str, options: argparse.Namespace) -> Step:
    """A step of the other checkout: a process that does one whenever it is sent a line."""
    given = ["--arch", options.arch, "--batch", options.batch, "--inner", options.inner, "--steps", options.steps]
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", method, *map(str, given)]
    environment = os.environ | {"PYTHONPATH": str(options.before.resolve())}
    process = subprocess.Popen(
        command, env=environment, cwd=options.before, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    ask, answer = process.stdin, process.stdout
    if answer.readline() != "ready\n":
        raise SystemExit(f"the checkout {options.before} cannot take a step of {method}")

    def step() -> None:
        ask.write("step\n")
        ask.flush()
        answer.readline()

    return step


def work(method: str, options: argparse.Namespace) -> None:
    """The other checkout's side of `elsewhere`; uses only what both checkouts have."""
    recipe = Catalog().recipe(f"{method}-paper", {"inner": {"steps": options.inner}})
    schedule = replace(recipe.schedule, epochs=1, milestones=(), batch_size=options.batch, precision="float32")
    networks = [models.create(options.arch, SHAPE, CLASSES, seed) for seed in range(recipe.trainer.members)]
    run = _Run(recipe.trainer, networks, [], some(options.batch * options.steps), schedule, 0, None, False)
    print("ready", flush=True)
    for epoch, _ in enumerate(sys.stdin, 2):
        run._train(epoch, Partial(), lambda partial: None)
        print("done", flush=True)


def some(count: int) -> Split:
    """Random images."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, *SHAPE, generator=generator)
    return Split(x, torch.randint(0, CLASSES, (count,), generator=generator), torch.arange(count))


if __name__ == "__main__":
    main()
