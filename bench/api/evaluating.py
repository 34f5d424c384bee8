"""`bench.evaluate`, `bench.attack`, and `bench attack MODEL` without an attack: attack, look, and say what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch

from bench.api import given, pointers
from bench.api.given import Labels, Model, More, Pixels
from bench.api.result import SHOWN, Result
from bench.api.untouched import untouched
from bench.diagnosis.diagnose import glance, threat_of
from bench.ground.config import UserError
from bench.ledger.diagnoses import Finding
from bench.running.attack import Attacked, How, attack_model
from bench.subjects.catalog import STANDARD, Catalog
from bench.subjects.chosen import Choice, named
from bench.subjects.standard import RADII

Say = Callable[[str], None]


def evaluate(
    model: Model,
    x: Pixels | str | None = None,
    y: Labels | None = None,
    *,
    attacks: str | Sequence[str] = STANDARD,
    norm: str | None = None,
    eps: float | str | None = None,
    images: int | None = None,
    **more: Unpack[More],
) -> Result:
    """How robust is this model, and may that be believed? The worst case of several attacks, and the cheap checks.

    model: a torch.nn.Module in evaluation mode, images [B, C, H, W] in [0, 1] -> logits [B, K], of which a copy is
    attacked; or what `bench attack` takes: a run id, a weights file (with arch=), module:factory, torchvision:NAME, ...
    x: [N, C, H, W] float in [0, 1], or uint8 in 0..255, also [N, H, W, C]; tensor or array. y: [N] class numbers from
    0. Or x is the name or path of a data set, whose test images are taken. attacks: "standard" (PGD, then the parts of
    AutoAttack, in that norm), names of `bench list attacks` or suites. norm: "Linf", "L2", "L1"; eps: the radius in
    image units, 8/255 or "8/255" and not 8; by default of a run those of its training, of a named data set the usual
    ones. images: so many, see `Images.some` (default: all of x; of a data set 100 in standard). more:
    `bench.api.given.More`. Nothing is kept on disk unless results= names a folder. The model, its mode and its
    gradients stay as they are, and so do the random numbers of the caller.

    Raises UserError for a mistake in the call, AttackError where an attack broke its contract.

        result = bench.evaluate(model, x, y, norm="Linf", eps=8 / 255)
        result.robust.value, result.attacks, result.images
    """
    choice, how, say = _given(model, x, y, norm, eps, images, dict(more))
    names = (attacks,) if isinstance(attacks, str) else tuple(attacks)
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"attacks = {attacks!r}; give a name of `bench list attacks`, or a list of them")
    with untouched():
        return verdict(choice, names, how, say)


def attack(
    model: Model,
    attack: str,
    x: Pixels | str | None = None,
    y: Labels | None = None,
    *,
    norm: str | None = None,
    eps: float | str | None = None,
    images: int | None = None,
    **more: Unpack[More],
) -> Result:
    """One attack, or a suite, and nothing else: `bench attack MODEL ATTACK`.

    attack: a name of `bench list attacks`; norm, eps: in place of its own. All others as in `evaluate`, which also
    looks whether the number may be believed; here only the signs are said that every attack looks for.

    Raises UserError, AttackError.

        result = bench.attack(model, "pgd-20", x, y, eps=4 / 255, settings={"pgd-20.steps": 50})
        result.adversarial
    """
    if not isinstance(attack, str):
        raise UserError(
            f"the attack is a {type(attack).__name__}; give a name of `bench list attacks`, then the images"
        )
    choice, how, say = _given(model, x, y, norm, eps, images, dict(more))
    with untouched():
        return attacked(choice, (attack,), how, say)


def attacked(choice: Choice, attacks: tuple[str, ...], how: How, say: Say) -> Result:
    """`attack`, of a choice. Raises UserError, AttackError."""
    return _result(attack_model(choice, attacks, how, say), "+".join(attacks), (), choice)


def verdict(choice: Choice, attacks: tuple[str, ...], how: How, say: Say) -> Result:
    """`evaluate`, of a choice. say: is called with a line for what is weak, and as each attack ends. Raises UserError,
    AttackError.
    """
    loaded = choice.load()
    if STANDARD in attacks:
        threat = threat_of(choice, how.eps, how.norm, RADII.get(loaded.name, {}))
        suite = Catalog(how.recipes).standard(threat.norm, loaded.name)
        attacks = tuple(suite if name == STANDARD else name for name in attacks)
        how = replace(how, norm=threat.norm, eps=threat.eps)
    done = attack_model(replace(choice, dataset=loaded), attacks, how, say)
    return _result(done, "+".join(attacks), _glanced(done, how), choice)


def _given(
    model: Model,
    x: Pixels | str | None,
    y: Labels | None,
    norm: str | None,
    eps: float | str | None,
    images: int | None,
    more: dict[str, Any],
) -> tuple[Choice, How, Say]:
    known = given.known(more)
    with untouched():
        choice = given.choice_of(model, x, y, images, known)
    return choice, given.how_of(norm, eps, known), known.get("say", _nobody)


def _nobody(line: str) -> None:
    """Nobody listens."""


def _glanced(done: Attacked, how: How) -> list[Finding]:
    """The cheap checks, where there is one radius to make them in."""
    threat = done.threat
    if threat.norm not in ("Linf", "L2", "L1") or threat.eps == 0:
        return []
    classes, batch = done.dataset.classes, how.arrangement.batch_size
    return glance(done.subject, threat, done.images, classes, how.seed, batch)


def _result(done: Attacked, name: str, findings: Sequence[Finding], choice: Choice) -> Result:
    """What is said of it all."""
    verdicts, threat = done.verdicts, done.threat
    under = {image: part.attack for part in done.parts for image in part.broken}
    images = verdicts.table.assign(fell_under=[under.get(image, "") for image in verdicts.table["image"]])
    fell = np.flatnonzero(images["fell_under"] != "")[:SHOWN]
    attacked = [one for one, (attack, _) in done.attacks.items() if attack is not None]
    return Result(
        model=done.subject.run_id if isinstance(choice.model, str) else named(choice.model),
        dataset=done.dataset.name,
        norm=threat.norm,
        eps=threat.eps,
        name=name,
        attacks=_parts(done),
        not_run=tuple(attacked[len(done.parts) :]),
        images=images,
        adversarial=verdicts.x_adv.detach().cpu(),
        signs=verdicts.signs,
        findings=tuple(findings),
        record=done.record,
        cost=verdicts.cost,
        next=pointers.next_steps(choice, done, threat),
        notes=done.weak,
        original=done.images.take(torch.from_numpy(fell)).x,
        draws=verdicts.draws,
    )


def _parts(done: Attacked) -> pd.DataFrame:
    """A line for each attack that was run."""
    n = len(done.images)
    rows = [
        (part.attack, part.tried, len(part.broken), left := part.tried - len(part.broken), left / n, part.seconds)
        for part in done.parts
    ]
    return pd.DataFrame(rows, columns=["attack", "tried", "fell", "left", "robust", "seconds"])
