"""One file that a training is continued from: written beside and renamed, so what exists is whole."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch


class Checkpoint:
    """The file of one training. path: None keeps nothing. identity: what training it belongs to."""

    def __init__(self, path: Path | None, identity: str, minutes: float) -> None:
        self.path, self.identity, self.minutes = path, identity, minutes
        self._written = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last one is `minutes` old."""
        return self.path is not None and time.monotonic() - self._written >= 60 * self.minutes

    def read(self) -> dict[str, Any] | None:
        """What was written last, on the CPU; None where there is nothing. Raises ValueError for another training's."""
        if self.path is None or not self.path.exists():
            return None
        content: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        if content["identity"] != self.identity:
            raise ValueError(
                f"{self.path} belongs to another training ({content['identity']}); delete it and train again"
            )
        return content

    def write(self, content: dict[str, Any]) -> None:
        """Tensors and plain types only."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        with open(part, "wb") as file:
            torch.save(content | {"identity": self.identity}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.path)
        self._written = time.monotonic()
