"""Model + attack + images -> one verdict per image: the judge that trusts no attack.

Whatever an attack returns is looked at afresh: same shape and type, finite, inside [0, 1], inside its threat model,
and the label wrong in a float32 pass of its own, in batches of another size than the attack used, by a copy of the
model that has seen nothing else. The model is fingerprinted before and after. An attack that breaks its promise raises;
it never becomes a number. What speaks against a number without voiding it is said beside it: `bench.judge.signs`.

A model that answers at random has no verdict of one pass. It is refused, or asked again and again (`draws` of its
Arrangement): then an image is right in so many draws of so many, and the class that most draws give is its prediction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor, nn

from attacks.adapters import LibraryError
from attacks.contract import Attack, ThreatModel, balls_of, check_channels, inside
from attacks.model import ModelError
from attacks.noise import Noise, derive_seed
from attacks.norms import distance
from attacks.target import Target, default_batch_size
from bench.ground.config import UserError
from bench.ground.provenance import Cost
from bench.judge import signs
from bench.judge.draws import Answers, answers, seeded
from bench.judge.inputs import of_inputs
from bench.ledger.audits import Audit
from bench.ledger.draws import COLUMNS as COUNTS
from bench.ledger.draws import Draws
from bench.ledger.evals import CORRUPTIONS
from bench.subjects.blank import Blank
from bench.subjects.data import Images, check_images
from bench.subjects.fingerprint import fingerprint
from bench.subjects.quick import AS_IT_IS, Arrangement

DISTANCES = ("Linf", "L2", "L1", "L0")


class AttackError(RuntimeError):
    """The attack broke its contract, or its library crashed: what came of it is no data point."""


@dataclass(frozen=True)
class Crafted:
    """Adversarial images [N, C, H, W] that were made on one network, to be judged on others, and what they cost.

    passes: [2, N] int64, forward and backward passes of each image. signs: what speaks against them, see `Verdicts`.
    """

    x_adv: Tensor
    passes: Tensor
    seconds: float
    signs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdicts:
    """One row per image (the columns of `EvalRecord.images`), the adversarial images [N, C, H, W], and the cost.

    signs: phrases that say why the number may be too high, see `bench.judge.signs`. audit: where there was one, see
    `bench.judge.audit`; what it broke is in the table. draws: where there were several; the accuracies are means over
    them, and the table has their counts, `bench.ledger.draws.COLUMNS`.
    """

    table: pd.DataFrame
    x_adv: Tensor
    cost: Cost
    signs: tuple[str, ...] = field(default=(), kw_only=True)
    audit: Audit | None = field(default=None, kw_only=True)
    draws: Draws | None = field(default=None, kw_only=True)

    @property
    def clean_accuracy(self) -> float:
        """Share of images that are right without an attack."""
        if self.draws is not None:
            return self.draws.clean_of(self.table)[0].value
        return float((self.table["clean_prediction"] == self.table["label"]).mean())

    @property
    def robust_accuracy(self) -> float:
        """Share of all images that are right without and with the attack; of a corruption of those right with it."""
        return float(self.table["robust"].mean()) if self.draws is None else self.draws.robust_of(self.table)[0].value


def evaluate(
    model: nn.Module,
    attack: Attack | None,
    images: Images,
    classes: int,
    *,
    name: str = "clean",
    seed: int = 0,
    run: Arrangement = AS_IT_IS,
    crafted: Crafted | None = None,
    blank: Blank | None = None,
    clean: Tensor | None = None,
    look: bool = True,
    on_target: Callable[[Target], None] | None = None,
) -> Verdicts:
    """Attack the images that the model gets right, and judge every image; corrupt every image, see `is_plain`.

    model: in evaluation mode, on the device to use, [B, C, H, W] in [0, 1] -> logits [B, classes]. attack: None is
    clean accuracy. name, seed: with each image's id they make its noise. run: how the model is run. crafted: what
    `craft` made of the same images with the same attack, on another network; it is judged instead, and its cost is
    counted in. blank: copies of the model, made before it was asked anything. clean: [N] its predictions, where they
    are known; not of several draws. look: for signs. on_target: sees the target before the attack, whose counts say how
    far it is.
    Raises UserError for bad images, ModelError for a model that cannot be measured, AttackError for an attack that
    broke its contract.
    """
    check_images(images.x, images.y, classes)
    device, blank = _device(model), blank or Blank(model)
    x, y = images.x.to(device), images.y.to(device)
    given = Images(x, y, images.ids.to(device))
    before = fingerprint(model)
    started = time.perf_counter()
    target = run.target(model, len(x))
    if on_target:
        on_target(target)
    said = None if clean is not None else answers(lambda: target.true_logits(x), run.times, seed, "clean")
    if said is not None:
        check_logits(said.logits, classes)
        if look and run.draws is None:
            signs.check_still(signs.about(blank, attack, given))
    clean_each = clean.to(device)[None] if said is None else said.each  # type: ignore[union-attr]
    x_adv, passes = x.clone(), target.passes_per_image
    standing = ((clean_each == y).any(0) | is_plain(attack)).nonzero().squeeze(1)
    if crafted is not None and attack is not None:
        x_adv, passes = crafted.x_adv.to(device), passes + crafted.passes
        check_contract(name, attack, x, x_adv)
        started -= crafted.seconds
    elif attack is not None and len(standing):
        target.quick = run.quick(model, x[standing])
        x_adv[standing] = _run(name, attack, run.over(target, y)[standing], given.take(standing), seed)
    _check_unchanged(name, model, before)
    afresh = None if attack is None else judged(blank.fresh(), x_adv, run, seed, name)
    seconds = time.perf_counter() - started
    each = (clean_each, clean_each if afresh is None else afresh.each)
    table, draws = _table(images, x_adv, ThreatModel("own", 0) if attack is None else attack.threat, each, passes)
    found = list(crafted.signs) if crafted is not None else signs.of_parts(name, attack, target.fooled_by)
    if look:
        climbed, some = crafted is None and bool(passes[1].any()), signs.sample(len(x))
        both = None if afresh is None else (Target(model).true_logits(x_adv[some]), afresh.logits[some])
        logits = None if said is None else said.logits
        right = (clean_each == y).all(0)
        found += signs.of_steps(name, attack)
        found += _signs(blank, attack, given, right, logits, climbed, both, run.draws)
    return Verdicts(table, x_adv, Cost(seconds, *passes.sum(1).tolist()), signs=tuple(found), draws=draws)


def is_plain(attack: Attack | None) -> bool:
    """Whether every image is changed, also one that is wrong as it is, and counts if it is right when changed."""
    return attack is not None and attack.threat.norm == CORRUPTIONS


def craft(
    source: nn.Module,
    attack: Attack,
    images: Images,
    classes: int,
    *,
    name: str,
    seed: int = 0,
    run: Arrangement = AS_IT_IS,
    blank: Blank | None = None,
    look: bool = True,
    on_target: Callable[[Target], None] | None = None,
) -> Crafted:
    """Attack every image on `source`, also those it gets wrong, for `evaluate` to judge on other networks.

    Arguments and errors as in `evaluate`.
    """
    check_images(images.x, images.y, classes)
    device, blank = _device(source), blank or Blank(source)
    x, y = images.x.to(device), images.y.to(device)
    before, started = fingerprint(source), time.perf_counter()
    given = Images(x, y, images.ids.to(device))
    target = run.target(source, len(x))
    if on_target:
        on_target(target)
    logits = target.true_logits(x)
    check_logits(logits, classes)
    if look and run.draws is None:
        signs.check_still(signs.about(blank, attack, given))
    target.quick = run.quick(source, x)
    x_adv = _run(name, attack, run.over(target, y), given, seed)
    _check_unchanged(name, source, before)
    seconds, right = time.perf_counter() - started, logits.argmax(1) == y
    found = signs.of_steps(name, attack) if look else []
    found += _signs(blank, attack, given, right, logits, climbed=True, draws=run.draws) if look else []
    about = tuple(f"the network that it was crafted on: {words}" for words in found)
    return Crafted(x_adv.cpu(), target.passes_per_image, seconds, about)


def check_transfer(name: str, attack: Attack | None) -> Attack:
    """The attack, if it may be crafted on another network. Raises UserError for none, and for one that stops at its
    first success: images at the source's boundary fool few other networks.
    """
    if attack is None or getattr(attack, "stop", "last") == "first":
        raise UserError(
            f"{name!r} cannot be crafted on another network: a transfer attack runs to its last iterate; "
            'set stop = "last", as in pgd-100-last'
        )
    return attack


def _run(name: str, attack: Attack, target: Target, images: Images, seed: int) -> Tensor:
    """What the attack makes of x, checked; it sees draws of its own, where it sees several. Raises AttackError, and
    UserError for images that it does not know.
    """
    x, noise = images.x, Noise(derive_seed("attack", name, seed), images.ids)
    try:
        check_channels(attack, x)
    except ValueError as error:
        raise UserError(f"{name}: {error}; take another attack") from error
    try:
        with seeded(seed, "attack", name) if target.draws > 1 else nullcontext():
            x_adv = attack(target, x, images.y, noise)
    except LibraryError as error:  # a crash of our own passes through: its traceback is what one needs
        raise AttackError(f"{name}: {error}") from error
    check_contract(name, attack, x, x_adv)
    return x_adv


def _check_unchanged(name: str, model: nn.Module, before: str) -> None:
    if fingerprint(model) != before:
        raise AttackError(f"{name} changed the model (weights, buffers, mode or gradients); its result is void")


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def check_logits(logits: Tensor, classes: int) -> None:
    """logits [N, K] of clean images. Raises ModelError in one sentence for what cannot be measured."""
    if logits.shape[1] != classes:
        raise ModelError(f"the model returns {logits.shape[1]} classes; the data set has {classes}")
    if not torch.isfinite(logits).all():
        bad = int((~torch.isfinite(logits)).any(1).sum())
        raise ModelError(f"the model returns NaN or infinity on {bad} of {len(logits)} clean images")
    if (logits >= 0).all() and ((logits.sum(1) - 1).abs() < signs.SUMS).all():
        raise ModelError(
            "the model returns probabilities (every row is >= 0 and sums to 1), on which gradients vanish; "
            "return the logits before the softmax"
        )


def check_contract(name: str, attack: Attack, x: Tensor, x_adv: Tensor) -> None:
    """x, x_adv [N, C, H, W]. Raises AttackError when the attack left its threat model on any image."""
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape or x_adv.dtype != x.dtype:
        got = f"{tuple(x_adv.shape)} {x_adv.dtype}" if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise AttackError(f"{name} returned {got} for images {tuple(x.shape)} {x.dtype}")
    legal = inside(attack, x, x_adv)
    if not legal.all():
        balls = " or ".join(f"{ball.norm}, eps = {ball.eps:g}" for ball in balls_of(attack))
        raise AttackError(
            f"{name} left its threat model ({balls}, images in [0, 1]) "
            f"on {int((~legal).sum())} of {len(x)} images; an attack must project, the judge will not"
        )


def judged(model: nn.Module, x_adv: Tensor, run: Arrangement, seed: int, name: str) -> Answers:
    """Float32 answers in batches about two thirds the size of the attack's: no batch of its repeats."""
    other = Target(model, max(1, (run.batch_size or default_batch_size(x_adv)) * 2 // 3))
    found = answers(lambda: other.true_logits(x_adv), run.times, seed, "verdicts", name)
    if not torch.isfinite(found.logits).all():
        raise ModelError("the model returns NaN or infinity on adversarial images; such an image has no verdict")
    return found


def _signs(
    blank: Blank,
    attack: Attack | None,
    images: Images,
    right: Tensor,
    logits: Tensor | None,
    climbed: bool,
    both: tuple[Tensor, Tensor] | None = None,
    draws: int | None = None,
) -> list[str]:
    """What speaks against the number. right [N] bool; logits [N, K], where they are new. climbed: whether the attack
    followed this model's gradients. both: logits of a sample of adversarial images, of the model and afresh. draws: how
    often it was to be asked; None where nobody said, and answers that move were refused.
    """
    found = []
    if logits is not None:
        found += signs.of_outputs(logits, images.y) + of_inputs(blank, images, logits)
        questions = signs.about(blank, attack, images)
        found += signs.of_inner_steps(questions)
        if draws is not None and (moves := signs.of_moves(questions)):
            return found + (moves if draws == 1 else [])
        answers = signs.of_answers(questions, logits[signs.sample(len(logits))])
        if not answers and both is not None:
            answers = signs.of_memory(blank, *both)
        if answers:
            return found + answers
    return found + (
        signs.of_gradients(signs.about(blank, attack, images.take(right.nonzero().squeeze(1)))) if climbed else []
    )


def _table(
    images: Images, x_adv: Tensor, threat: ThreatModel, each: tuple[Tensor, Tensor], passes: Tensor
) -> tuple[pd.DataFrame, Draws | None]:
    """each: predictions [D, N] without the attack and with it. A minimal-norm attack's image beyond the radius counts
    as what the image itself is.
    """
    x, y = images.x.to(x_adv.device), images.y.to(x_adv.device)
    clean, adversarial = (predictions.mode(0).values for predictions in each)
    near, right = threat.contains(x, x_adv), each[0] == y
    held = torch.where(near, each[1] == y, right)
    columns = {
        "image": images.ids,
        "label": images.y,
        "clean_prediction": clean,
        "adversarial_prediction": adversarial,
        "robust": ((clean == y) | (threat.norm == CORRUPTIONS)) & ((adversarial == y) | ~near),
    }
    columns |= {norm.lower(): distance(norm, x, x_adv) for norm in DISTANCES}
    columns |= {"forward_passes": passes[0], "backward_passes": passes[1]}
    if len(held) > 1:
        columns |= dict(zip(COUNTS, (right.sum(0), held.sum(0)), strict=True))
    table = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
    return table, Draws(right.sum(1).tolist(), held.sum(1).tolist()) if len(held) > 1 else None
