"""TRAINERS: name in TOML -> dataclass. The only list of methods."""

from __future__ import annotations

from trainers.at import AT
from trainers.mart import MART
from trainers.mat import MAT
from trainers.trades import TRADES

TRAINERS = {
    "at": AT,
    "trades": TRADES,
    "mart": MART,
    "mat": MAT,
}
