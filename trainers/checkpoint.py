"""One file that a training is continued from: written beside and renamed, so what exists is whole; and the moment to
stop when a signal asks for it.
"""

from __future__ import annotations

import io
import os
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from trainers.health import TrainingError

SIGNALS = signal.SIGINT, signal.SIGTERM


class Checkpoint:
    """The file of one training. path: None keeps nothing. identity: what training it belongs to."""

    def __init__(self, path: Path | None, identity: str, minutes: float) -> None:
        self.path, self.identity, self.minutes = path, identity, minutes
        self.asked: int | None = None  # the signal that waits for the end of a batch
        self._written = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last one is `minutes` old, or the training is to stop."""
        late = time.monotonic() - self._written >= 60 * self.minutes
        return self.path is not None and (late or self.asked is not None)

    def read(self) -> dict[str, Any] | None:
        """What was written last, on the CPU; None where there is nothing. Raises TrainingError for a damaged file and
        for another training's.
        """
        if self.path is None or not self.path.exists():
            return None
        if not self.path.is_file():  # a pipe would be waited for without end
            raise TrainingError(f"{self.path} is no plain file; delete it, and its training starts from the beginning")
        try:
            with zipfile.ZipFile(self.path) as archive:  # torch does not look at the checksums that it writes
                whole = archive.testzip() is None
            content: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True) if whole else {}
        except Exception:  # a damaged archive or pickle may break any part of their readers
            content = {}
        if "identity" not in content:
            raise TrainingError(f"{self.path} is damaged; delete it, and its training starts from the beginning")
        if content["identity"] != self.identity:
            raise TrainingError(
                f"{self.path} belongs to another training ({content['identity']}); delete it and train again"
            )
        return content

    def write(self, content: dict[str, Any]) -> None:
        """Tensors and plain types only. Raises OSError; what was written before is then still there."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part, whole = self.path.with_suffix(".part"), io.BytesIO()
        torch.save(content | {"identity": self.identity}, whole)  # in memory: on a full disk torch hides the reason
        try:
            with open(part, "wb") as file:
                file.write(whole.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)
        self._written = time.monotonic()

    @contextmanager
    def stopping_between_batches(self) -> Iterator[None]:
        """Inside, SIGINT and SIGTERM wait until `stop_if_asked`; a second one does not wait. Without a file, outside
        the main thread, and for signals that are ignored, nothing changes.
        """
        if self.path is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.getsignal(one) for one in SIGNALS}
        before = {one: handler for one, handler in before.items() if handler not in (signal.SIG_IGN, None)}

        def ask(number: int, frame: object) -> None:
            self.asked = number
            for one, handler in before.items():
                signal.signal(one, handler)

        try:
            for one in before:
                signal.signal(one, ask)
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
            self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """Hands on the signal that came, if any; whoever set its handler decides how the process ends."""
        asked, self.asked = self.asked, None
        if asked is not None:
            signal.raise_signal(asked)
