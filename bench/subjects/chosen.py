"""What a command means by MODEL, --dataset and --images: names as the user gave them -> networks and images.

A model is a run id of the registry, or one of the user's own, see `own`; from Python also a network in memory, and
then images may be in memory too.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from attacks.model import ModelError, check_values, in_training
from attacks.target import Target
from bench.ground.config import UserError, choose
from bench.ground.plain import TEXT, read_plain
from bench.ledger.folder import Results
from bench.ledger.ids import NAME_SHOWN, run_id
from bench.ledger.runs import list_runs, read_run
from bench.subjects import data, models, own, registry, zoo
from bench.subjects.blank import Blank
from bench.subjects.code import code_sha256
from bench.subjects.data import Dataset, Images
from bench.subjects.fingerprint import fingerprint
from bench.subjects.normalization import Inputs
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
    """The model and the images that a command names, or that a call from Python gives.

    model: a name, or a network, of which a copy is attacked. dataset: a name or a path, or the data set itself. source:
    the model that an attack is crafted on, given like `model`; None is `model` itself. arch, mean, std: of models of
    one's own, and so are normalization (a name in place of mean and std), input_range (low, high), weights (a file for
    a name or factory), weights_key (which network of a file that holds several) and labels, see `own.About`. images: so
    many test images, see `Images.some`; indices: a file with their numbers. reading: how a data set of one's own is
    read.
    """

    model: str | nn.Module
    results: Results
    dataset: str | Dataset | None = None
    arch: str | None = None
    images: int | None = None
    indices: Path | None = None
    device: str = "auto"
    data_dir: Path | None = None
    mean: Statistics | None = None
    std: Statistics | None = None
    source: str | nn.Module | None = None
    weights_key: str | None = None
    reading: Reading | None = None
    normalization: str | None = None
    input_range: tuple[float, float] | None = None
    weights: Path | None = None
    labels: Path | None = None

    @property
    def about(self) -> own.About:
        """What is said of models of one's own."""
        inputs = Inputs(self.mean, self.std, self.normalization, self.input_range)
        return own.About(self.arch, inputs, self.weights, self.weights_key, self.labels, self.source is None)

    @property
    def words(self) -> str:
        """The model, and the one to craft on where that is another."""
        return " or ".join(named(model) for model in (self.model, self.source) if model is not None)

    @property
    def run_id(self) -> str | None:
        """The run of the registry that the model is, if it is one."""
        return self.model if isinstance(self.model, str) and self.model in list_runs(self.results) else None

    def load(self) -> Dataset:
        """The data set asked for, or the one that the run was trained on. Raises UserError."""
        dataset = self.dataset
        if isinstance(dataset, Dataset):
            return dataset
        if dataset is None and self.run_id is not None:
            dataset = read_run(self.results, self.run_id).dataset
            if not data.has_name(dataset):
                raise UserError(
                    f"{self.model} was trained on {dataset}, which is your own; give its path with --dataset"
                )
        if dataset is None and isinstance(self.model, str) and self.model.startswith("robustbench:"):
            dataset = zoo.parse(self.model.partition(":")[2]).dataset
        return data.load(dataset or "digits", self.data_dir, self.reading)

    def subjects(self, dataset: Dataset, device: torch.device) -> list[Subject]:
        """The model, then the source where there is one: registered runs, or models of one's own, for which arch, mean
        and std are; on the device, each tried on one image. Raises UserError.
        """
        chosen = [self.model] if self.source is None else [self.model, self.source]
        runs, subjects = list_runs(self.results), []
        for model in chosen:
            if isinstance(model, nn.Module):
                subject = _in_memory(model, self.about, dataset, device)
            elif model in runs:
                subject, own_arch = _registered(self.results, model, self.arch, dataset)
                if all(isinstance(one, str) and one in runs for one in chosen):
                    self._refuse_unused(model, own_arch)
            else:
                subject = _own(model, self.about, dataset)
            if not isinstance(model, nn.Module):
                subject = subject._replace(blank=subject.blank.moved(device))
            _try(named(model), subject.blank.fresh(), dataset, device)
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
        unused = {
            "--normalization": self.normalization, "--range": self.input_range, "--labels": self.labels,
            "--weights": self.weights, "--weights-key": self.weights_key,
        }  # fmt: skip
        if given := [option for option, value in unused.items() if value is not None]:
            raise UserError(f"{model} is one registered network; leave out {', '.join(given)}")


def named(model: str | nn.Module) -> str:
    """A model in words: its name, of a network in memory that of its class."""
    return model if isinstance(model, str) else type(model).__name__


def device_of(network: nn.Module) -> torch.device:
    """Where its weights lie. Raises UserError where that is more than one place, or they have no values."""
    try:
        check_values(network)
    except ModelError as error:
        raise UserError(f"{named(network)}: {error}") from error
    places = {value.device for value in (*network.parameters(), *network.buffers())}
    if len(places) > 1:
        listed = ", ".join(sorted(map(str, places)))
        raise UserError(f"{named(network)} lies on several devices ({listed}); move it to one with model.to(device)")
    return places.pop() if places else torch.device("cpu")


def _in_memory(network: nn.Module, about: own.About, dataset: Dataset, device: torch.device) -> Subject:
    """A copy of a network that somebody holds, where it can be copied: theirs stays as it is. Its id is that of its
    class and a hash of its weights and its code. Raises UserError.
    """
    shape = dataset.image_shape
    here, name = device_of(network), named(network)
    if here != device and not (device.type == here.type and device.index is None):
        raise UserError(f"{name} is on {here}, and device {str(device)!r} was asked for; move it with model.to(...)")
    if in_training(network):
        raise UserError(f"{name} is in training mode, where batch statistics leak; call model.eval() first")
    network = own.around(network, name, about, shape, dataset.classes)
    blank = Blank(network)
    plain = blank.fresh().cpu() if blank.copied else network
    digest = hashlib.sha256(f"{fingerprint(plain)}{code_sha256(plain, [], shape)}".encode()).hexdigest()
    return Subject(blank.fresh(), run_id(f"{_plain(name)}-{digest[:8]}", 0, 1, "last"), digest, blank)


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
        logits = Target(network).true_logits(source.test.head(1).x.to(device))
    except ModelError as error:
        raise UserError(f"{model}: {error}") from error
    check_classes(model, logits, source.classes)


def check_classes(model: str, logits: torch.Tensor, classes: int) -> None:
    """Raises UserError for a head of more classes than the data set has: no order of them is sure to be its own."""
    if logits.shape[1] > classes:
        raise UserError(
            f"{model}: the model returns {logits.shape[1]} classes; the data set has {classes}; --labels FILE says "
            "which of them are meant, a line for each class of the data set with the number of its logit"
        )


def _own(model: str, about: own.About, source: Dataset) -> Subject:
    """A model of the user's own; its records are filed under its name and the hash of its weights. Raises UserError."""
    shape = source.image_shape
    made = own.find(model, about, shape, source.classes)
    network = made.make()
    own.say_inputs(model, network, about, shape[0])
    digest = _identity(network, made, shape)
    return Subject(network, run_id(f"{_plain(model)}-{digest[:8]}", 0, 1, "last"), digest, Blank(network, made.make))


def _identity(network: nn.Module, made: own.Own, shape: models.Shape) -> str:
    """A hash of the weights, and of the code where that is the user's: the same weights in other code are another. Of
    a library's architecture its name counts, or its configuration.
    """
    digest = fingerprint(network)
    factories = [part for part in made.arch.split("+") if models.is_own(part)] if made.identity == "" else []
    if theirs := models.of_packages([made.arch]):
        digest = hashlib.sha256(f"{digest}{json.dumps(theirs)}".encode()).hexdigest()
    if made.identity:
        return hashlib.sha256(f"{digest}{made.identity}".encode()).hexdigest()
    if not factories:
        return digest
    return hashlib.sha256(f"{digest}{code_sha256(network, factories, shape)}".encode()).hexdigest()


def _plain(model: str) -> str:
    """The file's or factory's name as part of an id."""
    name = model if ":" in model else Path(model).stem
    return re.sub(r"[^A-Za-z0-9]+", "-", name)[-NAME_SHOWN:].strip("-") or "model"


def choose_images(source: Dataset, count: int | None, indices: Path | None) -> Images:
    """`count` test images (`Images.some`), or those whose numbers a file lists, one a line. Raises UserError."""
    chosen = source.test
    if indices is None and count is not None:
        return chosen.some(count)
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
