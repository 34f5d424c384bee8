"""How fast a network runs here, each way of running it beside the others: what `bench tune` and estimates go by.

A measurement of a second each, in turns, so that what else the machine does meets all alike. It chooses nothing: what
is used is a setting, since code that rounds otherwise is another result.
"""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.ground.config import first_line
from bench.subjects.compiled import Compiled
from bench.subjects.quick import quick
from trainers.passes import no_compiler, passes_for

SECONDS, LEAST = 1.0, 3  # of a measurement; passes in it
Pass = Callable[[], object]
AS_IT_IS, PREDICTIONS = "as it is", "predictions"


@dataclass(frozen=True)
class Rate:
    """One way to run a network. seconds: of a batch, the median. once: more seconds that the first batch took, most of
    them compiling. failed: why there is no figure, "" where there is.
    """

    way: str
    seconds: float = 0.0
    once: float = 0.0
    failed: str = ""

    def pays_after(self, other: Rate) -> float | None:
        """Batches after which this way, begun anew, has overtaken the other; None where it never does."""
        gained = other.seconds - self.seconds
        return None if self.failed or gained <= 0 else self.once / gained


def attack_rates(network: nn.Module, x: Tensor) -> list[Rate]:
    """A forward and a backward pass to the images x [B, C, H, W]; and `PREDICTIONS`, a forward pass alone."""
    network = copy.deepcopy(network).eval()
    arranged = quick(network, x)
    ways: dict[str, Pass] = {
        AS_IT_IS: lambda: to_images(network, x),
        "folded": lambda: to_images(arranged, x),
        "folded, bfloat16": lambda: to_images(arranged, x, mixed=True),
    }
    if arranged is network:
        del ways["folded"], ways["folded, bfloat16"]
        ways["bfloat16"] = lambda: to_images(network, x, mixed=True)
    elif not no_compiler(x.device):
        compiled = Compiled(arranged, len(x), after=0)
        ways["folded, compiled"] = lambda: _compiled(compiled, x)
        ways["folded, compiled, bfloat16"] = lambda: _compiled(compiled, x, mixed=True)
    ways[PREDICTIONS] = lambda: _forward(arranged, x)
    return measured(ways, x.device)


def training_rates(network: nn.Module, x: Tensor) -> list[Rate]:
    """A forward and a backward pass to the weights, in training mode."""
    plain, other = copy.deepcopy(network).train(), copy.deepcopy(network).train()
    passes, _ = passes_for("auto", len(x), x.device)
    passes.arrange([other])
    laid = passes.arranged(x)
    ways: dict[str, Pass] = {
        AS_IT_IS: lambda: to_weights(plain, plain, x),
        "bfloat16": lambda: to_weights(plain, plain, x, mixed=True),
    }
    if passes.batch is not None:
        ways["compiled"] = lambda: to_weights(lambda images: passes(other, images), other, laid)
        ways["compiled, bfloat16"] = lambda: to_weights(lambda images: passes(other, images), other, laid, mixed=True)
    return measured(ways, x.device)


def measured(ways: Mapping[str, Pass], device: torch.device) -> list[Rate]:
    """Each way for about a second, in turns after a first time of each."""
    firsts, failed = {}, {}
    for way, run in ways.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's own
                firsts[way] = seconds_of(run, device)
        except Exception as error:  # a way that fails here is no way; the others still are
            failed[way] = first_line(error)
    turns: dict[str, list[float]] = {way: [] for way in firsts}
    began = time.perf_counter()
    while time.perf_counter() - began < SECONDS * len(firsts) or any(len(took) < LEAST for took in turns.values()):
        for way, took in turns.items():
            took.append(seconds_of(ways[way], device))
    found = {way: statistics.median(took) for way, took in turns.items()}
    return [
        Rate(way, failed=failed[way]) if way in failed else Rate(way, found[way], max(0.0, firsts[way] - found[way]))
        for way in ways
    ]


def seconds_of(run: Pass, device: torch.device) -> float:
    """Wall time of one call, and of all that it has the device do."""
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _forward(network: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        network(x)


def to_images(network: nn.Module, x: Tensor, mixed: bool = False) -> None:
    """A forward and a backward pass to the images x [B, C, H, W]; mixed: in bfloat16."""
    variable = x.detach().clone().requires_grad_(True)
    with _mixed(x, mixed):
        logits = network(variable)
    torch.autograd.grad(_loss(logits), variable)


def _compiled(network: Compiled, x: Tensor, mixed: bool = False) -> None:
    """Raises RuntimeError where it runs uncompiled, which is no figure of compiled code."""
    to_images(network, x, mixed)
    if reason := network.refused.get((len(x), True, mixed)):
        raise RuntimeError(reason)


def to_weights(run: Callable[[Tensor], Tensor], network: nn.Module, x: Tensor, mixed: bool = False) -> None:
    """A forward and a backward pass to the weights of the network, whose forward pass `run` makes."""
    network.zero_grad(set_to_none=True)
    with _mixed(x, mixed):
        logits = run(x)
    _loss(logits).backward()


def _mixed(x: Tensor, mixed: bool) -> AbstractContextManager[object]:
    return torch.autocast(x.device.type, torch.bfloat16) if mixed else nullcontext()


def _loss(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), torch.zeros(len(logits), dtype=torch.int64, device=logits.device))
