"""Verdicts over repeated draws of a model that answers at random: what a record keeps beside its per-image counts."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from bench.ground.stats import Share, over_draws

COLUMNS = ("clean_draws", "robust_draws")  # per image: in how many draws it is right without the attack, and with it


@dataclass(frozen=True)
class Draws:
    """clean, robust: [D] for each draw, how many images were right without the attack, and with it."""

    clean: list[int]
    robust: list[int]

    def __post_init__(self) -> None:
        if len(self.clean) != len(self.robust) or len(self.clean) < 2 or min(*self.clean, *self.robust) < 0:
            raise ValueError("draws are two lists of counts, one of each for every draw, and at least two")

    @property
    def count(self) -> int:
        """How many draws."""
        return len(self.robust)

    def clean_of(self, images: pd.DataFrame) -> tuple[Share, float]:
        """images: the per-image table -> accuracy without the attack, and its spread: see `over_draws`."""
        return over_draws(self.clean, images["clean_draws"])

    def robust_of(self, images: pd.DataFrame) -> tuple[Share, float]:
        """As `clean_of`, with the attack."""
        return over_draws(self.robust, images["robust_draws"])

    def contradicted(self, images: pd.DataFrame) -> bool:
        """Whether the per-image counts are not those of these draws."""
        sums = zip(COLUMNS, (self.clean, self.robust), strict=True)
        return any(
            not images[name].between(0, self.count).all() or images[name].sum() != sum(each) or max(each) > len(images)
            for name, each in sums
        )
