"""AWP, adversarial weight perturbation: Wu, Xia, Wang 2020, https://arxiv.org/abs/2004.05884.

For every batch: adversarial images on the weights w; one ascent step on the method's whole training loss, layer by
layer of length gamma relative to the layer, v = gamma |w| / |g| g; the gradient of the loss at w + v on the same
adversarial images; the optimiser steps from w with that gradient. Only tensors of more than one dimension are
perturbed (no bias, no batch norm), as in the authors' code.

A cohort is perturbed together: g is the gradient of the sum of all losses, and all networks, also as teachers, are at
w + v in the second pass (ours; the paper has one network). Running statistics of batch norm count the second pass only:
the first is forgotten, and with it what an attack with inner.bn = "train" left there. Differs from the authors' code,
which lets weight decay act on w + v.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

TINY = 1e-20  # where a gradient is zero; that of the authors' code


@contextmanager
def buffers_kept(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Buffers are afterwards what they were, also where a network puts new ones in their place."""
    modules = [module for network in networks for module in network.modules()]
    buffers = [(module, *one) for module in modules for one in module.named_buffers(recurse=False)]
    with _kept([buffer for *_, buffer in buffers]):
        yield
    for module, name, buffer in buffers:
        if getattr(module, name) is not buffer:
            setattr(module, name, buffer)


@contextmanager
def perturbed(networks: Sequence[nn.Module], gamma: float) -> Iterator[None]:
    """The networks at w + v, v from the gradients they have; afterwards exactly at w."""
    every: list[Tensor] = [
        p for network in networks for p in network.parameters() if p.dim() > 1 and p.grad is not None
    ]
    with _kept(every):
        if every:
            _ascend(every, [p.grad for p in every if p.grad is not None], gamma)
        yield


@torch.no_grad()
def _ascend(weights: list[Tensor], gradients: list[Tensor], gamma: float) -> None:
    """w <- w + gamma |w| / |g| g for each, in place."""
    lengths = torch._foreach_mul(torch._foreach_norm(weights), gamma)
    torch._foreach_div_(lengths, torch._foreach_add(torch._foreach_norm(gradients), TINY))
    torch._foreach_add_(weights, torch._foreach_mul(gradients, lengths))


@contextmanager
def _kept(values: Sequence[Tensor]) -> Iterator[None]:
    before = [value.detach().clone() for value in values]
    yield
    if before:
        with torch.no_grad():
            torch._foreach_copy_(list(values), before)
