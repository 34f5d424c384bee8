"""A cohort's passes one network after the other, beside all networks as one batched computation (torch.func).

    python -m benchmarks.cohort_speed --arch resnet8 --batch 128 --networks 2

torch.func.stack_module_state stacks the weights of networks of one architecture, and vmap turns their convolutions into
grouped ones. Passes to the image in evaluation mode and passes to the weights in training mode, on random images, with
weights channels last, in float32 and, where it is the faster, in bf16. All take turns; medians of seconds for all
networks together, and ratios turn by turn to one after the other in that precision. Gradients are compared before
anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from bench.subjects import models
from bench.subjects.device import keep_freed_memory
from benchmarks.gpu.ceilings import why_not_bf16
from benchmarks.gpu.device import synchronize

SHAPE, CLASSES = (3, 32, 32), 10
Run = Callable[[], list[Tensor]]  # -> a gradient of each network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet8")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--networks", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    keep_freed_memory()
    device = torch.device(options.device)
    print(f"{options.networks} networks of {options.arch}, batches of {options.batch}, {device}")
    print(f"{'':48} seconds  x one after the other", flush=True)
    reason = why_not_bf16(device)
    print(reason or "in float32 and in bf16", flush=True)
    for training in (False, True):
        for mixed in (False,) if reason else (False, True):
            runs = contenders(options, device, training, mixed)
            left, right = (run() for run in runs.values())
            if not mixed:
                for a, b in zip(left, right, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max()))
            took = in_turns(runs, options.turns, device)
            first = next(iter(took))
            for name, seconds in took.items():
                ratio = statistics.median(a / b for a, b in zip(took[first], seconds, strict=True))
                print(f"{name:48} {statistics.median(seconds):7.3f} {ratio:23.2f}", flush=True)


def contenders(options: argparse.Namespace, device: torch.device, training: bool, mixed: bool) -> dict[str, Run]:
    """Both ways of one kind of pass, on networks of their own with the same weights."""
    kind = f"to the {'weights' if training else 'images'}, {'bf16' if mixed else 'float32'}"
    networks = [models.create(options.arch, SHAPE, CLASSES, seed).to(device) for seed in range(options.networks)]
    networks = [one.to(memory_format=torch.channels_last).train(training) for one in networks]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(options.batch, *SHAPE, generator=generator).to(device)
    y = torch.randint(0, CLASSES, (options.batch,), generator=generator).to(device)
    x = x.contiguous(memory_format=torch.channels_last)
    return {
        f"{kind}, one after the other": one_by_one(copy.deepcopy(networks), x, y, training, mixed),
        f"{kind}, batched": batched(networks, x, y, training, mixed),
    }


def one_by_one(networks: list[nn.Module], x: Tensor, y: Tensor, training: bool, mixed: bool) -> Run:
    """Each network attacks or learns from the same images."""

    def run() -> list[Tensor]:
        found = []
        for network in networks:
            variable = x.detach().requires_grad_(not training)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=mixed):
                logits = network(variable)
            wanted = list(network.parameters()) if training else [variable]
            found.append(torch.autograd.grad(F.cross_entropy(logits.float(), y, reduction="sum"), wanted)[-1])
        return found

    return run


def batched(networks: list[nn.Module], x: Tensor, y: Tensor, training: bool, mixed: bool) -> Run:
    """The same as one call of a network whose every weight has a first dimension more."""
    weights, buffers = stack_module_state(networks)
    skeleton = copy.deepcopy(networks[0]).to("meta")

    def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = functional_call(skeleton, (weights, buffers), (x,))
        return logits

    def run() -> list[Tensor]:
        variable = x.expand(len(networks), *x.shape).detach().requires_grad_(not training)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=mixed):
            logits = vmap(one)(weights, buffers, variable)
        loss = F.cross_entropy(logits.float().flatten(0, 1), y.repeat(len(networks)), reduction="sum")
        wanted = list(weights.values()) if training else [variable]
        return list(torch.autograd.grad(loss, wanted)[-1])

    return run


def in_turns(runs: dict[str, Run], turns: int, device: torch.device) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            synchronize(device)
            started = time.perf_counter()
            run()
            synchronize(device)
            seconds[name].append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    main()
