"""What the fork server of test_kill loads before it forks: torch, the digits, and all that a first batch imports."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from methods import INNER
from test_kill import TINY, train_tiny

from trainers.at import AT

with tempfile.TemporaryDirectory() as folder:
    train_tiny(AT(INNER), Path(folder), SimpleNamespace(value=0), replace(TINY, epochs=1, batch_size=160))
