"""The device a command runs on."""

from __future__ import annotations

import torch

from bench.config import UserError


def choose_device(name: str) -> torch.device:
    """The torch device of that name; "auto" is CUDA where there is one, else the CPU. Raises UserError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used here ({reason}); try --device cpu") from error
    return device


def describe(device: torch.device) -> str:
    """The device in words, for the provenance of records."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
