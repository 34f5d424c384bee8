"""One record (JSON) per network and threat model that `bench diagnose` looked at."""

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
    settings: what the attacks could spend; source: the network that the transfer attack was crafted on, None is a
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


def trust_of(findings: Iterable[Finding]) -> str:
    """ "ok", "doubtful: ..." with the checks that warn, or "masked: ..." with those that fail."""
    named: dict[str, list[str]] = {}
    for finding in findings:
        named.setdefault(finding.verdict, []).append(finding.check)
    for verdict, word in (("fail", "masked"), ("warn", "doubtful")):
        if verdict in named:
            return f"{word}: {', '.join(named[verdict])}"
    return "ok"


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
