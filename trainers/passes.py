"""How the networks of a cohort are run: as they are, or channels last and compiled.

`torch.compile` turns forward and backward pass into code for one shape. Parameters and buffers are arguments of that
code, so the networks of one architecture share it, and an attack has no gradient computed in the weights. What is
compiled for is a full batch; a smaller last one runs as it is. Compiled code rounds otherwise, so whether it was used
is part of a training's identity (`Schedule.compile`), and of its checkpoint.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

Compile = Literal["auto", "off"]
EAGER = "as they are"


class Passes:
    """Runs networks on images. batch: the number of images that is compiled for; None compiles nothing."""

    def __init__(self, batch: int | None = None) -> None:
        self.batch = batch
        self._compiled: dict[tuple[str, ...], tuple[nn.Module, Callable[..., Tensor]]] = {}

    def __call__(self, network: nn.Module, x: Tensor, frozen: bool = False) -> Tensor:
        """x [B, C, H, W] -> logits [B, K], in the network's mode. frozen: no gradient reaches the weights."""
        if self.batch is None or len(x) != self.batch:
            return network(x)
        state: dict[str, Tensor] = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        if frozen:
            state = {name: value.detach() for name, value in state.items()}
        skeleton, run = self._of(network, state)
        if skeleton.training != network.training:
            skeleton.train(network.training)
        return run(state, x)

    def frozen(self, network: nn.Module) -> nn.Module:
        """The network for an attack: images -> logits, without gradients in the weights."""
        return network if self.batch is None else _Frozen(self, network)

    def arranged(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] as the compiled code reads them fastest."""
        return x if self.batch is None else x.contiguous(memory_format=torch.channels_last)

    def arrange(self, networks: Sequence[nn.Module]) -> None:
        """The same for the weights, in place."""
        for network in networks if self.batch is not None else ():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _of(self, network: nn.Module, state: dict[str, Tensor]) -> tuple[nn.Module, Callable[..., Tensor]]:
        """The architecture's empty frame and its code, compiled at its first batch."""
        key = (repr(network), *(f"{name} {tuple(value.shape)}" for name, value in state.items()))
        if key not in self._compiled:
            skeleton = copy.deepcopy(network)

            def run(state: dict[str, Tensor], x: Tensor) -> Tensor:
                logits: Tensor = functional_call(skeleton, state, (x,))
                return logits

            self._compiled[key] = skeleton, torch.compile(run, dynamic=False)
        return self._compiled[key]


class _Frozen(nn.Module):
    """A network without weights of its own: nobody reaches those of the other through it."""

    def __init__(self, passes: Passes, network: nn.Module) -> None:
        super().__init__()
        self.run = lambda x: passes(network, x, frozen=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def passes_for(compile: Compile, batch: int, device: torch.device) -> tuple[Passes, str]:
    """What suits a training here, and what it is, in words."""
    if compile == "off":
        return Passes(), EAGER
    reason = no_compiler(device)
    if reason:
        return Passes(), f"{EAGER}, as there is no compiler ({reason})"
    return Passes(batch), f"channels last, compiled by torch {torch.__version__}"


@cache
def no_compiler(device: torch.device) -> str:
    """Why torch.compile does not work here; "" where it does. Takes seconds once, which a training needs anyway."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own, of what it imports
            torch.compile(_trial)(torch.zeros(8, device=device))
    except Exception as error:  # no gcc, no triton, an old driver: each raises its own
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""


def _trial(x: Tensor) -> Any:
    return (x + 1).sin()
