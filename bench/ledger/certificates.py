"""One record (JSON) per network, threat model and way of proving: which images no attack can break, image by image.

Beside attack records it makes a bracket: proven below, attacked above, open between.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from bench.ground.config import UserError
from bench.ground.files import read_json, write_json
from bench.ground.provenance import Cost, Provenance, check_cost
from bench.ledger.evals import DISTANCES, beyond, read_eval
from bench.ledger.folder import Results, broken, own
from bench.ledger.ids import check_id, check_seed, digest

PROVEN: Final = "proven"
BROKEN: Final = "broken"
OPEN: Final = "open"
BOUNDS: Final = "bounds"
SMOOTHING: Final = "smoothing"
Verdict = Literal["proven", "broken", "open"]
Method = Literal["bounds", "smoothing"]


class Contradiction(UserError):
    """An image is proven and broken: one of the two is wrong, and no number of either may be used."""


@dataclass(frozen=True)
class CertificateRecord:
    """What was proven of one network in one threat model. method: "bounds", of the network itself, or "smoothing", of
    the smoothed classifier made of it. Lists have an entry for each image, in the same order: its number in the test
    set; its label; the verdict; what it is by (such as "linear bounds"); figures: of bounds the least margin's lower
    bound, of smoothing the radius, None where there is none; domains: of branching.
    """

    run_id: str
    certificate_id: str
    method: Method
    settings: dict[str, Any]
    norm: Literal["Linf", "L2"]
    eps: float
    seed: int
    dataset: str
    weights_sha256: str
    images_sha256: str
    images: list[int]
    labels: list[int]
    verdicts: list[Verdict]
    by: list[str]
    figures: list[float | None]
    domains: list[int]
    cost: Cost
    provenance: Provenance

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_cost(self.cost)
        lists = (self.images, self.labels, self.verdicts, self.by, self.figures, self.domains)
        if not self.images or len({len(one) for one in lists}) != 1 or len(set(self.images)) != len(self.images):
            raise ValueError("its lists are not of the same images, each once")
        proven = [figure for figure, verdict in zip(self.figures, self.verdicts, strict=True) if verdict == PROVEN]
        least = self.eps if self.method == SMOOTHING else 0.0
        if self.eps <= 0 or any(figure is None or figure < least for figure in proven):
            raise ValueError("a verdict contradicts its figure")

    def of(self, verdict: str) -> set[int]:
        """The numbers of the images with that verdict."""
        return {image for image, one in zip(self.images, self.verdicts, strict=True) if one == verdict}


@dataclass(frozen=True)
class Bracket:
    """Of one network in one threat model. proven, broken: numbers of images; the other of n are open. by: how many
    images each attack record broke.
    """

    n: int
    proven: set[int]
    broken: set[int]
    by: dict[str, int]

    @property
    def low(self) -> float:
        """Robust accuracy is at least this."""
        return len(self.proven) / self.n

    @property
    def high(self) -> float:
        """Robust accuracy is at most this."""
        return 1 - len(self.broken) / self.n


def certificate_id(name: str, images: int, identity: dict[str, Any]) -> str:
    """Such as "linf-2-255-n200-1a2b3c4d". identity: all that can change the result."""
    return f"{name}-n{images}-{digest(identity)}"


def write_certificate(results: Results, record: CertificateRecord) -> Path:
    """Writes atomically, in place of an earlier one; returns the path. Raises UserError."""
    return write_json(results.certificate(record.run_id, record.certificate_id), record)


def read_certificates(results: Results, run_id: str) -> list[CertificateRecord]:
    """Every certificate of a network. Raises UserError when one is broken."""
    found = []
    for path in sorted(results.certificate(run_id, "x").parent.glob("[!.]*.json")):
        record = own(path, read_json(path, CertificateRecord), run_id=run_id)
        if record.certificate_id != path.stem:
            raise broken(path, f"its certificate_id is {record.certificate_id!r}")
        found.append(record)
    return found


def bracket(results: Results, record: CertificateRecord) -> Bracket:
    """A certificate of bounds beside every attack record of the same weights and data: an image counts as broken where
    any attack fooled the network no farther away than eps, in whatever norm it looked. Raises Contradiction, and
    UserError for a damaged record.
    """
    if record.method == SMOOTHING:
        raise ValueError("smoothing is about another classifier than attacks on the network are")
    label_of, fallen, by = dict(zip(record.images, record.labels, strict=True)), record.of(BROKEN), {}
    for path in sorted(results.evals(check_id(record.run_id)).glob("[!.]*.parquet")):
        attacked = read_eval(results, record.run_id, path.stem)
        if (attacked.weights_sha256, attacked.dataset) != (record.weights_sha256, record.dataset):
            continue
        table = attacked.images
        if record.norm.lower() not in DISTANCES:
            continue
        known = table["image"].map(label_of) == table["label"]
        fooled = (table["adversarial_prediction"] != table["label"]) & ~beyond(table, record.norm, record.eps)
        images = set(table.loc[known & fooled, "image"].tolist())
        by[attacked.eval_id] = len(images)
        fallen |= images
        if both := sorted(images & record.of(PROVEN)):
            raise Contradiction(
                f"image {both[0]}{f' and {len(both) - 1} more' if both[1:] else ''} of {record.run_id} is proven by "
                f"{record.certificate_id} and broken by {attacked.eval_id} within {record.norm} {record.eps:g}: one of "
                "the two is wrong, which is a bug; use no number of either, and report it"
            )
    return Bracket(len(record.images), record.of(PROVEN), fallen, by)
