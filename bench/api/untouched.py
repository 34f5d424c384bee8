"""The random numbers of whoever calls: after a call they go on as if there had been none."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def untouched() -> Iterator[None]:
    """The random states of Python, NumPy and torch, on every device, are afterwards what they were."""
    plain, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(numbers)
