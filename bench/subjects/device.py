"""The device a command runs on, and how this process uses it."""

from __future__ import annotations

import ctypes
import sys

import torch

from bench.ground.config import UserError, first_line

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's <malloc.h>


def choose_device(name: str) -> torch.device:
    """The torch device of that name; "auto" is CUDA where there is one, else the CPU. Raises UserError.

    From then on this process keeps the memory that it frees.
    """
    keep_freed_memory()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise UserError(f"device {name!r} is not supported; known: cpu, cuda, cuda:1, ... and auto")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {name!r} cannot be used here ({first_line(error)}); try --device cpu") from error
    return device


def describe(device: torch.device) -> str:
    """The device in words, for the provenance of records."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def keep_freed_memory() -> None:
    """Where the C library is glibc: what a tensor below 32 MiB frees is for the next, and not given back to the kernel.

    The kernel would fill every page with zeros again: on a CPU a tenth to a fifth of a training step of cnn-a.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
