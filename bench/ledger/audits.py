"""What an audit of an attack's number found, and how much it leaves open."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import comb

from bench.ground.stats import LEVEL, clopper_pearson


@dataclass(frozen=True)
class Audit:
    """A dearer attack on a random sample of the images that an attack left standing.

    auditor: its name; parts: those that it is the worst case of. standing: images that stood before it; sample: how
    many of them it was tried on. found: part -> how many of the sample it broke. broken_by: part -> the ids of all
    images that it broke: of the sample, and then of the rest, on which the parts that had found something were run.
    attack_passes, audit_passes, rest_passes: [forward, backward] of the attack on the images that stood, of the auditor
    on the sample, and of those parts on the rest, each summed over images.
    """

    auditor: str
    parts: list[str]
    standing: int
    sample: int
    found: dict[str, int]
    broken_by: dict[str, list[int]] = field(repr=False)
    attack_passes: list[int]
    audit_passes: list[int]
    rest_passes: list[int]

    def __post_init__(self) -> None:
        if (
            not 0 <= self.sample <= self.standing
            or not {*self.found} <= {*self.parts}
            or {*self.broken_by} - {*self.found}
        ):
            raise ValueError("an audit of more images than stood, or by parts that it does not have")
        if any(len(passes) != 2 for passes in (self.attack_passes, self.audit_passes, self.rest_passes)):
            raise ValueError("passes are two numbers, forward and backward")

    @property
    def broken(self) -> int:
        """How many images of the sample it broke."""
        return sum(self.found.values())

    @property
    def fallen(self) -> int:
        """How many of the images that stood it broke, in the sample and after it."""
        return sum(map(len, self.broken_by.values()))

    @property
    def bound(self) -> float:
        """At most so large a share of the images that stood would the auditor still break, 95 % one-sided.

        Where it found nothing this is Clopper and Pearson's. Where a part found something, all images have seen that
        part, and what is left to the others was chosen by looking: a set of m parts has at most C(m, m / 2) subsets
        none of which holds another (Sperner 1928), so the chance of error is divided by that and one more.
        """
        left = len(self.parts) - len(self.found_by)
        if self.sample == self.standing or left == 0:
            return 0.0
        if self.sample == 0:
            return 1.0
        m = len(self.parts)
        chance = (1 - LEVEL) / (comb(m, m // 2) + 1 if self.broken else 1)
        return clopper_pearson(0, self.sample, 1 - chance)

    @property
    def found_by(self) -> list[str]:
        """The parts that broke an image of the sample."""
        return [part for part, count in self.found.items() if count]

    @property
    def saved(self) -> float:
        """Share of the auditor's passes saved, against all images that stood audited: what it would have spent on those
        that fell is not known. Below 0 where it alone would have been cheaper.
        """
        if not sum(self.audit_passes):
            return 0.0
        whole = sum(self.audit_passes) * self.standing / self.sample
        return 1 - (sum(self.attack_passes) + sum(self.audit_passes) + sum(self.rest_passes)) / whole

    def words(self, images: int) -> str:
        """In a sentence. images: of all, also those that are wrong or fell."""
        if not self.standing:
            return "nothing stands that could be audited"
        head = f"{self.auditor} breaks {self.broken} of {self.sample} drawn at random of the {self.standing} that stand"
        if self.broken:
            by = ", ".join(f"{part} {count}" for part, count in self.found.items() if count)
            head += f" ({by}); run on the others too, these break {self.fallen - self.broken} more"
        if (left := self.bound) == 0:
            told = "nothing is left open"
        else:
            points = 100 * left * self.standing / images
            told = f"with 95 % confidence it would break at most {100 * left:.2f} % of them more"
            told += f" ({points:.2f} points of accuracy)"
        return f"{head}; {told}; {100 * max(0.0, self.saved):.0f} % of its passes saved"
