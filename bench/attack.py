"""`bench attack`: one model, one attack, one verdict per image, written as a record like any other.

The model is a run id of the registry, a weights file with an architecture, or a user's own module:factory.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from attacks.contract import Attack
from attacks.target import ModelError, Precision
from bench import data, models, plan, registry, weights
from bench.catalog import Catalog
from bench.config import UserError, choose
from bench.data import Dataset, Images
from bench.device import choose_device, describe
from bench.evaluate import Verdicts, check_transfer, craft, evaluate, fingerprint
from bench.records import EvalRecord, Results, Source, list_runs, provenance, write_eval

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
    attack: str,
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
) -> list[str]:
    """Attack, judge, write the record; returns the lines to print. Raises UserError.

    source: the model that the attack is crafted on, given like `model`; None is `model` itself.
    """
    folder, where = Results(results), choose_device(device)
    loaded = choose_data(folder, model, dataset, data_dir)
    subject = choose_subject(folder, model, arch, loaded, mean, std)
    origin = None if source is None else choose_subject(folder, source, arch, loaded, mean, std)
    chosen = choose_images(loaded, images, indices)
    setting, resolved = _attack(Catalog(recipes, assignments), attack, eps, norm)
    given: Any = {"name": attack, "seed": seed, "batch_size": batch_size, "gradient_precision": gradient_precision}
    crafted, named = None, source
    try:
        if origin is not None:
            crafted = craft(origin.network.to(where), check_transfer(attack, setting), chosen, loaded.classes, **given)
        named = model
        verdicts = evaluate(subject.network.to(where), setting, chosen, loaded.classes, crafted=crafted, **given)
    except ModelError as error:
        raise UserError(f"{named}: {error}") from error
    options = {"gradient_precision": gradient_precision}
    identity = plan.eval_identity(resolved, attack, chosen.sha256, seed, options, origin.run_id if origin else None)
    record = EvalRecord(
        run_id=subject.run_id,
        eval_id=plan.eval_id(attack, len(chosen), identity),
        attack=attack,
        settings=resolved["settings"],
        norm=setting.threat.norm if setting else "none",
        eps=setting.threat.eps if setting else 0.0,
        seed=seed,
        dataset=loaded.name,
        weights_sha256=subject.weights_sha256,
        images_sha256=chosen.sha256,
        cost=verdicts.cost,
        provenance=provenance(describe(where), torch.get_num_threads()),
        images=verdicts.table,
        source=Source(origin.run_id, origin.weights_sha256) if origin else None,
    )
    path = write_eval(folder, record)
    lines = [*_lines(attack, setting, resolved, verdicts), f"data: {loaded.source}", f"record: {path}"]
    return lines if origin is None else [f"crafted on {origin.run_id}, judged on {subject.run_id}", *lines]


def choose_data(folder: Results, model: str, dataset: str | None, data_dir: Path | None) -> Dataset:
    """The data set asked for, or the one that the run was trained on. Raises UserError."""
    if dataset is None and model in list_runs(folder):
        dataset = registry.read_run(folder, model).dataset
    return data.load(dataset or "digits", data_dir)


def choose_subject(
    folder: Results, model: str, arch: str | None, source: Dataset, mean: Statistics | None, std: Statistics | None
) -> Subject:
    """A registered run, or a model of one's own. Raises UserError."""
    if model not in list_runs(folder):
        return _own(model, arch, source, mean, std)
    network, record = registry.load(folder, model)
    return Subject(network, model, record.weights_sha256)


def _own(model: str, arch: str | None, source: Dataset, mean: Statistics | None, std: Statistics | None) -> Subject:
    """A weights file or module:factory; its records are filed under its name and the hash of its weights."""
    if (mean is None) != (std is None):
        raise UserError("--mean and --std go together; give both or neither")
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
        chosen = chosen.take(numbers)
    return chosen if count is None else chosen.head(count)


def _attack(catalog: Catalog, name: str, eps: float | None, norm: str | None) -> tuple[Attack | None, dict[str, Any]]:
    """The attack of that name with another radius or norm where the user says so. Raises UserError."""
    catalog = catalog.with_threat(name, eps, None if norm is None else choose_norm(norm))
    return catalog.attack(name)


def choose_norm(name: str) -> str:
    """The norm as it is stored: "l_inf" -> "Linf". Raises UserError."""
    return NORMS.get(name.lower()) or choose(name, set(NORMS.values()), "norm")


def _lines(attack: str, setting: Attack | None, resolved: dict[str, Any], verdicts: Verdicts) -> list[str]:
    """What people look for, in the shape they look for it."""
    from bench.stats import wilson

    table = verdicts.table
    low, high = wilson(int(table["robust"].sum()), len(table))
    lines = [
        f"{attack}: {plan.budget(resolved)}; {len(table)} images",
        f"clean accuracy: {verdicts.clean_accuracy:.2%}",
        f"robust accuracy after {attack}: {verdicts.robust_accuracy:.2%} (total time {verdicts.cost.seconds:.1f} s)",
        f"95 % interval: [{low:.2%}, {high:.2%}]; {int((~table['robust']).sum())} of {len(table)} images fall",
        f"passes: {verdicts.cost.forward_passes} forward, {verdicts.cost.backward_passes} backward",
    ]
    if setting is not None and setting.threat.norm in ("Linf", "L2", "L1", "L0"):
        norm = setting.threat.norm
        lines.append(f"max {norm} perturbation: {table[norm.lower()].max():.5f} (eps {setting.threat.eps:.5f})")
    return lines
