"""`bench attack`: one model, one attack or the worst case of several, one verdict per image, a record like any other.

The model is a run id of the registry, a weights file with an architecture, or a user's own module:factory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from attacks.contract import Attack, ThreatModel
from attacks.target import ModelError, Precision, Target
from bench import adversarial, data, models, plan, registry, weights
from bench.catalog import Catalog, coarse_steps
from bench.config import UserError, choose
from bench.data import Dataset, Images
from bench.device import choose_device, describe
from bench.evaluate import DISTANCES, Verdicts, check_transfer, craft, evaluate, fingerprint
from bench.files import make_folder
from bench.provenance import provenance
from bench.records import EvalRecord, Results, Source, list_runs, write_eval
from bench.spec import CLEAN
from bench.stats import foresight, wilson
from bench.union import common_threat, evaluate_union

Statistics = tuple[float, ...]
NORMS = {
    "linf": "Linf",
    "l_inf": "Linf",
    "inf": "Linf",
    "l2": "L2",
    "l_2": "L2",
    "2": "L2",
    "l1": "L1",
    "l_1": "L1",
    "1": "L1",
}


class Subject(NamedTuple):
    """The model under attack: the network, a name for its records, and a fingerprint of its weights."""

    network: nn.Module
    run_id: str
    weights_sha256: str


def attack_model(
    model: str,
    attacks: tuple[str, ...],
    *,
    results: Path,
    dataset: str | None = None,
    arch: str | None = None,
    images: int | None = None,
    indices: Path | None = None,
    device: str = "auto",
    data_dir: Path | None = None,
    recipes: Path | None = None,
    assignments: tuple[str, ...] = (),
    batch_size: int | None = None,
    gradient_precision: Precision = "float32",
    eps: float | None = None,
    norm: str | None = None,
    seed: int = 0,
    mean: Statistics | None = None,
    std: Statistics | None = None,
    source: str | None = None,
    keep_adversarial: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Attack, judge, write the record, say what came out. Raises UserError.

    attacks: names of attacks and suites; of several the worst case counts. source: the model that the attack is crafted
    on, given like `model`; None is `model` itself. keep_adversarial: the images that fool are kept beside the record.
    """
    folder, where = Results(results), choose_device(device)
    loaded = choose_data(folder, model, dataset, data_dir)
    catalog = Catalog(recipes, assignments)
    parts = catalog.parts(attacks)
    chosen = _choose_attacks(catalog, parts, eps, norm and choose_norm(norm), say)
    catalog.check_assignments()
    for weak in coarse_steps({name: attack for name, (attack, _) in chosen.items()}, loaded.test.x[0].numel()):
        say(weak)
    if len(parts) > 1 and source is not None:
        raise UserError("--source goes with one attack; craft them one by one")
    asked = [model] if source is None else [model, source]
    subject, *origins = choose_subjects(folder, asked, arch, loaded, mean, std, where)
    count = images if images or indices else _images_of(catalog, attacks, len(loaded.test))
    wanted = choose_images(loaded, count, indices)
    say(foresight(len(wanted)))
    job = _Job(folder, loaded, subject, wanted, where, seed, batch_size, gradient_precision, keep_adversarial)
    try:
        if len(parts) > 1:
            lines = job.union("+".join(attacks), chosen, say)
        else:
            lines = job.single(parts[0], *chosen[parts[0]], *origins)
    except ModelError as error:
        raise UserError(f"{model if source is None else f'{model} or {source}'}: {error}") from error
    for line in lines:
        say(line)


@dataclass(frozen=True)
class _Job:
    """What every attack of one command shares."""

    folder: Results
    dataset: Dataset
    subject: Subject
    images: Images
    device: torch.device
    seed: int
    batch_size: int | None
    precision: Precision
    keep: bool

    @property
    def given(self) -> dict[str, Any]:
        return {"seed": self.seed, "batch_size": self.batch_size, "gradient_precision": self.precision}

    def single(
        self, name: str, attack: Attack | None, resolved: dict[str, Any], origin: Subject | None = None
    ) -> list[str]:
        """One attack, crafted on `origin` where that is another model -> what to print."""
        source = Source(origin.run_id, origin.weights_sha256) if origin else None
        eval_id = self._place(name, resolved, source)
        network, crafted, classes = self.subject.network.to(self.device), None, self.dataset.classes
        if origin is not None:
            on = origin.network.to(self.device)
            crafted = craft(on, check_transfer(name, attack), self.images, classes, name=name, **self.given)
        verdicts = evaluate(network, attack, self.images, classes, name=name, crafted=crafted, **self.given)
        threat = ThreatModel("own", 0) if attack is None else attack.threat
        written = self._write(name, eval_id, resolved, threat, verdicts, source=source)
        lines = [f"{name}: {plan.budget(resolved)}; {len(self.images)} images", *_verdict_lines(name, verdicts)]
        if threat.norm in DISTANCES:
            farthest = verdicts.table[threat.norm.lower()].max()
            lines.append(f"max {threat.norm} perturbation: {farthest:.5f} (eps {threat.eps:.5f})")
        crafted_on = [f"crafted on {origin.run_id}, judged on {self.subject.run_id}"] if origin else []
        return [*crafted_on, *lines, *written]

    def union(
        self, name: str, attacks: dict[str, tuple[Attack | None, dict[str, Any]]], say: Callable[[str], None]
    ) -> list[str]:
        """The worst case of several attacks -> what to print; a line for each attack as it ends goes to `say`."""
        own = {part: attack for part, (attack, _) in attacks.items() if attack is not None}

        def on_part(part: str, left: int, verdicts: Verdicts) -> None:
            fallen = int((~verdicts.table["robust"]).sum())
            say(f"{part:24} breaks {fallen} of {len(verdicts.table)}; {left} stand, {verdicts.cost.seconds:.1f} s")

        parts = {part: resolved for part, (_, resolved) in attacks.items()}
        resolved = {"attack": "union", "version": 1, "settings": {"parts": parts}}
        eval_id = self._place(name, resolved, None)
        network = self.subject.network.to(self.device)
        found = evaluate_union(network, own, self.images, self.dataset.classes, on_part=on_part, **self.given)
        written = self._write(name, eval_id, resolved, common_threat(own), found, broken_by=found.broken_by)
        return [
            f"{name}: worst case of {len(own)} attacks; {len(self.images)} images",
            *_verdict_lines(name, found),
            *written,
        ]

    def _place(self, name: str, resolved: dict[str, Any], source: Source | None) -> str:
        """The id of the record to be; its folder is made before hours are spent. Raises UserError."""
        identity = plan.eval_identity(
            resolved,
            name,
            self.images.sha256,
            self.seed,
            {"gradient_precision": self.precision},
            source.run_id if source else None,
        )
        eval_id = plan.eval_id(name, len(self.images), identity)
        make_folder(self.folder.eval(self.subject.run_id, eval_id).parent)
        return eval_id

    def _write(
        self,
        name: str,
        eval_id: str,
        resolved: dict[str, Any],
        threat: ThreatModel,
        verdicts: Verdicts,
        **more: Any,
    ) -> list[str]:
        """The record on disk -> where it and the images came from."""
        run_id = self.subject.run_id
        if self.keep and resolved["attack"] != CLEAN:
            more["adversarial_sha256"] = adversarial.keep(self.folder, run_id, eval_id, verdicts.table, verdicts.x_adv)
        record = EvalRecord(
            run_id=run_id,
            eval_id=eval_id,
            attack=name,
            settings=resolved["settings"],
            norm="none" if resolved["attack"] == CLEAN else threat.norm,
            eps=threat.eps,
            seed=self.seed,
            dataset=self.dataset.name,
            weights_sha256=self.subject.weights_sha256,
            images_sha256=self.images.sha256,
            cost=verdicts.cost,
            provenance=provenance(describe(self.device), torch.get_num_threads()),
            images=verdicts.table,
            **more,
        )
        return [f"data: {self.dataset.source}", f"record: {write_eval(self.folder, record)}"]


def choose_data(folder: Results, model: str, dataset: str | None, data_dir: Path | None) -> Dataset:
    """The data set asked for, or the one that the run was trained on. Raises UserError."""
    if dataset is None and model in list_runs(folder):
        dataset = registry.read_run(folder, model).dataset
    return data.load(dataset or "digits", data_dir)


def choose_subjects(
    folder: Results,
    chosen: Sequence[str],
    arch: str | None,
    source: Dataset,
    mean: Statistics | None,
    std: Statistics | None,
    device: torch.device,
) -> list[Subject]:
    """Registered runs, and models of one's own, for which arch, mean and std are; on the device, each tried on one
    image. Raises UserError.
    """
    runs, subjects = list_runs(folder), []
    for model in chosen:
        if model in runs:
            subject, own_arch = _registered(folder, model, arch, source)
            if all(one in runs for one in chosen):
                _refuse_unused(model, own_arch, arch, mean, std)
        else:
            subject = _own(model, arch, source, mean, std)
        _try(model, subject.network.to(device), source, device)
        subjects.append(subject)
    return subjects


def _registered(folder: Results, model: str, arch: str | None, source: Dataset) -> tuple[Subject, str]:
    """A run of the registry, and its architecture. Raises UserError where the data set does not fit it."""
    network, record = registry.load(folder, model, () if arch is None else (arch,))
    if (tuple(record.image_shape), record.classes) != (source.image_shape, source.classes):
        raise UserError(
            f"{model} takes images {tuple(record.image_shape)} of {record.classes} classes; {source.name} has "
            f"{source.image_shape} of {source.classes}"
        )
    return Subject(network, model, record.weights_sha256), record.arch


def _refuse_unused(
    model: str, own_arch: str, arch: str | None, mean: Statistics | None, std: Statistics | None
) -> None:
    """Raises UserError for options that a registered run has no use for: the number would not be the one asked for."""
    if arch is not None and arch != own_arch:
        raise UserError(f"{model} is a {own_arch}, not a {arch}; leave --arch out")
    if mean is not None or std is not None:
        raise UserError(f"{model} holds its own normalisation; leave out --mean and --std")


def _try(model: str, network: nn.Module, source: Dataset, device: torch.device) -> None:
    """One image through it: a model of one's own may raise anything. Raises UserError, which says what it was."""
    if any(module.training for module in network.modules()):
        return  # refused later, in words of its own, and a pass would change its statistics
    try:
        Target(network).true_logits(source.test.x[:1].to(device))
    except ModelError as error:
        raise UserError(f"{model}: {error}") from error


def _own(model: str, arch: str | None, source: Dataset, mean: Statistics | None, std: Statistics | None) -> Subject:
    """A weights file or module:factory; its records are filed under its name and the hash of its weights."""
    if (mean is None) != (std is None):
        raise UserError("--mean and --std go together; give both or neither")
    if std is not None and min(std) <= 0:
        raise UserError(f"--std {', '.join(map(str, std))}: a deviation is above 0")
    normalize = None if mean is None or std is None else (mean, std)
    shape, classes = source.image_shape, source.classes
    if Path(model).suffix in (".pt", ".pth", ".safetensors", ".bin", ".ckpt") or Path(model).is_file():
        if arch is None:
            raise UserError(f"{model} is a weights file; say which architecture it fits with --arch")
        network = weights.from_weights(Path(model), arch, shape, classes, normalize)
    elif ":" in model:
        network = models.create(model, shape, classes, normalize=normalize)
    else:
        raise UserError(
            f"{model!r} is no registered run, no weights file and no module:factory; `bench list runs` shows the runs"
        )
    digest = fingerprint(network)
    return Subject(network, plan.run_id(f"{_plain(model)}-{digest[:8]}", 0, 1, "last"), digest)


def _plain(model: str) -> str:
    """The file's or factory's name as part of an id."""
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(model).stem).strip("-") or "model"


def choose_images(source: Dataset, count: int | None, indices: Path | None) -> Images:
    """The first `count` test images, or those whose numbers a file lists, one a line. Raises UserError."""
    chosen = source.test
    if indices is not None:
        try:
            numbers = torch.tensor([int(line) for line in indices.read_text().split()], dtype=torch.int64)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read image numbers from {indices}: {error}; write one number a line") from error
        if len(numbers) == 0 or numbers.min() < 0 or numbers.max() >= len(chosen):
            raise UserError(f"{indices}: image numbers must be in 0..{len(chosen) - 1}")
        if len(twice := numbers[numbers.bincount()[numbers] > 1]):
            raise UserError(f"{indices}: image {twice[0]} is there more than once; name each image once")
        chosen = chosen.take(numbers)
    return chosen if count is None else chosen.head(count)


def _images_of(catalog: Catalog, attacks: tuple[str, ...], most: int) -> int:
    """How many images the suites among them ask for, at least; of `most`."""
    return min([most, *(suite.images for name in attacks if (suite := catalog.suites.get(name)) and suite.images)])


def _choose_attacks(
    catalog: Catalog, names: list[str], eps: float | None, norm: str | None, say: Callable[[str], None]
) -> dict[str, tuple[Attack | None, dict[str, Any]]]:
    """The attacks by name, in the threat model asked for; steps that change with it are said. Raises UserError."""
    known = {name: catalog.attack(name) for name in names}
    norms = sorted({attack.threat.norm for attack, _ in known.values() if attack} - {"own"})
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


def choose_norm(name: str) -> str:
    """The norm as it is stored: "l_inf" -> "Linf". Raises UserError."""
    return NORMS.get(name.lower()) or choose(name, set(NORMS.values()), "norm")


def _verdict_lines(name: str, verdicts: Verdicts) -> list[str]:
    """What people look for, in the shape they look for it."""
    table, cost = verdicts.table, verdicts.cost
    low, high = wilson(int(table["robust"].sum()), len(table))
    return [
        f"clean accuracy: {verdicts.clean_accuracy:.2%}",
        f"robust accuracy after {name}: {verdicts.robust_accuracy:.2%} (total time {cost.seconds:.1f} s)",
        f"95 % interval: [{low:.2%}, {high:.2%}]; {int((~table['robust']).sum())} of {len(table)} images fall",
        f"passes: {cost.forward_passes} forward, {cost.backward_passes} backward",
    ]
