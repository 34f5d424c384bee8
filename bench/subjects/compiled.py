"""A network for attacks whose batches are compiled once they have come often enough to pay for it.

Code is compiled for two sizes of batch, the largest that comes and a quarter of it; a batch between is filled up, or
cut into quarters, and a small rest runs as it is. When a size is compiled is decided by counted work and never by a
clock, so the same attack takes the same way twice. Compiled code counts only where it has the network's logits and
gradients on the first batch that it runs; in mixed precision, where it is as near to those of float32 as the network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from bench.ground import terminal
from bench.ground.config import first_line
from bench.subjects.same import ODD, ROUNDING, TURN, spread, weighed
from trainers.passes import no_compiler

FULL = 0.75  # of a compiled size, from which on a batch is filled up to it
WORTH = {"cpu": 2e12, "cuda": 2e14}  # operations forward at one size before it is compiled: about a minute's
WORSE = 2  # times the error that mixed precision makes without a compiler
Kind = tuple[int, bool, bool]  # of a pass: its size, with gradients, in mixed precision
Both = tuple[Tensor, Tensor]  # logits and gradients
Run = Callable[[dict[str, Tensor], Tensor], Tensor]
_code: dict[tuple[str, ...], Run] = {}  # networks of one architecture share it; their weights are arguments


class Compiled(nn.Module):
    """network: [B, C, H, W] -> [B, K] in evaluation mode, its weights frozen. batch: the most images that come at once.

    after: images at one size before it is compiled; by default as many as make `WORTH`.
    """

    def __init__(self, network: nn.Module, batch: int, after: float | None = None) -> None:
        super().__init__()
        self.network, self.after = network, after
        self.sizes = (batch, batch // 4) if batch >= 8 else (batch,)
        self.seen: dict[Kind, int] = {}  # images so far
        self.refused: dict[Kind, str] = {}  # why passes of a kind are not compiled
        self.eval()

    @property
    def before_compiling(self) -> nn.Module:
        """For `attacks.target`: takes several backward passes for one forward pass, as DeepFool makes them."""
        return self.network

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> logits [B, K]."""
        parts = [self._run(x[rows], size) for rows, size in self._parts(len(x))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _parts(self, images: int) -> Iterator[tuple[slice, int | None]]:
        """(rows, the size to run them at; None for a rest that is too small)."""
        first = 0
        for size in self.sizes:
            while images - first >= size * FULL:
                yield slice(first, min(first + size, images)), size
                first = min(first + size, images)
        if first < images or images == 0:
            yield slice(first, images), None

    def _run(self, x: Tensor, size: int | None) -> Tensor:
        if size is None or not self._due(x, size):
            logits: Tensor = self.network(x)
            return logits
        return self._compiled(x, size)

    def _due(self, x: Tensor, size: int) -> bool:
        """Whether passes of this kind have come often enough; the first of those that have compiles."""
        if self.after is None:
            self.after = WORTH[x.device.type] / operations(self.network, x[:1])
        kind = (size, torch.is_grad_enabled(), torch.is_autocast_enabled(x.device.type))
        before = self.seen.get(kind, 0)
        self.seen[kind] = before + len(x)
        if before < self.after or kind in self.refused:
            return False
        if before - len(x) < self.after and (reason := self._first(x, size)):
            self.refused[kind] = reason
            terminal.warn_once(f"some passes are not compiled: {reason}")
        return kind not in self.refused

    def _compiled(self, x: Tensor, size: int) -> Tensor:
        filled = x if len(x) == size else F.pad(x, (0, 0) * (x.dim() - 1) + (0, size - len(x)))
        state = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        return _code_of(self.network, state)(state, filled)[: len(x)]

    def _first(self, x: Tensor, size: int) -> str:
        """Compiles, and compares with the network on a batch; "" or why it is not used."""
        reason = no_compiler(x.device)
        if reason:
            return reason
        terminal.warn_once(f"compiling passes of {size} images, once, which takes a few seconds to a minute")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's own
                ours, theirs = (_pass(run, x) for run in (self.network, lambda images: self._compiled(images, size)))
        except Exception as error:  # whatever the compiler raises on somebody's network
            return first_line(error)
        with torch.autocast(x.device.type, enabled=False):
            true = _pass(self.network, x)
        return _worse(true, ours, theirs)


def _worse(true: Both, ours: Both, theirs: Both) -> str:
    """What is worse about theirs than about ours, both held to the true ones; "" where nothing is."""
    (logits, slope), unit = true, spread(true[0])
    wrong, allowed = ((logits - each[0]).abs().max() for each in (theirs, ours))
    if not wrong <= WORSE * allowed + ROUNDING * unit:
        return "compiled it has other logits"
    off, may = ((slope - each[1]).flatten(1).norm(dim=1) for each in (theirs, ours))
    apart = ~(off <= WORSE * may + TURN * slope.flatten(1).norm(dim=1))
    return "compiled it has other gradients" if apart.double().mean() > ODD else ""


def operations(network: nn.Module, image: Tensor) -> float:
    """Of one forward pass of an image [1, C, H, W]; convolutions and matrix products."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return max(1.0, float(counter.get_total_flops()))


def _code_of(network: nn.Module, state: dict[str, Tensor]) -> Run:
    """The code for a network, compiled at its first batch of a shape."""
    shapes = [f"{name} {tuple(value.shape)}" for name, value in state.items()]
    key = (str(getattr(network, "code", id(network))), repr(network), *shapes)
    if key not in _code:

        def run(state: dict[str, Tensor], x: Tensor) -> Tensor:
            logits: Tensor = functional_call(network, state, (x,))
            return logits

        _code[key] = torch.compile(run, dynamic=False)
    return _code[key]


def _pass(run: Callable[[Tensor], Tensor], x: Tensor) -> Both:
    """Logits [B, K] and, where gradients are enabled, the one of a loss that every logit has a part in."""
    if not torch.is_grad_enabled():
        return run(x).float(), torch.zeros_like(x)
    variable = x.detach().clone().requires_grad_(True)
    logits = run(variable).float()
    (slope,) = torch.autograd.grad(weighed(logits).sum(), variable)
    return logits.detach(), slope
