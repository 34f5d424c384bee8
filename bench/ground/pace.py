"""How long the rest will take: from what trainings and attacks of the same name took here, and for those that none is
known of from what is expected (`bench.running.clock`). Honest: it says what it goes by, and what it lacks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from statistics import fmean

UNITS = ((100, 1, "s"), (6000, 60, "min"), (48 * 3600, 3600, "h"), (14 * 86400, 86400, "days"))  # below, seconds, name


class Pace:
    """What is to do, and how long things of each name have taken so far."""

    def __init__(
        self,
        to_do: Mapping[Hashable, str],
        took: Iterable[tuple[str, float]] = (),
        jobs: int = 1,
        expected: Mapping[Hashable, float] | None = None,
    ) -> None:
        """to_do: the name of each training and attack. took: (name, seconds) of those that were done before. jobs:
        processes that share what there is to do. expected: seconds of those that it is estimated for.
        """
        self.to_do, self.jobs, self.expected = dict(to_do), jobs, dict(expected or {})
        self.seconds: dict[str, list[float]] = defaultdict(list)
        for name, seconds in took:
            self.seconds[name].append(seconds)

    def done(self, one: Hashable, seconds: float) -> None:
        """One of them is done; the first word about it counts."""
        if one in self.to_do:
            self.seconds[self.to_do.pop(one)].append(seconds)

    def timed(self, one: Hashable) -> bool:
        """Whether one of the same name was timed: that goes before an estimate."""
        return self.to_do[one] in self.seconds

    def of(self, one: Hashable) -> float | None:
        """Seconds that one of those to do will take in one process; None where there is nothing to go by."""
        return fmean(self.seconds[self.to_do[one]]) if self.timed(one) else self.expected.get(one)

    def left(self) -> str:
        """Such as "about 3 min left", "at least 40 s left: 5 of 9 have no time to go by", or "" when all is done."""
        known = [seconds for one in self.to_do if (seconds := self.of(one)) is not None]
        every, unknown = len(self.to_do), len(self.to_do) - len(known)
        if not every:
            return ""
        if unknown == every:
            return "no time to go by yet"
        guessed = sum(not self.timed(one) and one in self.expected for one in self.to_do)
        lacking = f": {unknown} of {every} have no time to go by" if unknown else ""
        source = f" ({guessed} of {every} estimated)" if guessed else ""
        return f"{'at least' if unknown else 'about'} {duration(sum(known) / self.jobs)} left{source}{lacking}"


def duration(seconds: float) -> str:
    """In two digits or so: "40 s", "12 min", "5 h", "3 days", "6 weeks"."""
    for below, unit, name in UNITS:
        if seconds < below:
            number = seconds / unit
            return f"{number:.1f} {name}" if unit >= 3600 and number < 10 else f"{number:.0f} {name}"
    return f"{seconds / (7 * 86400):.0f} weeks"
