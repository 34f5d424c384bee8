"""How long the rest will take, from what trainings and attacks of the same name took. Honest: it says what it lacks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import fmean


class Pace:
    """What is to do, by name, and how long each name has taken so far."""

    def __init__(self, to_do: Iterable[str], took: Iterable[tuple[str, float]] = ()) -> None:
        """to_do: a name for each training and attack. took: (name, seconds) of those that were done before."""
        self.to_do = Counter(to_do)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        for name, seconds in took:
            self.seconds[name].append(seconds)

    def done(self, name: str, seconds: float) -> None:
        """One of that name is done."""
        self.to_do[name] -= 1
        self.seconds[name].append(seconds)

    def left(self) -> str:
        """Such as "about 3 min left", "at least 40 s left: 5 of 9 have no time to go by", or "" when all is done."""
        names = list(self.to_do.elements())
        unknown = sum(name not in self.seconds for name in names)
        seconds = sum(fmean(self.seconds[name]) for name in names if name in self.seconds)
        if not names:
            return ""
        if unknown == len(names):
            return "no time to go by yet"
        words = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        lacking = f": {unknown} of {len(names)} have no time to go by" if unknown else ""
        return f"{'at least' if unknown else 'about'} {words} left{lacking}"
