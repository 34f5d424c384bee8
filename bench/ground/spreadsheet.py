"""CSV that a spreadsheet shows and does not run: a cell that begins like a formula gets an apostrophe in front.

Spreadsheets run what begins with =, +, -, @ (also their full-width forms) or a control character, and where they split
a line at other signs than commas they look behind those too. Numbers are written as numbers and stay as they are. What
is written so is read back as it was, by `unguarded`.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pandas as pd

from bench.ground.plain import TEXT, read_plain

_RUNS = "[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20]"
_WRITTEN = re.compile(rf"(^|[;|\t\r\n])(?='*{_RUNS})")
_READ = re.compile(rf"(^|[;|\t\r\n])'(?='*{_RUNS})")


def guarded(text: str) -> str:
    """The text of a cell, as a spreadsheet may see it."""
    return _WRITTEN.sub(r"\1'", text)


def unguarded(text: str) -> str:
    """The text that `guarded` made the cell of."""
    return _READ.sub(r"\1", text)


def to_csv(frame: pd.DataFrame, **how: str) -> str:
    """The table without its index; its texts guarded, the names of its columns too."""
    safe = frame.map(lambda value: guarded(value) if isinstance(value, str) else value)
    returns = safe.map(lambda value: isinstance(value, str) and "\r" in value).any(axis=None)
    quoting = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL  # which does not quote a carriage return alone
    return str(safe.rename(columns=guarded).to_csv(index=False, quoting=quoting, **how))


def read_csv(path: Path) -> pd.DataFrame:
    """Every cell as the text that it was. Raises OSError for what is no plain file, and ValueError."""
    # a row may be named NA, a hash be all digits
    frame = pd.read_csv(io.BytesIO(read_plain(path, TEXT)), dtype=str, keep_default_na=False)
    return frame.map(unguarded).rename(columns=unguarded)
