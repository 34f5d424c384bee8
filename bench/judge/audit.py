"""The audit of a cheap attack: what would a dearer one still have broken, asked of a random sample of what stands.

Where it breaks none, the share that it would break of all is bounded by the size of the sample. Where it breaks one,
the parts of it that did are run on everything that stands. It is here and not in the attack, because which images are
drawn depends on which others fell, and an attack's images see nothing of each other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attacks import ATTACKS
from attacks.contract import Attack
from attacks.noise import Noise, derive_seed
from bench.ground.provenance import Cost
from bench.judge.evaluate import Verdicts, evaluate
from bench.judge.union import PASSES, Union, evaluate_union
from bench.ledger.audits import Audit
from bench.subjects.blank import Blank
from bench.subjects.data import Images
from bench.subjects.quick import AS_IT_IS


def evaluate_audited(
    model: nn.Module, attack: Attack | None, images: Images, classes: int, *, name: str, seed: int = 0, **given: Any
) -> Verdicts:
    """`bench.judge.evaluate.evaluate`, then the audit of as many images as the attack has in its setting `audit`.

    given: its other arguments. Images that were crafted on another network are not audited, nor are verdicts of several
    draws. Errors as there.
    """
    given["blank"] = given.get("blank") or Blank(model)
    verdicts = evaluate(model, attack, images, classes, name=name, seed=seed, **given)
    size = getattr(attack, "audit", 0)
    if attack is None or not size or given.get("crafted") is not None or verdicts.draws is not None:
        return verdicts
    same = {"seed": seed, "run": given.get("run", AS_IT_IS), "blank": given["blank"], "look": False}

    def ask(parts: dict[str, Attack], places: Tensor) -> Union | None:
        return evaluate_union(model, parts, images.take(places), classes, **same) if parts and len(places) else None

    standing = torch.tensor(verdicts.table["robust"].to_numpy()).nonzero().squeeze(1)
    drawn = draw(images.ids.cpu()[standing], size, seed)
    parts = parts_of(auditor_of(attack))
    sampled = ask(parts, standing[drawn])
    found = {} if sampled is None else {part: len(ids) for part, ids in sampled.broken_by.items()}
    breakers = {part: parts[part] for part, count in found.items() if count}
    others = ask(breakers, standing[~drawn])
    asked = [(places, one) for places, one in ((standing[drawn], sampled), (standing[~drawn], others)) if one]
    audit = Audit(
        auditor=kind_of(auditor_of(attack)),
        parts=list(parts),
        standing=len(standing),
        sample=int(drawn.sum()),
        found=found,
        broken_by={part: [id_ for _, one in asked for id_ in one.broken_by.get(part, [])] for part in breakers},
        attack_passes=verdicts.table.loc[standing.tolist(), PASSES].sum().tolist(),
        audit_passes=_passes(sampled),
        rest_passes=_passes(others),
    )
    for places, one in asked:
        verdicts = _merged(verdicts, places, one)
    return replace(verdicts, audit=audit)


def again(
    model: nn.Module, attack: Attack, audit: Audit, images: Images, classes: int, *, name: str, **given: Any
) -> Tensor:
    """x_adv [N, C, H, W] of some images of an audited attack, made again: where the audit broke one, by what did."""
    x_adv = evaluate(model, attack, images, classes, name=name, **given).x_adv
    parts = parts_of(auditor_of(attack))
    fell = torch.isin(images.ids, torch.tensor([one for ids in audit.broken_by.values() for one in ids]).to(images.ids))
    if fell.any():
        breakers = {part: parts[part] for part in audit.broken_by}
        x_adv[fell] = evaluate_union(model, breakers, images.take(fell.nonzero().squeeze(1)), classes, **given).x_adv
    return x_adv


def draw(ids: Tensor, size: int, seed: int) -> Tensor:
    """ids [n] of images -> [n] bool, `size` of them drawn at random: an image's lot is its own, so that the order of
    the images does not matter, and a larger sample holds the smaller one.
    """
    lots = Noise(derive_seed("audit", seed), ids).uniform(2)  # two numbers of 24 bits: no ties
    order = sorted(range(len(ids)), key=lambda place: lots[place].tolist())
    chosen = torch.zeros(len(ids), dtype=torch.bool)
    chosen[order[:size]] = True
    return chosen


def auditor_of(attack: Attack) -> Attack:
    """What an attack with a setting `audit` is held to."""
    found: Attack = attack.audited_by  # type: ignore[attr-defined]
    return found


def parts_of(auditor: Attack) -> dict[str, Attack]:
    """Its parts, or itself where it has none, by names such as "apgd" and, for the second of a kind, "apgd-2"."""
    parts, found = getattr(auditor, "parts", (auditor,)), {}
    kinds = [kind_of(part) for part in parts]
    for place, (kind, part) in enumerate(zip(kinds, parts, strict=True)):
        before = kinds[:place].count(kind)
        found[f"{kind}-{before + 1}" if before else kind] = part
    return found


def kind_of(attack: Attack) -> str:
    """Its name in ATTACKS."""
    return next(kind for kind, cls in ATTACKS.items() if type(attack) is cls)


def _merged(verdicts: Verdicts, places: Tensor, union: Union) -> Verdicts:
    """The verdicts, where a union on some of the images, in these places, broke more; its passes are added."""
    table, x_adv, part = verdicts.table.copy(), verdicts.x_adv.clone(), union.table.set_index(places.cpu().numpy())
    fallen = part[~part["robust"]]
    passes = table.loc[part.index, PASSES] + part[PASSES]
    table.loc[fallen.index] = fallen
    table.loc[part.index, PASSES] = passes
    down = places[~torch.tensor(union.table["robust"].to_numpy())]
    x_adv[down] = union.x_adv[torch.isin(places, down)]
    cost = Cost(verdicts.cost.seconds + union.cost.seconds, *table[PASSES].sum().tolist())
    return replace(verdicts, table=table, x_adv=x_adv, cost=cost)


def _passes(found: Union | None) -> list[int]:
    return [0, 0] if found is None else [found.cost.forward_passes, found.cost.backward_passes]
