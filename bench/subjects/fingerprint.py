"""What a model is, in one hash: two models with another fingerprint are two models."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over weights, all buffers, training flags, and which weights have a gradient. Plain attributes of the
    user's own modules are not seen.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        digest.update(f"{name}:{module.training};".encode())
    for name, value in (model.state_dict(keep_vars=True) | dict(model.named_buffers())).items():
        digest.update(f"{name}:{_has_gradient(value)};".encode())
        digest.update(_content(value))
    return digest.hexdigest()


def _has_gradient(value: object) -> bool:
    """Of what is no leaf torch warns where it is asked."""
    return isinstance(value, Tensor) and value.is_leaf and value.grad is not None


def _content(value: object) -> bytes:
    """The values of a tensor, row by row; what else a state dict holds (of quantised layers a type, and a tuple of
    tensors) as it is written. Weights without values, of lazy modules or on the device meta, are what they are called.
    """
    if isinstance(value, tuple | list):
        return b"".join(_content(part) for part in value)
    if not isinstance(value, Tensor) or is_lazy(value) or value.is_meta:
        return repr(value).encode()
    value = value.detach()
    value = value.dequantize() if value.is_quantized else value.to_dense() if value.layout != torch.strided else value
    return value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
