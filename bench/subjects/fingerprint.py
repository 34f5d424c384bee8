"""What a model is, in one hash: two models with another fingerprint are two models."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over weights, all buffers, training flags, and which weights have a gradient. Plain attributes of the
    user's own modules are not seen.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        digest.update(f"{name}:{module.training};".encode())
    for name, value in (model.state_dict(keep_vars=True) | dict(model.named_buffers())).items():
        digest.update(f"{name}:{value.grad is not None};".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
