"""`bench verify --adversarial`: anybody's adversarial images, judged like those of any attack, and held to a claim.

What lies outside the box or the ball is counted, named and not taken for adversarial: such an image stands as it was.
Nothing is clipped or projected, as that would be another image than the one that was given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from attacks.contract import ThreatModel, in_box
from attacks.model import ModelError
from attacks.noise import Noise
from attacks.norms import distance
from attacks.target import Target
from bench.ground.config import UserError
from bench.ground.provenance import provenance
from bench.ground.stats import wilson
from bench.judge.evaluate import Verdicts, evaluate
from bench.ledger import ids
from bench.ledger.budgets import radius
from bench.ledger.evals import EvalRecord, write_eval
from bench.ledger.ids import slug
from bench.subjects import adversarial_file
from bench.subjects.adversarial_file import Given
from bench.subjects.chosen import Choice, Subject, choose_images, choose_norm
from bench.subjects.data import Dataset, Images
from bench.subjects.device import choose_device, describe

NAMED = 10  # images outside that a line names
ROUNDED = 0.5 / 255  # how far originals may lie from the data set's: one of the two was rounded to bytes


@dataclass(frozen=True)
class Claim:
    """What somebody says of images in a file. robust: the accuracy that they are said to leave, in percent."""

    file: Path
    norm: str
    eps: float
    robust: float | None = None

    def __post_init__(self) -> None:
        if self.robust is not None and not 0 <= self.robust <= 100:
            raise UserError(f"--claim {self.robust:g} is no robust accuracy in percent; write 56.2")

    @property
    def threat(self) -> ThreatModel:
        """Raises UserError."""
        try:
            return ThreatModel(choose_norm(self.norm), self.eps)  # type: ignore[arg-type]
        except ValueError as error:
            raise UserError(str(error)) from error


@dataclass(frozen=True)
class Recalled:
    """An attack that returns what somebody else found: x_adv [N, C, H, W] of the images with these ids [N]."""

    closest: ClassVar[bool] = False
    version: ClassVar[int] = 1
    threat: ThreatModel
    x_adv: Tensor
    ids: Tensor

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """See `attacks.contract.Attack`; the target is not asked."""
        place = {image: at for at, image in enumerate(self.ids.tolist())}
        return self.x_adv[[place[image] for image in noise.ids.tolist()]].to(x)


@dataclass(frozen=True)
class Laid:
    """Images beside those that were given for them. x_adv: [N, C, H, W], where none was given the image itself; given:
    [N] bool.
    """

    images: Images
    x_adv: Tensor
    given: Tensor


def judge_claim(choice: Choice, claim: Claim, keep: bool = False) -> tuple[list[str], bool]:
    """What came out, in lines, and whether the claim holds (True where none was made). keep: write a record.

    Raises UserError.
    """
    device, loaded, threat = choose_device(choice.device), choice.load(), claim.threat
    found = adversarial_file.read(claim.file)
    laid = _lay(found, claim.file, choice, loaded)
    (subject,) = replace(choice, source=None).subjects(loaded, device)
    box, ball = in_box(laid.x_adv), threat.contains(laid.images.x, laid.x_adv)
    legal = torch.where(ball[:, None, None, None], laid.x_adv, laid.images.x)
    attack = Recalled(threat, legal, laid.images.ids)
    try:
        verdicts = evaluate(
            subject.network.to(device), attack, laid.images, loaded.classes, name=_name(claim), blank=subject.blank
        )
    except ModelError as error:
        raise UserError(f"{choice.words}: {error}") from error
    words, holds = _held(claim, verdicts)
    lines = [
        f"{claim.file}: {_count(laid)}, judged within {threat.norm} {radius(threat.eps)}",
        *_outside(laid, threat, box, ball),
        *_numbers(verdicts, threat, laid),
        *words,
        f"data: {loaded.source}",
    ]
    if keep:
        judged = _Judged(claim, found.sha256, laid, verdicts, int((~ball).sum()))
        record = _record(judged, loaded, subject, describe(device))
        lines.append(f"record: {write_eval(choice.results, record)}")
    return lines, holds


def _lay(found: Given, file: Path, choice: Choice, loaded: Dataset) -> Laid:
    """The images that are judged, and what was given for each. Raises UserError where they do not fit each other."""
    shape, test = tuple(found.x_adv.shape[1:]), loaded.test
    if shape != loaded.image_shape:
        raise UserError(f"{file}: images are {shape}, and those of {loaded.name} {loaded.image_shape}")
    count = len(found.x_adv)
    if found.ids is not None:
        return _laid_by_number(found, found.ids, file, choose_images(loaded, choice.images, choice.indices))
    if choice.indices is not None:
        images = choose_images(loaded, None, choice.indices)
        rows = torch.arange(count) if count == len(images) else torch.searchsorted(test.ids, images.ids)
        if count not in (len(images), len(test)):
            raise UserError(
                f"{file} holds {count} images; {choice.indices} names {len(images)}, and {loaded.name} has {len(test)} "
                "test images: give one for each"
            )
    else:
        if count > len(test):
            raise UserError(f"{file} holds {count} images; {loaded.name} has {len(test)} test images")
        images, rows = test.head(count), torch.arange(count)
    most = min(choice.images or len(images), len(images))
    if choice.images is not None and choice.images > len(images):
        raise UserError(f"--images {choice.images}: {file} holds {count} images; leave it out to judge all of them")
    return Laid(images.head(most), found.x_adv[rows[:most]], torch.ones(most, dtype=torch.bool))


def _laid_by_number(found: Given, numbers: Tensor, file: Path, images: Images) -> Laid:
    """As `bench attack --keep-adversarial` wrote them: those that fool, with their numbers."""
    place = {image: at for at, image in enumerate(images.ids.tolist())}
    strange = [image for image in numbers.tolist() if image not in place]
    if strange:
        raise UserError(
            f"{file} holds image {strange[0]}, which is none of the {len(images)} images that are judged; say which "
            "were attacked with --images or --indices"
        )
    rows = torch.tensor([place[image] for image in numbers.tolist()], dtype=torch.int64)
    if found.originals is not None:
        apart = (found.originals - images.x[rows]).flatten(1).abs().amax(1)
        if bool((apart > ROUNDED).any()):
            image, most = int(numbers[int(apart.argmax())]), float(apart.max())
            raise UserError(
                f"{file}: its original of image {image} is not that of the data set (apart by {most:.3g}); was it made "
                "on other data, or with another --size?"
            )
    x_adv, given = images.x.clone(), torch.zeros(len(images), dtype=torch.bool)
    x_adv[rows], given[rows] = found.x_adv, True
    return Laid(images, x_adv, given)


def _count(laid: Laid) -> str:
    some, every = int(laid.given.sum()), len(laid.given)
    rest = "" if some == every else f"; the other {every - some} of {every} images are judged as they are"
    return f"{some} adversarial images{rest}"


def _outside(laid: Laid, threat: ThreatModel, box: Tensor, ball: Tensor) -> list[str]:
    """How many lie outside, and which."""
    lines = []
    for mask, words in ((~box, "[0, 1], or hold NaN"), (box & ~ball, f"{threat.norm} {radius(threat.eps)}")):
        if bool(mask.any()):
            named = ", ".join(map(str, laid.images.ids[mask][:NAMED].tolist()))
            more = int(mask.sum()) - NAMED
            named += f" and {more} more" if more > 0 else ""
            lines.append(f"outside: {int(mask.sum())} leave {words}, and count as not attacked: images {named}")
    if int((~ball).sum()) > int(laid.given.sum()) / 2:
        lines.append(
            "outside: more than half; are they in the order of the test images, and of this data set? --indices says "
            "which they are"
        )
    return lines


def _numbers(verdicts: Verdicts, threat: ThreatModel, laid: Laid) -> list[str]:
    table = verdicts.table
    low, high = wilson(int(table["robust"].sum()), len(table))
    right = table["clean_prediction"] == table["label"]
    far = distance(threat.norm, laid.images.x, laid.x_adv).nan_to_num(-1, posinf=-1)
    farthest = int(far.argmax())
    return [
        f"clean accuracy: {verdicts.clean_accuracy:.2%}",
        f"robust accuracy: {verdicts.robust_accuracy:.2%}; 95 % interval [{low:.2%}, {high:.2%}]",
        f"{int((right & ~table['robust']).sum())} of the {int(right.sum())} images that were right fall",
        f"farthest: {threat.norm} {float(far[farthest]):.6g}, of image {int(laid.images.ids[farthest])} (radius "
        f"{threat.eps:.6g})",
        *(f"sign: {words}" for words in verdicts.signs),
    ]


def _held(claim: Claim, verdicts: Verdicts) -> tuple[list[str], bool]:
    """The claim in words, and whether it holds: whether it lies in the interval of what was measured."""
    if claim.robust is None:
        return [], True
    robust = verdicts.table["robust"]
    low, high = wilson(int(robust.sum()), len(robust))
    said, found = f"claim: {claim.robust:.2f}%", f"{verdicts.robust_accuracy:.2%}"
    step = 0.5 / len(robust) + 1e-9  # a claim is rounded; one that means these very images is never outside
    share = claim.robust / 100
    if low - step <= share <= high + step and not math.isnan(share):
        return [f"{said} holds: it lies within the interval of {found}"], True
    if share > high:
        return [f"{said} does not hold: these images leave {found}, which is less than claimed"], False
    return [f"{said} does not hold: these images leave {found}, so they do not show it"], False


class _Judged(NamedTuple):
    """What a record is made of. sha256: of the file; outside: how many images lay outside."""

    claim: Claim
    sha256: str
    laid: Laid
    verdicts: Verdicts
    outside: int


def _name(claim: Claim) -> str:
    return f"given-{slug(claim.file.stem)}"


def _record(judged: _Judged, loaded: Dataset, subject: Subject, device: str) -> EvalRecord:
    """Like that of any attack; its settings are the file's hash, the ball, and how many images lay outside."""
    claim, laid, verdicts = judged.claim, judged.laid, judged.verdicts
    threat = claim.threat
    settings: dict[str, Any] = {"threat": {"norm": threat.norm, "eps": threat.eps}, "file_sha256": judged.sha256}
    settings["outside"] = judged.outside
    resolved, name = {"attack": "given", "version": Recalled.version, "settings": settings}, _name(claim)
    identity = ids.eval_identity(resolved, name, laid.images.sha256, 0, ids.EVAL_OPTIONS[0])
    return EvalRecord(
        run_id=subject.run_id,
        eval_id=ids.eval_id(name, len(laid.images), identity),
        attack=name,
        settings=settings,
        norm=threat.norm,
        eps=threat.eps,
        seed=0,
        dataset=loaded.name,
        weights_sha256=subject.weights_sha256,
        images_sha256=laid.images.sha256,
        cost=verdicts.cost,
        provenance=provenance(device, torch.get_num_threads()),
        images=verdicts.table,
        signs=list(verdicts.signs),
        reading=loaded.reading,
    )
