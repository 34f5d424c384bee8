"""Verdicts replayed: adversarial images made again from a record alone and judged in float64, one image at a time.

Noise belongs to the image, so any image can be made again without the others. What is held to the record: its id (which
hashes attack, version, settings, images and seed), the radius, the box, the distance, the threat model, the label, and
both predictions.

A float32 prediction may honestly differ from a float64 one where two logits are nearly equal, and float32 rounding,
which depends on which images share a batch, may send an attack another way. So an image that disagrees is "within
rounding", and no mismatch, where the logit of the record's class is within ROUNDING of the largest; or where the
attack, made again on all images of the record together as in the run, agrees with it. docs/ci.md says more.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks import ATTACKS
from attacks.contract import Attack, ThreatModel, in_box, inside
from attacks.corruption import Corruption
from attacks.model import ModelError
from attacks.norms import distance
from bench.ground.config import UserError, build
from bench.judge.audit import again
from bench.judge.evaluate import DISTANCES, Verdicts, craft, evaluate
from bench.judge.union import common_threat, evaluate_union
from bench.ledger import adversarial, ids, plan
from bench.ledger.evals import EvalRecord, read_eval
from bench.ledger.folder import Results
from bench.ledger.runs import list_runs, read_run
from bench.ledger.spec import CLEAN
from bench.subjects import data, outside, registry
from bench.subjects.catalog import Catalog
from bench.subjects.corrupted import as_recorded
from bench.subjects.data import Dataset, Images
from bench.subjects.device import choose_device
from bench.subjects.own_data import Reading
from bench.subjects.quick import Arrangement

ROUNDING = 1e-4  # of the largest logit, or of 1 where all are smaller
CLOSE = 1e-6  # distances of the same image, summed in another order, relative to the distance or to 1


@dataclass(frozen=True)
class Verified:
    """One record. images: how many were looked at, of them kept and rounding. mismatches: one sentence each."""

    what: str
    images: int
    of: int
    kept: int
    rounding: list[int] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """What came out, the mismatches last."""
        made = f"{self.kept} kept and {self.images - self.kept} made again"
        near = f", {len(self.rounding)} within rounding ({', '.join(map(str, self.rounding))})" if self.rounding else ""
        verdict = f"{len(self.mismatches)} mismatches" if self.mismatches else "all agree"
        head = f"{self.what}: {self.images} of {self.of} images, {made}{near}: {verdict}"
        return [head, *(f"  mismatch: {words}" for words in self.mismatches)]


def records_of(name: str, results: Results) -> list[tuple[str, str]]:
    """(run id, eval id) of every record of a run or of the tables of that name. Raises UserError."""
    if name in list_runs(results):
        found = sorted(path.stem for path in results.eval(name, "x").parent.glob("[!.]*.parquet"))
        if not found:
            raise UserError(f"{name} has no eval record in {results.root}")
        return [(name, one) for one in found]
    tables = plan.plans_of(name, results)
    if not tables:
        there = ", ".join(plan.list_plans(results)) or "none"
        raise UserError(f"{name!r} is no registered run and no planned table in {results.root}; tables: {there}")
    cells = [cell for table in tables for cell in plan.read_plan(results, table).cells]
    return list(dict.fromkeys((cell.run_id, cell.eval_id) for cell in cells))


def verify(
    results: Results,
    run_id: str,
    eval_id: str,
    *,
    images: int | None = 20,
    seed: int = 0,
    device: str = "auto",
    data_dir: Path | None = None,
    dataset: str | None = None,
    recipes: Path | None = None,
    arch: str | None = None,
) -> Verified:
    """Replay one record on so many images drawn with `seed`, None is all. recipes: as when it was made. dataset: the
    path of the data set where that is the user's own. arch: the user's own module:factory, where its networks are of
    that.

    Raises UserError for what cannot be replayed.
    """
    record = read_eval(results, run_id, eval_id)
    if record.draws is not None:
        raise UserError(
            f"{eval_id} of {run_id} is of {record.draws.count} draws of a model that answers at random, which no other "
            "draw repeats; attack it again, and compare the intervals"
        )
    replay = _Replay(results, record, choose_device(device), data_dir, dataset, Catalog(recipes), arch)
    total = len(record.images)
    count = total if images is None else min(images, total)
    places = np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
    try:
        return replay.verify(places.tolist())
    except ModelError as error:
        raise UserError(f"{eval_id} of {run_id} cannot be replayed: {error}") from error


@cache
def _dataset(name: str, where: Path | None, path: str | None, reading: Reading) -> Dataset:
    """Read once for all records of a command. Raises UserError where a path holds other images than the record's."""
    if data.has_name(name):
        return data.load(name, where)
    if path is None:
        raise UserError(f"{name} is a data set of your own; give its path with --dataset")
    found = data.load(path, where, reading)
    if found.name != name:
        raise UserError(f"{path} is {found.name}, and the record is of {name}: its files are others")
    return found


@dataclass(frozen=True)
class _Replay:
    """One record and what it takes to make it again."""

    results: Results
    record: EvalRecord
    device: torch.device
    data_dir: Path | None
    own: str | None
    catalog: Catalog
    arch: str | None

    def verify(self, places: Sequence[int]) -> Verified:
        """places: rows of the record's table."""
        what = f"{self.record.eval_id} of {self.record.run_id}"
        _ = self.arrangement  # its id first: it says more of what is wrong
        self._check_threat()
        self._check_network()
        kept = adversarial.read(self.results, self.record, tuple(self.images.x.shape[1:]))
        ids, table = self.images.ids.tolist(), self.record.images
        if set(kept) != (set(table["image"][adversarial.fooled(table)]) if kept else set()):
            return Verified(what, len(places), len(table), 0, mismatches=["the images kept are not those that fool"])
        again = [place for place in places if ids[place] not in kept]
        x_adv = {place: torch.from_numpy(kept[ids[place]]) for place in places if ids[place] in kept}
        x_adv |= dict(zip(again, self._make(again), strict=True))
        problems = {place: found for place in places if (found := self._problem(place, x_adv[place]))}
        doubtful = [place for place, (_, near) in problems.items() if not near and place in again]
        together = self._make(range(len(table))) if doubtful and len(again) < len(table) else None
        rounding, mismatches = [], []
        for place, (words, near) in problems.items():
            if not near and place in doubtful and together is not None:
                near = self._problem(place, together[place]) is None
            if near:
                rounding.append(ids[place])
            else:
                mismatches.append(f"image {ids[place]}: {words}")
        return Verified(what, len(places), len(table), len(places) - len(again), rounding, mismatches)

    def _check_threat(self) -> None:
        """Raises UserError where the radius that decided the record's verdicts is not that of its attack."""
        record, threat = self.record, ThreatModel("own", 0)
        if record.attack != CLEAN:
            threat = common_threat(self.attacks)
        norm = "none" if record.attack == CLEAN else threat.norm
        if (record.norm, record.eps) != (norm, threat.eps):
            raise UserError(
                f"{record.eval_id} of {record.run_id} is judged within {record.norm} {record.eps:g}, and its attack is "
                f"one within {norm} {threat.eps:g}; run it again"
            )

    def _check_network(self) -> None:
        """Raises UserError where a network of the record takes other images than the record's."""
        loaded = self.dataset
        for run_id in [self.record.run_id, *([self.record.source.run_id] if self.record.source else [])]:
            run = read_run(self.results, run_id)
            if (tuple(run.image_shape), run.classes) != (loaded.image_shape, loaded.classes):
                raise UserError(
                    f"{run_id} takes images {tuple(run.image_shape)} of {run.classes} classes; {loaded.name} has "
                    f"{loaded.image_shape} of {loaded.classes}"
                )

    @property
    def dataset(self) -> Dataset:
        """The record's, read as it was then."""
        reading = build(Reading, self.record.reading or {}, f"record {self.record.eval_id}, reading")
        return _dataset(self.record.dataset, self.data_dir, self.own, reading)

    @cached_property
    def images(self) -> Images:
        """The record's images, found by their numbers and checked by their hash."""
        loaded = self.dataset
        for split in (loaded.test, loaded.validation):
            where = {number: place for place, number in enumerate(split.ids.tolist())}
            wanted = self.record.images["image"].tolist()
            if all(number in where for number in wanted):
                found = split.take(torch.tensor([where[number] for number in wanted]))
                if found.sha256 == self.record.images_sha256:
                    return found
        name, eval_id = self.record.dataset, self.record.eval_id
        raise UserError(f"{eval_id}: its images are not those of {name} as it is here; see --data-dir")

    @cached_property
    def network(self) -> nn.Module:
        """The record's network, in float32."""
        return self._load(self.record.run_id, self.record.weights_sha256)

    @cached_property
    def exact(self) -> nn.Module:
        """The same network in float64."""
        return deepcopy(self.network).double()

    def _load(self, run_id: str, weights_sha256: str) -> nn.Module:
        model, run = registry.load(self.results, run_id, () if self.arch is None else (self.arch,))
        if self.arch is not None and ":" not in self.arch and self.arch != run.arch:
            raise UserError(f"{run_id} is a {run.arch}, not a {self.arch}; leave --arch out")
        if run.weights_sha256 != weights_sha256:
            raise UserError(f"{self.record.eval_id} is of other weights than {run_id} has now; run it again")
        return model.to(self.device).eval()

    def _make(self, places: Sequence[int]) -> Tensor:
        """The adversarial images of these rows, made again without the other rows: [n, C, H, W] on the CPU."""
        if not len(places):
            return self.images.x[:0]
        record, some = self.record, self.images.take(torch.tensor(list(places)))
        classes = self.classes
        given: dict[str, Any] = {"seed": record.seed, "run": self.arrangement, "look": False}
        if record.broken_by is not None:
            made: Verdicts = evaluate_union(self.network, self.attacks, some, classes, **given)
            return made.x_adv.cpu()
        attack = self.attacks.get(record.attack)
        if record.source is not None and attack is not None:
            source = self._load(record.source.run_id, record.source.weights_sha256)
            return craft(source, attack, some, classes, name=record.attack, **given).x_adv
        if record.audit is not None and attack is not None:
            return again(self.network, attack, record.audit, some, classes, name=record.attack, **given).cpu()
        return evaluate(self.network, attack, some, classes, name=record.attack, **given).x_adv.cpu()

    @property
    def classes(self) -> int:
        """Of the data set."""
        return read_run(self.results, self.record.run_id).classes

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The attack as its id was hashed of: kind, version and settings."""
        record = self.record
        if record.attack == CLEAN:
            return {"attack": CLEAN, "version": 1, "settings": {}}
        if record.broken_by is not None:
            return {"attack": "union", "version": 1, "settings": record.settings}
        if ":" in record.attack and record.attack not in self.catalog.attack_tables:
            raise UserError(
                f"{record.eval_id} of {record.run_id} is by the code of {record.attack}; if you trust it, name it in a "
                f'file for --recipes: [attacks."{record.attack}"] with attack = "{record.attack}"'
            )
        kind = self.catalog.kind_of(record.attack)
        attack, code = self._built({"attack": kind, "settings": record.settings})
        return outside.resolved(kind, attack, code) | {"settings": record.settings}

    @cached_property
    def attacks(self) -> dict[str, Attack]:
        """By name; of a union all parts, in their order; of no attack none."""
        found: dict[str, Attack] = {}
        one = {self.record.attack: self.resolved}
        for name, part in (self._parts() if self.record.broken_by is not None else one).items():
            if part["attack"] != CLEAN:
                made, code = self._built(part)
                if isinstance(made, Corruption):
                    made = as_recorded(made, self.images, self.dataset, self.data_dir)
                found[name] = made
                if (found[name].version, code) != (part["version"], part.get("code", "")):
                    raise UserError(f"{self.record.eval_id}: {name} has changed since; run it again")
        return found

    def _built(self, part: dict[str, Any]) -> tuple[Attack, str]:
        """An attack of the record, and whose code it is where that is not ours. Raises UserError."""
        found = outside.attack(part["attack"])
        return outside.built_attack(found, part["settings"], f"record {self.record.eval_id}"), found.code

    def _parts(self) -> dict[str, dict[str, Any]]:
        """Of a union. Raises UserError where its settings are not those of one."""
        parts: Any = self.record.settings.get("parts")
        wanted, more = {"attack", "version", "settings"}, {"code", "closest"}
        fits = isinstance(parts, dict) and all(
            isinstance(one, dict) and wanted <= {*one} <= wanted | more for one in parts.values()
        )
        if not fits or not all(self._may_be(name, part["attack"]) for name, part in parts.items()):
            raise UserError(
                f"{self.record.eval_id} of {self.record.run_id} is a worst case of no attacks; run it again"
            )
        return dict(parts)

    def _may_be(self, name: str, kind: str) -> bool:
        """Whether a part of a union may be of that kind. A record never decides what code runs: module:name has to be
        the user's own setting of that name.
        """
        if kind in outside.known("attack", ATTACKS) | {CLEAN}:
            return True
        return name in self.catalog.attack_tables and self.catalog.attack_tables[name].get("attack") == kind

    def _attack_on(self, image: int) -> Attack | None:
        """What made the adversarial image of this id: of a union the attack that broke it; None where none did."""
        if self.record.broken_by is None:
            return self.attacks.get(self.record.attack)
        return next((self.attacks[name] for name, ids in self.record.broken_by.items() if image in ids), None)

    @cached_property
    def arrangement(self) -> Arrangement:
        """How the network was run: as the record's id was hashed of. Raises UserError where nothing fits."""
        record = self.record
        source = record.source.run_id if record.source else None
        for options in ids.EVAL_OPTIONS:
            identity = ids.eval_identity(
                self.resolved, record.attack, record.images_sha256, record.seed, options, source
            )
            if ids.eval_id(record.attack, len(record.images), identity) == record.eval_id:
                return Arrangement(**options)  # type: ignore[arg-type]
        raise UserError(
            f"{record.eval_id} of {record.run_id} is not what its attack, version, settings, seed and images hash to: "
            "the attack has changed since, or the record was altered; run it again"
        )

    def _problem(self, place: int, x_adv: Tensor) -> tuple[str, bool] | None:
        """What disagrees with the record at one row, and whether it is within rounding; None where nothing does."""
        row = self.record.images.iloc[place]
        x, made = (image[None].to(self.device).double() for image in (self.images.x[place], x_adv))
        if not bool(in_box(made)):
            return "the adversarial image leaves [0, 1]", False
        label = int(self.images.y[place])
        if int(row["label"]) != label:
            return f"the image is of class {label}, the record says {int(row['label'])}", False
        found = []
        for kind, image in (("clean", x), ("adversarial", made)):
            with torch.no_grad():
                logits = self.exact(image)[0]
            recorded = int(row[f"{kind}_prediction"])
            if recorded >= len(logits):
                found.append((f"{kind} prediction {recorded}, which is no class", False))
            elif int(logits.argmax()) != recorded:
                short = float(logits.max() - logits[recorded])
                near = short <= ROUNDING * max(1.0, float(logits.abs().max()))
                found.append((f"{kind} prediction {int(logits.argmax())}, the record says {recorded}", near))
        for norm in DISTANCES:
            here, said = float(distance(norm, x, made)), float(row[norm.lower()])
            if abs(here - said) > CLOSE * max(1.0, said):
                found.append((f"{norm} distance {here:.6g}, the record says {said:.6g}", False))
        attack = self._attack_on(int(row["image"]))
        if attack is not None and not bool(inside(attack, x, made)):
            found.append(("the adversarial image is outside the threat model", False))
        if not found:
            return None
        return "; ".join(words for words, _ in found), all(near for _, near in found)
