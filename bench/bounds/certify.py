"""`bench certify`: which images no attack inside a radius can break: proven, broken or open, and a record.

Interval bounds, then linear ones, then with optimised slopes, then branch and bound: each sees the images that the
one before it left open. All are about the network in exact arithmetic; what float32 adds is in LEAST_MARGIN.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attacks.contract import ThreatModel
from attacks.model import ModelError
from attacks.target import Target
from bench.bounds.ball import Ball
from bench.bounds.branching import Budget, branch
from bench.bounds.graph import read
from bench.bounds.root import Problem, of_margins, start, tightened
from bench.bounds.smoothing import Smoothing, votes
from bench.ground.config import UserError, settings_of
from bench.ground.progress import Progress
from bench.ground.provenance import Cost, provenance
from bench.judge.evaluate import check_logits
from bench.ledger.budgets import radius
from bench.ledger.certificates import (
    BOUNDS,
    BROKEN,
    OPEN,
    PROVEN,
    SMOOTHING,
    Bracket,
    CertificateRecord,
    Verdict,
    bracket,
    certificate_id,
    write_certificate,
)
from bench.ledger.ids import slug
from bench.ledger.spec import CLEAN
from bench.subjects.chosen import Choice, Subject, choose_norm
from bench.subjects.data import Images, check_images
from bench.subjects.device import choose_device, describe

VERSION = 1  # of what is proven: goes up when a change of the code changes verdicts
AT_ONCE = 8  # images bounded together
LEAST_MARGIN = 1e-5  # of the largest logit: a float32 pass was never seen to be off by so much
METHODS, BRANCHING = ("linear bounds over intervals", "linear bounds", "optimised slopes"), "branching"


@dataclass(frozen=True)
class Effort:
    """steps: of the optimiser of slopes. The rest: of branching, see `Budget`."""

    slopes: int = 20
    budget: Budget = field(default_factory=Budget)


class Found(NamedTuple):
    """What is known of one image."""

    verdict: Verdict
    by: str = ""
    figure: float | None = None
    domains: int = 0


def certify_model(
    choice: Choice,
    eps: float,
    norm: str,
    seed: int = 0,
    *,
    smoothing: Smoothing | None = None,
    effort: Effort | None = None,
) -> list[str]:
    """Prove what can be proven, write the record -> what to print. smoothing: certify that classifier instead.

    Raises UserError, for a network that cannot be bounded with the operation; Contradiction where an attack record
    says otherwise.
    """
    threat, effort = _threat(norm, eps, smoothing), effort or Effort()
    device, loaded = choose_device(choice.device), choice.load()
    subject = choice.subjects(loaded, device)[0]
    images = choice.pick(loaded, len(loaded.test))
    check_images(images.x, images.y, loaded.classes)
    started = time.perf_counter()
    target = Target(subject.blank.fresh())
    try:
        logits = target.true_logits(images.x.to(device)).cpu()
        check_logits(logits, loaded.classes)
        with Progress() as progress:
            advance = progress.count(f"certifying {choice.model}", len(images))
            if smoothing:
                found = _smoothed(target, images, threat, smoothing, seed, advance)
            else:
                found = prove(subject.network, images, logits, threat, effort, advance)
    except ModelError as error:
        raise UserError(f"{choice.model}: {error}") from error
    settings = settings_of(smoothing or effort)
    where = provenance(describe(device), torch.get_num_threads())
    about: dict[str, Any] = {"settings": settings, "seed": seed, "dataset": loaded.name, "provenance": where}
    about["method"] = SMOOTHING if smoothing else BOUNDS
    record = _record(subject, images, threat, found, Cost(time.perf_counter() - started, 0, 0), about)
    lines = _smoothed_lines(record, smoothing) if smoothing else _lines(record, bracket(choice.results, record))
    return [*lines, f"data: {loaded.source}", f"record: {write_certificate(choice.results, record)}"]


def _threat(norm: str, eps: float, smoothing: Smoothing | None) -> ThreatModel:
    chosen: Any = choose_norm(norm)
    if chosen not in ("Linf", "L2") or (smoothing and chosen != "L2"):
        known = "--smoothing proves in L2" if smoothing else "bounds are known in Linf and L2"
        raise UserError(f"{known}, not in {chosen}; give --norm L2{'' if smoothing else ' or Linf'}")
    try:
        threat = ThreatModel(chosen, eps)
    except ValueError as error:
        raise UserError(str(error)) from error
    if eps == 0:
        raise UserError("at radius 0 there is nothing to prove; give one above 0, as in --eps 2/255")
    return threat


def prove(
    model: nn.Module,
    images: Images,
    logits: Tensor,
    threat: ThreatModel,
    effort: Effort | None = None,
    advance: Callable[[], None] | None = None,
) -> list[Found]:
    """One verdict per image of what bounds alone know. model: in evaluation mode; logits [N, K]: its own, on a CPU.

    The ball is the one that the judge allows an attack, with its tolerance. Raises UserError for a network that
    cannot be bounded.
    """
    x, y = images.x.cpu(), images.y.cpu()
    above = LEAST_MARGIN * max(1.0, float(logits.detach().abs().max()))
    prover = _Prover(Target(deepcopy(model).cpu()), threat, above, effort or Effort())
    graph = read(model, x[:2])
    found = [Found(BROKEN, CLEAN)] * len(x)
    right = (logits.argmax(1) == y).nonzero().squeeze(1)
    for rows in right.split(AT_ONCE):
        problem = start(graph, Ball(threat.norm, threat.limit, x[rows].double()), y[rows])  # type: ignore[arg-type]
        for row, one in zip(rows.tolist(), prover.few(problem), strict=True):
            found[row] = one
            if advance:
                advance()
    return found


@dataclass(frozen=True)
class _Prover:
    """target: the network itself, to judge what branching calls broken. above: what a margin must be."""

    target: Target
    threat: ThreatModel
    above: float
    effort: Effort

    def few(self, problem: Problem) -> list[Found]:
        """Of some images that the network gets right."""
        found, left, some = [Found(OPEN)] * len(problem.y), torch.arange(len(problem.y)), problem
        bound, slopes = torch.empty(0), dict[int, Tensor]()
        for by, steps in zip(METHODS, (None, 0, self.effort.slopes), strict=True):
            if len(left) == 0:
                return found
            some = some if steps is None else tightened(some, steps)
            bound, slopes = of_margins(some, steps or 0)
            proven = bound.amin(1) > self.above
            for row, value, is_proven in zip(left.tolist(), bound.amin(1).tolist(), proven.tolist(), strict=True):
                figure = value if abs(value) < float("inf") else None
                found[row] = Found(PROVEN, by, figure) if is_proven else Found(OPEN, "", figure)
            left, some, bound = left[~proven], some[~proven], bound[~proven]
            slopes = {at: slope[~proven] for at, slope in slopes.items()}
        if self.effort.budget.domains:
            for at, row in enumerate(left.tolist()):
                own = slice(at, at + 1)
                of_one = {node: slope[own] for node, slope in slopes.items()}
                found[row] = self.branched(some[own], bound[own], of_one, found[row])
        return found

    def branched(self, one: Problem, bound: Tensor, slopes: dict[int, Tensor], before: Found) -> Found:
        """Of one image that bounds left open."""
        if not torch.isfinite(bound).all():
            return before
        outcome = branch(one, bound, slopes, self.above, self.effort.budget)
        if outcome.proven:
            return Found(PROVEN, BRANCHING, self.above, outcome.domains)
        if outcome.fooled is not None:
            x_adv, x = outcome.fooled.unsqueeze(0), one.ball.x.float()
            wrong = self.target.true_logits(x_adv).argmax(1) != one.y
            if bool((wrong & self.threat.contains(x, x_adv)).all()):
                return Found(BROKEN, BRANCHING, before.figure, outcome.domains)
        return before._replace(domains=outcome.domains)


def _smoothed(
    target: Target, images: Images, threat: ThreatModel, how: Smoothing, seed: int, advance: Callable[[], None]
) -> list[Found]:
    found = []
    for x, y, image in zip(images.x, images.y.tolist(), images.ids.tolist(), strict=True):
        chosen, count = votes(target, x, image, how, seed)
        far = how.radius(count)
        if chosen != y:
            found.append(Found(BROKEN if far > 0 else OPEN, "votes", far))
        else:
            found.append(Found(PROVEN if far >= threat.eps else OPEN, "votes", far))
        advance()
    return found


def _record(
    subject: Subject, images: Images, threat: ThreatModel, found: list[Found], cost: Cost, about: dict[str, Any]
) -> CertificateRecord:
    """about: method, settings, seed, dataset and provenance."""
    same: dict[str, Any] = {"norm": threat.norm, "eps": threat.eps, "images_sha256": images.sha256}
    identity = {**same, "version": VERSION, **{key: about[key] for key in ("method", "settings", "seed", "dataset")}}
    name = "-".join([about["method"], threat.norm.lower(), slug(radius(threat.eps))])
    return CertificateRecord(
        run_id=subject.run_id,
        certificate_id=certificate_id(name, len(images), identity),
        weights_sha256=subject.weights_sha256,
        images=images.ids.tolist(),
        labels=images.y.tolist(),
        verdicts=[one.verdict for one in found],
        by=[one.by for one in found],
        figures=[one.figure for one in found],
        domains=[one.domains for one in found],
        cost=cost,
        **same,
        **about,
    )


def _lines(record: CertificateRecord, found: Bracket) -> list[str]:
    """What came out, beside what attacks on the same weights say."""
    n, domains = found.n, sum(record.domains)
    by = Counter(by for by, verdict in zip(record.by, record.verdicts, strict=True) if verdict == PROVEN)
    ways = ", ".join(f"{by[way]} by {way}" for way in (*METHODS, BRANCHING) if by[way])
    attacked = max(found.by.items(), key=lambda one: one[1], default=None)
    words = f"of {len(found.by)} attack records {attacked[0]} breaks most" if attacked else "no attack record is there"
    left = n - len(found.proven) - len(found.broken)
    lines = [
        f"{record.run_id}: {record.norm} {radius(record.eps)}, {n} images of {record.dataset}",
        f"clean accuracy: {1 - record.by.count(CLEAN) / n:.2%}",
        f"proven: {len(found.proven)} ({found.low:.2%}){f': {ways}' if ways else ''}; {domains} domains bounded",
        f"broken: {len(found.broken)} ({len(found.broken) / n:.2%}); {words}",
        f"open: {left} ({left / n:.2%})",
    ]
    if not found.proven:
        return [
            *lines,
            f"at {radius(record.eps)} these bounds say nothing about this network, neither good nor bad",
        ]
    return [*lines, f"robust accuracy lies in [{found.low:.2%}, {found.high:.2%}]: proven below, attacked above"]


def _smoothed_lines(record: CertificateRecord, how: Smoothing) -> list[str]:
    n, right = len(record.images), sum(one != BROKEN for one in record.verdicts)
    proven, eps = len(record.of(PROVEN)), radius(record.eps)
    lines = [
        f"{record.run_id} smoothed with sigma {how.sigma:g}: L2 {eps}, {n} images of {record.dataset}",
        f"proven: {proven} ({proven / n:.2%}), each but for a chance of {how.failure:g}; of the smoothed classifier, "
        "which is not the network that attacks are run on",
        f"voted for another class: {n - right}",
    ]
    if how.farthest < record.eps:
        lines.append(f"with {how.draws} draws no radius beyond {how.farthest:.4g} can be proven; give more --draws")
    return lines
