"""What came of an evaluation: numbers, tables, images; how it looks on a screen is `bench.api.screen`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from bench.ground.provenance import Cost
from bench.ground.stats import Share, wilson
from bench.ledger.budgets import radius
from bench.ledger.diagnoses import CHECKS, Finding, trust_of
from bench.ledger.draws import Draws

SHOWN = 3  # images that fell
IN_MEMORY = "arrays"  # the name of a data set that somebody holds in memory


@dataclass(frozen=True, repr=False, eq=False)
class Result:
    """One model under one attack or the worst case of several, judged image by image.

    model, dataset: their names. norm, eps: the threat model in image units, 8/255 and not 8; norm "own" where there is
    no single one. name: the attacks, as they were asked for. attacks: a line for each that was run, in their order:
    `attack`; `tried`, images that were right and that none before it had fooled; `fell`; `left`; `robust`, the accuracy
    under it and those before it, in [0, 1]; `seconds`. not_run: attacks for which no image was left. images: a line for
    each image: its number in the test set or in x, `label`, `clean_prediction`, `adversarial_prediction`, `robust`
    (right without and with the attacks), the distances `linf`, `l2`, `l1`, `l0` of its adversarial image, the passes,
    and `fell_under`, the attack that fooled it ("" for none). adversarial: [N, C, H, W] float32 in [0, 1] on the CPU,
    the image that fooled where one did; in other rows the image itself, or of a single attack what it made of it.
    signs, findings: what speaks against the number, and the checks that were made. record: where it is kept, None for
    nowhere. next: what to run now. original: [SHOWN, C, H, W] at most, the first images that fell, as they were. draws:
    where the model was asked again and again; `clean` and `robust` are then means over the draws.
    """

    model: str
    dataset: str
    norm: str
    eps: float
    name: str
    attacks: pd.DataFrame
    not_run: tuple[str, ...]
    images: pd.DataFrame
    adversarial: Tensor
    signs: tuple[str, ...]
    findings: tuple[Finding, ...]
    record: Path | None
    cost: Cost
    next: tuple[str, ...]
    notes: tuple[str, ...]
    original: Tensor = field(compare=False)
    draws: Draws | None = field(default=None, kw_only=True)

    @property
    def clean(self) -> Share:
        """Images that are right without an attack: (n, value, low, high), value in [0, 1], the 95 % interval."""
        if self.draws is not None:
            return self.draws.clean_of(self.images)[0]
        return _share(self.images["clean_prediction"] == self.images["label"])

    @property
    def robust(self) -> Share:
        """Images that are right without and with every attack: the worst case, as `clean`."""
        return _share(self.images["robust"]) if self.draws is None else self.draws.robust_of(self.images)[0]

    @property
    def fallen(self) -> pd.DataFrame:
        """The lines of `images` that were right and that an attack fooled."""
        return self.images[(self.images["clean_prediction"] == self.images["label"]) & ~self.images["robust"]]

    @property
    def threat(self) -> str:
        """Such as "Linf 8/255"."""
        return "in several threat models" if self.norm == "own" else f"{self.norm} {radius(self.eps)}"

    @property
    def trust(self) -> str:
        """Whether the number may be believed, as far as it was looked at: "masked: ...", "doubtful: ...", or that
        nothing speaks against it.
        """
        found = trust_of(self.findings)
        if found.startswith("masked") or (found != "ok" and not self.signs):
            return found
        if self.signs:
            beside = f"; {found.removeprefix('doubtful: ')}" if found != "ok" else ""
            return f"doubtful: {len(self.signs)} sign{'s' if len(self.signs) > 1 else ''} against the number{beside}"
        if not self.findings:
            return "no sign speaks against the number; no check was made"
        return f"nothing speaks against the number; {len(self.findings)} of {len(CHECKS)} checks made, all passed"

    def as_json(self) -> dict[str, Any]:
        """All but the images, in what JSON knows; docs/evaluate.md names every key."""
        about = ("model", "dataset", "norm", "eps", "name", "trust", "signs", "notes", "not_run", "next")
        return {
            **{key: getattr(self, key) for key in about},
            "clean": self.clean._asdict(),
            "robust": self.robust._asdict(),
            **({} if self.draws is None else {"draws": asdict(self.draws)}),
            "attacks": self.attacks.to_dict("records"),
            "fell": {name: list(map(int, ids)) for name, ids in self.fallen.groupby("fell_under")["image"]},
            "findings": [asdict(one) for one in self.findings],
            "cost": asdict(self.cost),
            "record": None if self.record is None else str(self.record),
        }

    def __repr__(self) -> str:
        from bench.api.screen import text

        return text(self)

    def _repr_html_(self) -> str:
        from bench.api.html import page

        return page(self)


def _share(flags: pd.Series) -> Share:
    count, n = int(flags.sum()), len(flags)
    return Share(n, count / n, *wilson(count, n))
