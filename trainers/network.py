"""How a training meets a network, which may be anybody's: it sees copies of the images, its words become a sentence,
and only logits come back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attacks.model import ModelError, in_words
from trainers.awp import buffers_kept

Mode = Literal["eval", "train"]
Run = Callable[[nn.Module, Tensor], Tensor]
ORDINARY = 1e6  # size of logits; those of a training that diverges are far beyond when the first of them is infinite


def called(network: nn.Module, x: Tensor, who: str, run: Run | None = None) -> Tensor:
    """The network on a copy of x [B, C, H, W] -> logits [B, K] in memory of their own, float16 and bfloat16 widened.

    A network that normalises in place must not write into what other passes, networks and attacks see, and one that
    writes each output where the last one was (CUDA graphs do) not into logits that a loss still needs. run: how it is
    run, if not by calling it. Raises ModelError.
    """
    with in_words(f"{who} fails on images {tuple(x.shape)} {mode_of(network)}"):
        out = network(x.clone()) if run is None else run(network, x.clone())
    _check(out, len(x), who, network)
    return out.clone() if out.dtype == torch.float64 else out.float().clone()


def _check(out: Any, images: int, who: str, network: nn.Module) -> None:
    """Raises ModelError for whatever is no logits."""
    if not isinstance(out, Tensor):
        raise ModelError(
            f"{who} returns a {type(out).__name__} {mode_of(network)}, and a training takes logits [B, K] alone; "
            "switch its auxiliary outputs off, or return its logits from a module around it"
        )
    if not out.is_floating_point():
        raise ModelError(f"{who} returns {out.dtype} {mode_of(network)}; logits are real numbers")
    if out.dim() != 2 or len(out) != images:
        raise ModelError(
            f"{who} returns shape {tuple(out.shape)} for {images} images {mode_of(network)}; logits are [B, K]"
        )


class Beside(nn.Module):
    """Networks side by side, as an attack on all of them sees them: x [B, C, H, W] -> their logits [B, K] in one row,
    each from a copy of x. They keep their modes.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([network(x.clone()) for network in self.networks], 1)


class Shown(nn.Module):
    """x [B, C, H, W] -> its values and a 0 behind them, [B, C H W + 1]: what an attack sees of images beside logits. A
    Target may shift a row of float64; the 0 says by how much.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], 1)


@contextmanager
def in_mode(network: nn.Module, mode: Mode) -> Iterator[None]:
    """The network in training or evaluation mode, and as it was afterwards."""
    before, wanted = network.training, mode == "train"
    if before != wanted:
        network.train(wanted)
    try:
        yield
    finally:
        if before != wanted:
            network.train(before)


def mode_of(network: nn.Module) -> str:
    """In words."""
    return "in training mode" if network.training else "in evaluation mode"


def masks(logits: Tensor) -> Tensor:
    """logits [B, K] -> bool, on their device: whether any row has -inf beside ordinary numbers, as a masked class."""
    lowest = logits.detach() == -torch.inf
    ordinary = (logits.detach().masked_fill(lowest, 0).abs() < ORDINARY).all(1)
    return (lowest.any(1) & ordinary).any()


def masked_words(who: str) -> str:
    """What is said of a network that `masks`."""
    return (
        f"{who} returns a logit of -inf beside ordinary ones (a masked class?): losses such as KL are then no numbers, "
        "and no verdict is made of it; mask with a large negative number, such as -1e4"
    )


def check_trainable(network: nn.Module, who: str) -> None:
    """Raises ModelError for a network without a weight that a training could move."""
    if any(nn.parameter.is_lazy(value) for value in (*network.parameters(), *network.buffers())):
        raise ModelError(
            f"{who} has lazy layers, which have no weights before they have seen an image; pass one through first"
        )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ModelError(f"{who} has no weights to train: it has no parameters, or none has requires_grad = True")


def copied(network: nn.Module, who: str) -> nn.Module:
    """A deep copy without gradients. What passes have left in attributes, as weight norm leaves the weight that it
    computes, comes as a constant until the next pass. Raises ModelError for a network that cannot be copied.
    """
    left = (value for module in network.modules() for value in _tensors(vars(module)) if not value.is_leaf)
    memo: dict[int, Any] = {id(value): value.detach().clone() for value in left}
    with in_words(f"{who} cannot be copied, which averages of weights (schedule.ema) need"):
        average = copy.deepcopy(network, memo)
    for parameter in average.parameters():
        parameter.detach_()  # copies of scripted networks remember what they are copied from
    return average


def _tensors(value: Any) -> Iterable[Tensor]:
    """In dicts, lists and tuples, at any depth."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def check_last_batch(networks: Sequence[nn.Module], x: Tensor, batch_size: int) -> None:
    """Where the last batch of an epoch is one image, tries one, without a trace. Raises ModelError for a network that
    cannot be trained on it, as most with batch norm: now, and not after an epoch.
    """
    if len(x) <= batch_size or (len(x) % batch_size or batch_size) > 1:
        return
    places = [x.device] if x.device.type == "cuda" else []
    for n, network in enumerate(networks, 1):
        with buffers_kept([network]), torch.random.fork_rng(devices=places), in_mode(network, "train"):
            words = [_fails(network, x[:count]) for count in (1, 2)]
        if words[0] and not words[1]:
            fitting = next(size for size in range(batch_size + 1, len(x) + 2) if len(x) % size != 1)
            raise ModelError(
                f"{len(x)} training images in batches of {batch_size} leave a last batch of one, on which network {n} "
                f"cannot be trained ({words[0]}); choose another schedule.batch_size, such as {fitting}"
            )


def _fails(network: nn.Module, x: Tensor) -> str:
    """What the network says of a batch, "" where it takes it."""
    try:
        with torch.no_grad():
            network(x.clone())
    except Exception as error:  # whatever a user's network raises
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""
