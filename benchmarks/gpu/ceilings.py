"""What the device can do at most, measured: bytes copied a second, and operations a second of a matrix product."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.gpu.device import synchronize

REPEATS = 10
TRIED = 256  # side of the matrices that say which type is the faster: a moment also where bf16 is emulated


def copied(device: torch.device, count: int) -> list[float]:
    """Bytes/s of a copy within the device's memory, read and written bytes both counted, of `count` bytes each."""
    here = torch.zeros(count, dtype=torch.uint8, device=device)
    there = torch.empty_like(here)
    return [2 * count / seconds for seconds in _seconds(lambda: there.copy_(here), device)]


def multiplied(device: torch.device, side: int, dtype: torch.dtype) -> list[float]:
    """Operations/s (a product and a sum are two) of two matrices of that side and type."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
    return [2 * side**3 / seconds for seconds in _seconds(lambda: a @ b, device)]


def why_not_bf16(device: torch.device) -> str:
    """What bf16 is slower by on this device, as on a CPU that emulates it; "" where it is the faster."""
    narrow, wide = (median(multiplied(device, TRIED, dtype)) for dtype in (torch.bfloat16, torch.float32))
    return "" if narrow > wide else f"bf16 is {wide / narrow:.3g} times slower than float32 here"


def median(values: list[float]) -> float:
    return statistics.median(values)


def _seconds(run: Callable[[], object], device: torch.device) -> list[float]:
    """Of each of REPEATS, after one that warms up."""
    found = []
    for _ in range(REPEATS + 1):
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        found.append(time.perf_counter() - started)
    return found[1:]
