"""How much of a loan is left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable


class Clock:
    """Seconds since the command began, of `seconds`. GPU_STARTED (seconds since 1970) says when, where it is set."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.time) -> None:
        self.now, self.seconds = now, seconds
        self.started = float(os.environ.get("GPU_STARTED") or now())

    @property
    def left(self) -> float:
        """Seconds; below 0 when they are over."""
        return self.seconds - (self.now() - self.started)
