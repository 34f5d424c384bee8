"""What a command means by MODEL, --dataset and --images: names as the user gave them -> networks and images.

A model is a run id of the registry, a weights file with an architecture, or a user's own module:factory.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from attacks.target import ModelError, Target
from bench.ground.config import UserError, choose
from bench.ground.plain import TEXT, read_plain
from bench.ledger.folder import Results
from bench.ledger.ids import NAME_SHOWN, run_id
from bench.ledger.runs import list_runs, read_run
from bench.subjects import data, models, registry, weights
from bench.subjects.blank import Blank
from bench.subjects.code import code_sha256
from bench.subjects.data import Dataset, Images
from bench.subjects.fingerprint import fingerprint
from bench.subjects.own_data import Reading

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
    """The model under attack: the network, a name for its records, a fingerprint of its weights (of a module:factory
    also of its code), and copies of it that have seen nothing.
    """

    network: nn.Module
    run_id: str
    weights_sha256: str
    blank: Blank


@dataclass(frozen=True)
class Choice:
    """The model and the images that a command names.

    source: the model that an attack is crafted on, given like `model`; None is `model` itself. arch, mean, std: of
    models of one's own. weights_key: which network of a weights file that holds several. images: the first so many
    test images; indices: a file with their numbers. reading: how a data set of one's own is read.
    """

    model: str
    results: Results
    dataset: str | None = None
    arch: str | None = None
    images: int | None = None
    indices: Path | None = None
    device: str = "auto"
    data_dir: Path | None = None
    mean: Statistics | None = None
    std: Statistics | None = None
    source: str | None = None
    weights_key: str | None = None
    reading: Reading | None = None

    @property
    def words(self) -> str:
        """The model, and the one to craft on where that is another."""
        return self.model if self.source is None else f"{self.model} or {self.source}"

    def load(self) -> Dataset:
        """The data set asked for, or the one that the run was trained on. Raises UserError."""
        dataset = self.dataset
        if dataset is None and self.model in list_runs(self.results):
            dataset = read_run(self.results, self.model).dataset
            if dataset not in data.DATASETS:
                raise UserError(
                    f"{self.model} was trained on {dataset}, which is your own; give its path with --dataset"
                )
        return data.load(dataset or "digits", self.data_dir, self.reading)

    def subjects(self, dataset: Dataset, device: torch.device) -> list[Subject]:
        """The model, then the source where there is one: registered runs, or models of one's own, for which arch, mean
        and std are; on the device, each tried on one image. Raises UserError.
        """
        chosen = [self.model] if self.source is None else [self.model, self.source]
        runs, subjects = list_runs(self.results), []
        for model in chosen:
            if model in runs:
                subject, own_arch = _registered(self.results, model, self.arch, dataset)
                if all(one in runs for one in chosen):
                    self._refuse_unused(model, own_arch)
            else:
                subject = _own(model, self.arch, dataset, self.mean, self.std, self.weights_key)
            subject = subject._replace(blank=subject.blank.moved(device))
            _try(model, subject.blank.fresh(), dataset, device)
            subjects.append(subject)
        return subjects

    def pick(self, dataset: Dataset, most: int) -> Images:
        """The test images asked for, or the first `most` where nothing is said. Raises UserError."""
        return choose_images(dataset, self.images if self.images or self.indices else most, self.indices)

    def _refuse_unused(self, model: str, own_arch: str) -> None:
        """Raises UserError for options that a registered run has no use for: the number would be another one's."""
        if self.arch is not None and self.arch != own_arch:
            raise UserError(f"{model} is a {own_arch}, not a {self.arch}; leave --arch out")
        if self.mean is not None or self.std is not None:
            raise UserError(f"{model} holds its own normalisation; leave out --mean and --std")
        if self.weights_key is not None:
            raise UserError(f"{model} is one registered network; leave out --weights-key")


def _registered(folder: Results, model: str, arch: str | None, source: Dataset) -> tuple[Subject, str]:
    """A run of the registry, and its architecture. Raises UserError where the data set does not fit it."""
    network, record = registry.load(folder, model, () if arch is None else (arch,))
    if (tuple(record.image_shape), record.classes) != (source.image_shape, source.classes):
        raise UserError(
            f"{model} takes images {tuple(record.image_shape)} of {record.classes} classes; {source.name} has "
            f"{source.image_shape} of {source.classes}"
        )
    return Subject(network, model, record.weights_sha256, Blank(network)), record.arch


def _try(model: str, network: nn.Module, source: Dataset, device: torch.device) -> None:
    """One image through it: a model of one's own may raise anything. Raises UserError, which says what it was."""
    if any(module.training for module in network.modules()):
        return  # refused later, in words of its own, and a pass would change its statistics
    try:
        Target(network).true_logits(source.test.head(1).x.to(device))
    except ModelError as error:
        raise UserError(f"{model}: {error}") from error


def _own(
    model: str,
    arch: str | None,
    source: Dataset,
    mean: Statistics | None,
    std: Statistics | None,
    weights_key: str | None,
) -> Subject:
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
        make = partial(weights.from_weights, Path(model), arch, shape, classes, normalize, key=weights_key)
    elif ":" in model:
        if weights_key is not None:
            raise UserError(f"{model} is no weights file; leave out --weights-key")
        make = partial(models.create, model, shape, classes, normalize=normalize)
    else:
        raise UserError(
            f"{model!r} is no registered run, no weights file and no module:factory; `bench list runs` shows the runs"
        )
    network = make()
    digest = _identity(network, arch if make.func is weights.from_weights and arch else model, shape)
    return Subject(network, run_id(f"{_plain(model)}-{digest[:8]}", 0, 1, "last"), digest, Blank(network, make))


def _identity(network: nn.Module, made_by: str, shape: models.Shape) -> str:
    """A hash of the weights, and of the code where that is the user's: the same weights in other code are another."""
    digest = fingerprint(network)
    factories = [part for part in made_by.split("+") if ":" in part]
    if not factories:
        return digest
    return hashlib.sha256(f"{digest}{code_sha256(network, factories, shape)}".encode()).hexdigest()


def _plain(model: str) -> str:
    """The file's or factory's name as part of an id."""
    name = model if ":" in model else Path(model).stem
    return re.sub(r"[^A-Za-z0-9]+", "-", name)[-NAME_SHOWN:].strip("-") or "model"


def choose_images(source: Dataset, count: int | None, indices: Path | None) -> Images:
    """The first `count` test images, or those whose numbers a file lists, one a line. Raises UserError."""
    chosen = source.test
    if indices is not None:
        try:
            numbers = torch.tensor(
                [int(line) for line in read_plain(indices, TEXT).decode().split()], dtype=torch.int64
            )
        except (OSError, ValueError, OverflowError, RuntimeError) as error:
            raise UserError(f"cannot read image numbers from {indices}: {error}; write one number a line") from error
        if len(numbers) == 0 or numbers.min() < 0 or numbers.max() >= len(chosen):
            raise UserError(f"{indices}: image numbers must be in 0..{len(chosen) - 1}")
        if len(twice := numbers[numbers.bincount()[numbers] > 1]):
            raise UserError(f"{indices}: image {twice[0]} is there more than once; name each image once")
        chosen = chosen.take(numbers)
    return chosen if count is None else chosen.head(count)


def choose_norm(name: str) -> str:
    """The norm as it is stored: "l_inf" -> "Linf". Raises UserError."""
    return NORMS.get(name.lower()) or choose(name, set(NORMS.values()), "norm")
