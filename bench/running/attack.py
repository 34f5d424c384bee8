"""`bench attack`: one model, one attack or the worst case of several, one verdict per image, a record like any other.

Which model and which images: `bench.subjects.chosen`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attacks.contract import Attack, ThreatModel
from attacks.model import ModelError
from attacks.target import Target
from bench.ground.config import UserError
from bench.ground.files import make_folder
from bench.ground.provenance import provenance
from bench.ground.stats import foresight, wilson
from bench.judge.audit import evaluate_audited
from bench.judge.evaluate import DISTANCES, Verdicts, check_transfer, craft, is_plain
from bench.judge.union import common_threat, evaluate_union
from bench.ledger import adversarial, budgets, ids
from bench.ledger.draws import Draws
from bench.ledger.evals import EvalRecord, read_eval, write_eval
from bench.ledger.folder import Results, Source
from bench.ledger.spec import CLEAN
from bench.running.clock import Clock
from bench.running.forecast import of_attacks
from bench.subjects.catalog import Catalog, coarse_steps
from bench.subjects.chosen import Choice, Subject, choose_norm
from bench.subjects.corrupted import as_published
from bench.subjects.data import Dataset, Images
from bench.subjects.device import choose_device, describe
from bench.subjects.outside import for_record
from bench.subjects.quick import AS_IT_IS, Arrangement

ROUNDED = 0.01  # share of images whose clean prediction another machine may give otherwise


@dataclass(frozen=True)
class How:
    """How a model is attacked. eps, norm: in place of the attacks' own. recipes, assignments: a file and `--set` that
    change settings. keep_adversarial: the images that fool are kept beside the record. keep: whether there is a record.
    """

    eps: float | None = None
    norm: str | None = None
    seed: int = 0
    arrangement: Arrangement = AS_IT_IS
    recipes: Path | None = None
    assignments: tuple[str, ...] = ()
    keep_adversarial: bool = False
    keep: bool = True
    audit: int | None = None


class Part(NamedTuple):
    """One attack among several. tried: images that were right and that no attack before it broke; broken: ids of those
    that it broke.
    """

    attack: str
    tried: int
    broken: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Attacked:
    """One model under one attack or the worst case of several: who, on what, with which settings by attack, the
    verdicts, what each attack broke, the record where one was kept. weak: what the settings lack, in words; lines: what
    came out.
    """

    dataset: Dataset
    subject: Subject
    images: Images
    attacks: dict[str, tuple[Attack | None, dict[str, Any]]]
    verdicts: Verdicts
    parts: tuple[Part, ...]
    record: Path | None
    weak: tuple[str, ...]
    lines: tuple[str, ...]

    @property
    def threat(self) -> ThreatModel:
        """The one that all attacks share; "own" where they differ, and of none."""
        return common_threat({name: attack for name, (attack, _) in self.attacks.items() if attack is not None})


def attack_model(choice: Choice, attacks: tuple[str, ...], how: How, say: Callable[[str], None] = print) -> Attacked:
    """Attack, judge, write the record. Raises UserError, AttackError.

    attacks: names of attacks and suites; of several the worst case counts. say: is called with what is known before,
    and with a line as each of several attacks ends.
    """
    device, loaded = choose_device(choice.device), choice.load()
    catalog = _catalog(attacks, how)
    parts, how = catalog.parts(attacks), _asked(catalog, attacks, how)
    chosen = _choose_attacks(catalog, parts, how.eps, how.norm and choose_norm(how.norm), say)
    catalog.check_assignments()
    weak = coarse_steps({name: attack for name, (attack, _) in chosen.items()}, math.prod(loaded.image_shape))
    for words in weak:
        say(words)
    if len(parts) > 1 and choice.source is not None:
        raise UserError("--source goes with one attack; craft them one by one")
    subject, *origins = choice.subjects(loaded, device)
    images = choice.pick(loaded, _images_of(catalog, attacks, len(loaded.test)))
    chosen = as_published(chosen, images, loaded, choice.data_dir)
    say(foresight(len(images)))
    attacked = origins[0] if origins else subject  # whose passes an attack makes
    clock = Clock(loaded, device, how.arrangement)
    for words in of_attacks(clock, {name: attack for name, (attack, _) in chosen.items()}, attacked.blank, images):
        say(words)
    job = _Job(choice.results, loaded, subject, images, device, how)
    try:
        if len(parts) > 1:
            found = job.union("+".join(attacks), chosen, say)
        else:
            found = job.single(parts[0], *chosen[parts[0]], *origins)
    except ModelError as error:
        raise UserError(f"{choice.words}: {error}") from error
    return Attacked(loaded, subject, images, chosen, **found._asdict(), weak=tuple(weak))


class _Done(NamedTuple):
    """What came of a job, and the lines that say it."""

    verdicts: Verdicts
    parts: tuple[Part, ...]
    record: Path | None
    lines: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    """What every attack of one command shares."""

    folder: Results
    dataset: Dataset
    subject: Subject
    images: Images
    device: torch.device
    how: How

    @property
    def given(self) -> dict[str, Any]:
        return {"seed": self.how.seed, "run": self.how.arrangement}

    def single(
        self, name: str, attack: Attack | None, resolved: dict[str, Any], origin: Subject | None = None
    ) -> _Done:
        """One attack, crafted on `origin` where that is another model."""
        source = Source(origin.run_id, origin.weights_sha256) if origin else None
        eval_id = self._place(name, resolved, source)
        network, crafted, classes = self.subject.network.to(self.device), None, self.dataset.classes
        if origin is not None:
            on = origin.network.to(self.device)
            made_on: dict[str, Any] = {"name": name, "blank": origin.blank, **self.given}
            crafted = craft(on, check_transfer(name, attack), self.images, classes, **made_on)
        given: dict[str, Any] = {"name": name, "crafted": crafted, "blank": self.subject.blank, **self.given}
        verdicts = evaluate_audited(network, attack, self.images, classes, **given)
        threat = ThreatModel("own", 0) if attack is None else attack.threat
        record = self._write(name, eval_id, resolved, threat, verdicts, source=source)
        lines = [
            f"{name}: {budgets.budget(resolved)}; {len(self.images)} images",
            *_verdict_lines(name, verdicts, is_plain(attack)),
        ]
        lines += _audit_lines(attack, verdicts)
        if threat.norm in DISTANCES:
            farthest = verdicts.table[threat.norm.lower()].max()
            lines.append(f"max {threat.norm} perturbation: {farthest:.5f} (eps {threat.eps:.5f})")
        crafted_on = [f"crafted on {origin.run_id}, judged on {self.subject.run_id}"] if origin else []
        right = int((verdicts.table["clean_prediction"] == verdicts.table["label"]).sum())
        parts = () if attack is None else (_part(name, right, verdicts),)
        return _Done(verdicts, parts, record, (*crafted_on, *lines, *self._whence(record)))

    def union(
        self, name: str, attacks: dict[str, tuple[Attack | None, dict[str, Any]]], say: Callable[[str], None]
    ) -> _Done:
        """The worst case of several attacks; a line for each attack as it ends goes to `say`."""
        own, done = {part: attack for part, (attack, _) in attacks.items() if attack is not None}, list[Part]()

        def on_part(part: str, left: int, verdicts: Verdicts) -> None:
            fallen = int((~verdicts.table["robust"]).sum())
            say(f"{part:24} breaks {fallen} of {len(verdicts.table)}; {left} stand, {verdicts.cost.seconds:.1f} s")
            done.append(_part(part, len(verdicts.table), verdicts))

        parts = {part: resolved for part, (_, resolved) in attacks.items()}
        resolved = {"attack": "union", "version": 1, "settings": {"parts": parts}}
        eval_id = self._place(name, resolved, None)
        network = self.subject.network.to(self.device)
        given: dict[str, Any] = {"on_part": on_part, "blank": self.subject.blank, **self.given}
        found = evaluate_union(network, own, self.images, self.dataset.classes, **given)
        record = self._write(name, eval_id, resolved, common_threat(own), found, broken_by=found.broken_by)
        lines = (
            f"{name}: worst case of {len(own)} attacks; {len(self.images)} images",
            *_verdict_lines(name, found),
            *(f"{part} among others: not audited" for part, attack in own.items() if getattr(attack, "audit", 0)),
            *self._whence(record),
        )
        return _Done(found, tuple(done), record, lines)

    def _place(self, name: str, resolved: dict[str, Any], source: Source | None) -> str:
        """The id of the record to be; its folder is made before hours are spent. Raises UserError."""
        identity = ids.eval_identity(
            resolved,
            name,
            self.images.sha256,
            self.how.seed,
            self.how.arrangement.identity,
            source.run_id if source else None,
        )
        eval_id = ids.eval_id(name, len(self.images), identity)
        if not self.how.keep:
            return eval_id
        path = self.folder.eval(self.subject.run_id, eval_id)
        make_folder(path.parent)
        if path.exists():
            self._refuse_another(read_eval(self.folder, self.subject.run_id, eval_id))
        return eval_id

    def _refuse_another(self, record: EvalRecord) -> None:
        """Raises UserError where the record in whose place the new one would be is of a model that answers otherwise:
        what no hash sees, such as a file that the model reads, makes two models too.
        """
        table, x = record.images.set_index("image"), self.images.x.to(self.device)
        then = torch.tensor(table.loc[self.images.ids.numpy(), "clean_prediction"].to_numpy())
        now, again = (Target(self.subject.blank.fresh()).true_logits(x).argmax(1).cpu() for _ in range(2))
        other, moved = int((now != then).sum()), int((now != again).sum())
        if record.weights_sha256 != self.subject.weights_sha256 or other > len(x) * ROUNDED + 2 * moved:
            raise UserError(
                f"{self.folder.eval(record.run_id, record.eval_id)} is of another model of the same name: it answers "
                f"otherwise on {other} of {len(x)} images without an attack; delete it, or give another --results"
            )

    def _write(
        self,
        name: str,
        eval_id: str,
        resolved: dict[str, Any],
        threat: ThreatModel,
        verdicts: Verdicts,
        **more: Any,
    ) -> Path | None:
        """The record on disk, where one is kept."""
        if not self.how.keep:
            return None
        run_id = self.subject.run_id
        if self.how.keep_adversarial and resolved["attack"] != CLEAN:
            x_adv, x = verdicts.x_adv.cpu().numpy(), self.images.x.cpu().numpy()
            more["adversarial_sha256"] = adversarial.keep(self.folder, run_id, eval_id, verdicts.table, x_adv, x)
        record = EvalRecord(
            run_id=run_id,
            eval_id=eval_id,
            attack=name,
            settings=resolved["settings"],
            norm="none" if resolved["attack"] == CLEAN else threat.norm,
            eps=threat.eps,
            seed=self.how.seed,
            dataset=self.dataset.name,
            weights_sha256=self.subject.weights_sha256,
            images_sha256=self.images.sha256,
            cost=verdicts.cost,
            provenance=provenance(describe(self.device), torch.get_num_threads()),
            images=verdicts.table,
            signs=list(verdicts.signs),
            reading=self.dataset.reading,
            outside=for_record(resolved),
            audit=verdicts.audit,
            draws=verdicts.draws,
            **more,
        )
        return write_eval(self.folder, record)

    def _whence(self, record: Path | None) -> list[str]:
        """Where the images came from, and where the record is."""
        return [f"data: {self.dataset.source}", *([] if record is None else [f"record: {record}"])]


def _catalog(attacks: tuple[str, ...], how: How) -> Catalog:
    """Of the settings asked for. Raises UserError for an audit of attacks that have none."""
    catalog = Catalog(how.recipes, how.assignments)
    if how.audit is None:
        return catalog
    names = [name for name in catalog.parts(attacks) if hasattr(catalog.attack(name)[0], "audit")]
    if not names:
        raise UserError(f"--audit is for attacks that are audited, such as strong, not for {', '.join(attacks)}")
    return Catalog(how.recipes, (*how.assignments, *(f"{name}.audit={how.audit}" for name in names)))


def _images_of(catalog: Catalog, attacks: tuple[str, ...], most: int) -> int:
    """How many images the suites among them ask for, at least; of `most`."""
    return min([most, *(suite.images for name in attacks if (suite := catalog.suites.get(name)) and suite.images)])


def _asked(catalog: Catalog, attacks: tuple[str, ...], how: How) -> How:
    """With as many draws as the suites among them ask for, where it was not said how many."""
    wanted = [suite.draws for name in attacks if (suite := catalog.suites.get(name)) and suite.draws]
    if how.arrangement.draws is not None or not wanted:
        return how
    return replace(how, arrangement=replace(how.arrangement, draws=max(wanted)))


def _choose_attacks(
    catalog: Catalog, names: list[str], eps: float | None, norm: str | None, say: Callable[[str], None]
) -> dict[str, tuple[Attack | None, dict[str, Any]]]:
    """The attacks by name, in the threat model asked for; steps that change with it are said. Raises UserError."""
    known = {name: catalog.attack(name, *catalog.lacking(name, eps, norm)) for name in names}
    norms = sorted({attack.threat.norm for attack, _ in known.values() if attack} - {"own", "corruptions"})
    if eps is not None and norm is None and len(norms) > 1:
        raise UserError(
            f"--eps is one radius, but these attacks have theirs in {', '.join(norms)}; attack norm by norm, or "
            "set each with --set NAME.threat.eps=VALUE"
        )
    chosen = {name: catalog.attack(name, eps, norm) for name in names}
    for name, (_, resolved) in chosen.items():
        step, before = (each["settings"].get("step") for each in (resolved, known[name][1]))
        if step != before:
            say(f"{name}: steps of {step:.6g}, scaled with the radius from {before:.6g} (or --set {name}.step=VALUE)")
    return chosen


def _part(name: str, tried: int, verdicts: Verdicts) -> Part:
    """What one attack broke of the images that it was tried on."""
    table = verdicts.table
    fallen = table[(table["clean_prediction"] == table["label"]) & ~table["robust"]]
    return Part(name, tried, tuple(map(int, fallen["image"])), verdicts.cost.seconds)


def _verdict_lines(name: str, verdicts: Verdicts, plain: bool = False) -> list[str]:
    """What people look for, in the shape they look for it. plain: of a corruption, see `is_plain`."""
    table, cost = verdicts.table, verdicts.cost
    passes = f"passes: {cost.forward_passes} forward, {cost.backward_passes} backward"
    if verdicts.draws is not None:
        return [*_lines_of_draws(name, verdicts, verdicts.draws), passes, *(f"sign: {w}" for w in verdicts.signs)]
    low, high = wilson(int(table["robust"].sum()), len(table))
    right = table["clean_prediction"] == table["label"]
    what = f"accuracy under {name}, of all images" if plain else f"robust accuracy after {name}"
    risen = f" and {int((~right & table['robust']).sum())} of the others rise" if plain else ""
    return [
        f"clean accuracy: {verdicts.clean_accuracy:.2%}",
        f"{what}: {verdicts.robust_accuracy:.2%} (total time {cost.seconds:.1f} s)",
        f"95 % interval: [{low:.2%}, {high:.2%}]; {int((right & ~table['robust']).sum())} of the {int(right.sum())} "
        f"images that were right fall{risen}",
        passes,
        *(f"sign: {words}" for words in verdicts.signs),
    ]


def _lines_of_draws(name: str, verdicts: Verdicts, draws: Draws) -> list[str]:
    """The same of a model that answers at random: means over draws, and by how much the draws differ."""
    (clean, clean_spread), (robust, spread) = draws.clean_of(verdicts.table), draws.robust_of(verdicts.table)
    return [
        f"clean accuracy: {clean.value:.2%} (mean of {draws.count} draws, which differ by an sd of {clean_spread:.2%})",
        f"robust accuracy after {name}: {robust.value:.2%} (mean of {draws.count} draws, which differ by an sd of "
        f"{spread:.2%}; total time {verdicts.cost.seconds:.1f} s)",
        f"95 % interval, for new draws and new images: [{robust.low:.2%}, {robust.high:.2%}]",
    ]


def _audit_lines(attack: Attack | None, verdicts: Verdicts) -> list[str]:
    """What the audit says of the number, or that there was none; nothing where an attack has no audit."""
    audit = verdicts.audit
    if audit is None:
        return ["audit: left out, so how much this number is too high is open"] if hasattr(attack, "audit") else []
    forward, backward = (passes / max(1, audit.standing) for passes in audit.attack_passes)
    return [
        f"passes for an image that stands: {forward:.0f} forward, {backward:.0f} backward before the audit",
        f"audit: {audit.words(len(verdicts.table))}",
    ]
