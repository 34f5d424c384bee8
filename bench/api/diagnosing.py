"""`bench.diagnose`: all checks for gradient masking on one model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import pandas as pd

from bench.api import given
from bench.api.given import Labels, Model, More, Pixels
from bench.api.untouched import untouched
from bench.diagnosis.diagnose import diagnose_model
from bench.ground.terminal import visible
from bench.ledger.diagnoses import DiagnosisRecord


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """Whether the robustness of one model may be believed. record: with figures, settings and provenance. lines: what
    `bench diagnose` prints.
    """

    record: DiagnosisRecord
    lines: tuple[str, ...]

    @property
    def trust(self) -> str:
        """ "ok" (of all checks), "doubtful: ..." or "masked: ..." with the checks."""
        return self.record.verdict

    @property
    def checks(self) -> pd.DataFrame:
        """A line for each check: `check`, `verdict` (pass, warn, fail, skip), `figure`, `meaning`."""
        return pd.DataFrame([vars(finding) for finding in self.record.findings])

    def __repr__(self) -> str:
        return visible("\n".join(self.lines))

    def _repr_html_(self) -> str:
        from bench.api.html import listing

        rows = [(one.check, one.verdict, f"{one.figure}; {one.meaning}") for one in self.record.findings]
        return listing(self.lines[0], rows, f"trust: {self.trust}")


def diagnose(
    model: Model,
    x: Pixels | str | None = None,
    y: Labels | None = None,
    *,
    norm: str | None = None,
    eps: float | str | None = None,
    images: int | None = None,
    **more: Unpack[More],
) -> Diagnosis:
    """All checks of docs/diagnose.md, as `bench diagnose MODEL`: are masked gradients taken for robustness?

    Arguments as in `bench.evaluate`; images: so many of them (default: all of x; of a data set 100). source=: the
    network that the transfer attack is crafted on; without it a substitute is trained, which takes training images, so
    that of x, y alone that check is not made. Nothing is kept unless results= names a folder. Raises UserError.

        bench.diagnose(model, "cifar10", norm="Linf", eps=8 / 255).trust
    """
    known = given.known(more)
    with untouched():
        choice, how = given.choice_of(model, x, y, images, known), given.how_of(norm, eps, known)
        batch = how.arrangement.batch_size
        record, lines = diagnose_model(
            choice, eps=how.eps, norm=how.norm, seed=how.seed, batch_size=batch, effort=None, keep=how.keep
        )
    return Diagnosis(record, tuple(lines))
