"""Several attacks on one model: the worst case image by image, each attack on what the ones before it left standing.

The verdicts are those of running every attack on every image, because noise belongs to the image; only the work
shrinks. So cheap and strong attacks go first.

Of a model that is asked in several draws, an image stands while a draw holds, and keeps the adversarial image that the
fewest held. Which that is was chosen by looking, so in the end all are judged once more, in draws of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import nn

from attacks.contract import Attack, ThreatModel
from attacks.square import Square
from bench.ground.provenance import Cost
from bench.judge import signs
from bench.judge.draws import Answers
from bench.judge.evaluate import Verdicts, evaluate, judged
from bench.ledger.draws import Draws
from bench.ledger.evals import CORRUPTIONS, beyond
from bench.subjects.blank import Blank
from bench.subjects.data import Images
from bench.subjects.quick import AS_IT_IS, Arrangement

PASSES = ["forward_passes", "backward_passes"]


@dataclass(frozen=True)
class Union(Verdicts):
    """broken_by: for each attack the ids of the images that it broke.

    The row and the adversarial image of a fallen image are those of the attack that broke it, of any other the ones
    without an attack; passes are those of all attacks.
    """

    broken_by: dict[str, list[int]]


def evaluate_union(
    model: nn.Module,
    attacks: Mapping[str, Attack],
    images: Images,
    classes: int,
    *,
    seed: int = 0,
    run: Arrangement = AS_IT_IS,
    on_part: Callable[[str, int, Verdicts], None] | None = None,
    blank: Blank | None = None,
    look: bool = True,
) -> Union:
    """The attacks in their order, by the names that their noise is drawn from.

    on_part: called after each attack with its name, how many images still stand, and what it did to those that did.
    Clean predictions are of one pass over all images, or of all draws. Other arguments and errors as in
    `bench.judge.evaluate.evaluate`.
    """
    blank = blank or Blank(model)
    clean = evaluate(model, None, images, classes, run=run, blank=blank, look=look)
    predictions = torch.tensor(clean.table["clean_prediction"].to_numpy())
    found, climbed, balls = dict.fromkeys(clean.signs), False, set[ThreatModel]()
    table, x_adv, seconds, broken_by = clean.table.copy(), clean.x_adv.clone(), clean.cost.seconds, {}
    for name, attack in attacks.items():
        stands = table["robust_draws"] > 0 if clean.draws else table["robust"]
        places, stood = torch.tensor(stands.to_numpy()).nonzero().squeeze(1), table.loc[stands, "robust"]
        if len(places) == 0:
            break
        verdicts = evaluate(
            model,
            attack,
            images.take(places),
            classes,
            name=name,
            seed=seed,
            run=run,
            blank=blank,
            clean=None if clean.draws else predictions[places],
            look=look and not climbed,
        )
        climbed = climbed or verdicts.cost.backward_passes > 0
        found |= dict.fromkeys([*signs.of_steps(name, attack), *verdicts.signs])
        if verdicts.cost.backward_passes:
            balls.add(attack.threat)
        elif isinstance(attack, Square) and attack.threat in balls:
            found |= dict.fromkeys(signs.of_search(name, int((~verdicts.table["robust"]).sum()), len(table)))
        part = verdicts.table.set_index(places.numpy())
        passes = table.loc[part.index, PASSES] + part[PASSES]
        fallen = _fallen(part, table.loc[part.index], attack.threat)
        table.loc[fallen.index] = fallen
        table.loc[part.index, PASSES] = passes
        broken = torch.tensor(part.index.isin(fallen.index))
        x_adv[places[broken]] = verdicts.x_adv[broken]
        broken_by[name] = fallen["image"].tolist()
        seconds += verdicts.cost.seconds
        if on_part:
            on_part(name, int(table["robust"].sum()), replace(verdicts, table=verdicts.table[stood.to_numpy()]))
    union = Union(table, x_adv, Cost(seconds, *table[PASSES].sum().tolist()), broken_by, signs=tuple(found))
    return _once_more(union, clean.draws, judged(blank.fresh(), x_adv, run, seed, "union")) if clean.draws else union


def _fallen(part: pd.DataFrame, before: pd.DataFrame, threat: ThreatModel) -> pd.DataFrame:
    """The rows of `part`, of one attack, that take the place of those before it, with their clean columns."""
    if "robust_draws" not in part:
        return part[~part["robust"]]
    worse = (part["robust_draws"] < before["robust_draws"]) & ~beyond(part, threat.norm, threat.eps)
    return part[worse].assign(**{name: before.loc[worse, name] for name in ("clean_prediction", "clean_draws")})


def _once_more(union: Union, draws: Draws, said: Answers) -> Union:
    """The union with the verdicts of what is said of its images. broken_by: of those that fell, whose image it is."""
    table, y = union.table, torch.tensor(union.table["label"].to_numpy())
    held, predictions = (said.each.cpu() == y), said.predictions.cpu().numpy()
    right = table["clean_prediction"] == table["label"]
    table = table.assign(
        adversarial_prediction=predictions,
        robust=right & (predictions == table["label"]),
        robust_draws=held.sum(0).numpy(),
    )
    last = {image: name for name, images in union.broken_by.items() for image in images}
    fell = [image for image in table.loc[right & ~table["robust"], "image"].tolist() if image in last]
    broken_by = {name: [image for image in fell if last[image] == name] for name in union.broken_by}
    return replace(union, table=table, broken_by=broken_by, draws=Draws(draws.clean, held.sum(1).tolist()))


def common_threat(attacks: Mapping[str, Attack]) -> ThreatModel:
    """The threat model that all attacks share; "own" where they differ, as then no single distance says it all, and of
    several corruptions, whose worst case is over the images that are right as they are.
    """
    threats = {attack.threat for attack in attacks.values()}
    corrupted = len(attacks) > 1 and any(threat.norm == CORRUPTIONS for threat in threats)
    return threats.pop() if len(threats) == 1 and not corrupted else ThreatModel("own", 0)
