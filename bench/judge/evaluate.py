"""Model + attack + images -> one verdict per image: the judge that trusts no attack.

Whatever an attack returns is looked at afresh: same shape and type, finite, inside [0, 1], inside its threat model,
and the label wrong in a float32 pass of its own, in batches of another size than the attack used, by a copy of the
model that has seen nothing else. The model is fingerprinted before and after. An attack that breaks its promise raises;
it never becomes a number. What speaks against a number without voiding it is said beside it: `bench.judge.signs`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor, nn

from attacks.adapters import LibraryError
from attacks.contract import Attack, ThreatModel, balls_of, inside
from attacks.noise import Noise, derive_seed
from attacks.norms import distance
from attacks.target import ModelError, Target, default_batch_size
from bench.ground.config import UserError
from bench.ground.provenance import Cost
from bench.judge import signs
from bench.judge.inputs import of_inputs
from bench.ledger.audits import Audit
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
    `bench.judge.audit`; what it broke is in the table.
    """

    table: pd.DataFrame
    x_adv: Tensor
    cost: Cost
    signs: tuple[str, ...] = field(default=(), kw_only=True)
    audit: Audit | None = field(default=None, kw_only=True)

    @property
    def clean_accuracy(self) -> float:
        """Share of images that are right without an attack."""
        return float((self.table["clean_prediction"] == self.table["label"]).mean())

    @property
    def robust_accuracy(self) -> float:
        """Share of all images that are right without and with the attack."""
        return float(self.table["robust"].mean())


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
    """Attack the images that the model gets right, and judge every image.

    model: in evaluation mode, on the device to use, [B, C, H, W] in [0, 1] -> logits [B, classes]. attack: None is
    clean accuracy. name, seed: with each image's id they make its noise. run: how the model is run. crafted: what
    `craft` made of the same images with the same attack, on another network; it is judged instead, and its cost is
    counted in. blank: copies of the model, made before it was asked anything. clean: [N] its predictions, where they
    are known. look: for signs. on_target: sees the target before the attack, whose counts say how far it is.
    Raises UserError for bad images, ModelError for a model that cannot be measured, AttackError for an attack that
    broke its contract.
    """
    check_images(images.x, images.y, classes)
    device, blank = _device(model), blank or Blank(model)
    x, y = images.x.to(device), images.y.to(device)
    before = fingerprint(model)
    started = time.perf_counter()
    target = run.target(model, len(x))
    if on_target:
        on_target(target)
    logits = target.true_logits(x) if clean is None else None
    if logits is not None:
        check_logits(logits, classes)
    clean = logits.argmax(1) if logits is not None else clean.to(device)  # type: ignore[union-attr]
    x_adv, passes = x.clone(), target.passes_per_image
    standing = (clean == y).nonzero().squeeze(1)
    if crafted is not None and attack is not None:
        x_adv, passes = crafted.x_adv.to(device), passes + crafted.passes
        check_contract(name, attack, x, x_adv)
        started -= crafted.seconds
    elif attack is not None and len(standing):
        noise = Noise(derive_seed("attack", name, seed), images.ids.to(device))
        target.quick = run.quick(model, x[standing])
        x_adv[standing] = _run(name, attack, target[standing], x[standing], y[standing], noise[standing])
    _check_unchanged(name, model, before)
    afresh = None if attack is None else _fresh_logits(blank.fresh(), x_adv, run.batch_size)
    adversarial = clean if afresh is None else afresh.argmax(1)
    seconds = time.perf_counter() - started
    threat = ThreatModel("own", 0) if attack is None else attack.threat
    table = _table(images, x_adv, threat, clean, adversarial, passes)
    found = list(crafted.signs) if crafted is not None else signs.of_parts(name, attack, target.fooled_by)
    if look:
        climbed, some = crafted is None and bool(passes[1].any()), signs.sample(len(x))
        both = None if afresh is None else (Target(model).true_logits(x_adv[some]), afresh[some])
        found += _signs(name, blank, attack, Images(x, y, images.ids.to(device)), clean, logits, climbed, both)
    return Verdicts(table, x_adv, Cost(seconds, *passes.sum(1).tolist()), signs=tuple(found))


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
    target = run.target(source, len(x))
    if on_target:
        on_target(target)
    logits = target.true_logits(x)
    check_logits(logits, classes)
    target.quick = run.quick(source, x)
    x_adv = _run(name, attack, target, x, y, Noise(derive_seed("attack", name, seed), images.ids.to(device)))
    _check_unchanged(name, source, before)
    seconds, given = time.perf_counter() - started, Images(x, y, images.ids.to(device))
    found = _signs(name, blank, attack, given, logits.argmax(1), logits, climbed=True) if look else []
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


def _run(name: str, attack: Attack, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
    """What the attack makes of x, checked. Raises AttackError."""
    try:
        x_adv = attack(target, x, y, noise)
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


def _fresh_logits(model: nn.Module, x_adv: Tensor, batch_size: int | None) -> Tensor:
    """Float32 logits in batches about two thirds the size of the attack's: no batch of its repeats."""
    other = max(1, (batch_size or default_batch_size(x_adv)) * 2 // 3)
    logits = Target(model, other).true_logits(x_adv)
    if not torch.isfinite(logits).all():
        raise ModelError("the model returns NaN or infinity on adversarial images; such an image has no verdict")
    return logits


def _signs(
    name: str,
    blank: Blank,
    attack: Attack | None,
    images: Images,
    clean: Tensor,
    logits: Tensor | None,
    climbed: bool,
    both: tuple[Tensor, Tensor] | None = None,
) -> list[str]:
    """What speaks against the number. clean [N]: predictions; logits [N, K], where they are new. climbed: whether the
    attack followed this model's gradients. both: logits of a sample of adversarial images, of the model and afresh.
    """
    found = signs.of_steps(name, attack)
    if logits is not None:
        found += signs.of_outputs(logits, images.y) + of_inputs(blank, images, logits)
        questions = signs.about(blank, attack, images)
        found += signs.of_inner_steps(questions)
        answers = signs.of_answers(questions, logits[signs.sample(len(logits))])
        if not answers and both is not None:
            answers = signs.of_memory(blank, *both)
        if answers:
            return found + answers
    right = (clean == images.y).nonzero().squeeze(1)
    return found + (signs.of_gradients(signs.about(blank, attack, images.take(right))) if climbed else [])


def _table(
    images: Images, x_adv: Tensor, threat: ThreatModel, clean: Tensor, adversarial: Tensor, passes: Tensor
) -> pd.DataFrame:
    x, y = images.x.to(x_adv.device), images.y.to(x_adv.device)
    robust = (clean == y) & ((adversarial == y) | ~threat.contains(x, x_adv))
    columns = {
        "image": images.ids,
        "label": images.y,
        "clean_prediction": clean,
        "adversarial_prediction": adversarial,
        "robust": robust,
    }
    columns |= {norm.lower(): distance(norm, x, x_adv) for norm in DISTANCES}
    columns |= {"forward_passes": passes[0], "backward_passes": passes[1]}
    return pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
