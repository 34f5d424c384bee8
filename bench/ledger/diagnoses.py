"""One record (JSON) per network and threat model that `bench diagnose` looked at, and what an "ok" in it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.ground.files import read_json, write_json
from bench.ground.provenance import Cost, Provenance
from bench.ledger.folder import Results, Source, broken, own
from bench.ledger.ids import check_id

Verdict = Literal["pass", "warn", "fail", "skip"]
CHECKS = (  # in the order in which they are made
    "evaluation-mode", "logits", "differentiable", "deterministic", "batch-independent", "memory", "zero-gradients",
    "loss-rises", "true-slope", "linearity", "single-step", "more-steps", "restarts", "margin-loss", "larger-radius",
    "half-the-range", "noise", "square", "transfer", "boundary", "neighbours", "sample",
)  # fmt: skip
NOT_IN = {"square": "L1"}  # checks that cannot be made in a norm: an "ok" does without them there, and only there
LEAST_IMAGES = 50  # with fewer, two attacks must lie 16 points apart before the paired test is sure
LEAST_RIGHT = 8  # images that are right; with fewer, no paired test at 0.01 can be sure of anything


@dataclass(frozen=True)
class Effort:
    """What the attacks of a diagnosis may spend on an image. few, steps, many: of PGD; draws: of noise; queries: of
    Square; walk: steps of the boundary attack; epochs: of the substitute's training.
    """

    few: int = 10
    steps: int = 50
    many: int = 250
    restarts: int = 5
    draws: int = 50
    queries: int = 500
    walk: int = 200
    epochs: int = 5


@dataclass(frozen=True)
class Finding:
    """What one check says. verdict: "skip" where it could not be made. figure: the numbers behind it, in words;
    meaning: what they say about the model, and what to do.
    """

    check: str
    verdict: Verdict
    figure: str
    meaning: str


@dataclass(frozen=True)
class DiagnosisRecord:
    """Whether the robustness of one network may be believed. norm, eps: the threat model it was attacked in.
    settings: the `Effort` of the attacks; source: the network that the transfer attack was crafted on, None is a
    substitute trained for it. trust: of `trust_of(findings)`. Raises ValueError where it is not.
    """

    run_id: str
    norm: str
    eps: float
    settings: dict[str, Any]
    seed: int
    dataset: str
    weights_sha256: str
    images_sha256: str
    images: int
    source: Source | None
    findings: list[Finding]
    trust: str
    cost: Cost
    provenance: Provenance

    def __post_init__(self) -> None:
        if not self.findings or self.trust != trust_of(self.findings):
            raise ValueError(f"trust {self.trust!r} is not what its {len(self.findings)} findings say")

    @property
    def lacks(self) -> str:
        """What it takes for an "ok" and is missing here, as in "without memory"; "" where nothing is. An older release
        made fewer checks, and a check that was skipped was not made.
        """
        made = {finding.check for finding in self.findings if finding.verdict != "skip"}
        if without := [name for name in CHECKS if name not in made and NOT_IN.get(name) != self.norm]:
            return f"without {', '.join(without)}"
        if self.images < LEAST_IMAGES:
            return f"on {self.images} of at least {LEAST_IMAGES} images"
        usual = vars(Effort())
        short = [name for name, least in usual.items() if not _at_least(self.settings.get(name), least)]
        return f"with less than the usual {', '.join(short)}" if short else ""

    @property
    def verdict(self) -> str:
        """What may be said of the network: its trust, but "ok" only of all checks on enough images."""
        return f"not diagnosed with all checks ({self.lacks})" if self.trust == "ok" and self.lacks else self.trust


def trust_of(findings: Iterable[Finding]) -> str:
    """ "ok", "doubtful: ..." with the checks that warn, or "masked: ..." with those that fail."""
    named: dict[str, list[str]] = {}
    for finding in findings:
        named.setdefault(finding.verdict, []).append(finding.check)
    for verdict, word in (("fail", "masked"), ("warn", "doubtful")):
        if verdict in named:
            return f"{word}: {', '.join(named[verdict])}"
    return "ok"


def _at_least(spent: object, least: int) -> bool:
    return isinstance(spent, int) and spent >= least


def write_diagnosis(results: Results, record: DiagnosisRecord) -> Path:
    """Writes atomically, in place of an earlier one; returns the path. Raises UserError."""
    return write_json(results.diagnosis(record.run_id, record.norm, record.eps), record)


def read_diagnoses(results: Results, run_id: str) -> list[DiagnosisRecord]:
    """Every diagnosis of a network, one for each threat model. Raises UserError when one is broken."""
    found = []
    for path in sorted((results.root / "diagnoses" / check_id(run_id)).glob("[!.]*.json")):
        record = own(path, read_json(path, DiagnosisRecord), run_id=run_id)
        if path != results.diagnosis(run_id, record.norm, record.eps):
            raise broken(path, f"it is of {record.norm} {record.eps:g}")
        found.append(record)
    return found
