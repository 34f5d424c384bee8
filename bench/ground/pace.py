"""How long the rest will take, from what trainings and attacks of the same name took. Honest: it says what it lacks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from statistics import fmean


class Pace:
    """What is to do, and how long things of each name have taken so far."""

    def __init__(self, to_do: Mapping[Hashable, str], took: Iterable[tuple[str, float]] = (), jobs: int = 1) -> None:
        """to_do: the name of each training and attack. took: (name, seconds) of those that were done before. jobs:
        processes that share what there is to do.
        """
        self.to_do, self.jobs = dict(to_do), jobs
        self.seconds: dict[str, list[float]] = defaultdict(list)
        for name, seconds in took:
            self.seconds[name].append(seconds)

    def done(self, one: Hashable, seconds: float) -> None:
        """One of them is done; the first word about it counts."""
        if one in self.to_do:
            self.seconds[self.to_do.pop(one)].append(seconds)

    def left(self) -> str:
        """Such as "about 3 min left", "at least 40 s left: 5 of 9 have no time to go by", or "" when all is done."""
        names = list(self.to_do.values())
        unknown = sum(name not in self.seconds for name in names)
        seconds = sum(fmean(self.seconds[name]) for name in names if name in self.seconds) / self.jobs
        if not names:
            return ""
        if unknown == len(names):
            return "no time to go by yet"
        words = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        lacking = f": {unknown} of {len(names)} have no time to go by" if unknown else ""
        return f"{'at least' if unknown else 'about'} {words} left{lacking}"
