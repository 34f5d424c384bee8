"""The state of whoever calls: their random numbers go on as if there had been no call, and no mode of theirs counts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def untouched() -> Iterator[None]:
    """The random states of Python, NumPy and torch, on every device, are afterwards what they were. Inside, there are
    gradients, also where the caller has none (torch.no_grad, torch.inference_mode).
    """
    plain, numbers = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(numbers)
