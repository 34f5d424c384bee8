"""A model of the user's own, by what a command says of it: where it lies, how it is made, what is put in front of it.

MODEL is a weights file with an architecture, module:factory, a library's name (`torchvision:`, `timm:`,
`robustbench:`, see `hubs`) or a folder in Hugging Face's layout (`hf:`, see `folders`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import nn

from bench.ground import terminal
from bench.ground.config import UserError
from bench.ground.plain import check_plain
from bench.subjects import folders, hubs, models, outside, weights, zoo
from bench.subjects.folders import Folder
from bench.subjects.heads import read_labels
from bench.subjects.normalization import Inputs, Statistics, words
from bench.subjects.outputs import Labels, Mapped, with_logits

SUFFIXES = (".pt", ".pth", ".safetensors", ".bin", ".ckpt")
EXPORTED = "bench"  # where an export of ours says what it is, in the head of its safetensors


@dataclass(frozen=True)
class About:
    """What a command says of models of one's own. weights: a file for a name or factory; weights_key: which network of
    a file that holds several; labels: a file that says which of the head's classes are meant. alone: no other model is
    meant, so that what this one has no use for is refused.
    """

    arch: str | None = None
    inputs: Inputs = field(default_factory=Inputs)
    weights: Path | None = None
    weights_key: str | None = None
    labels: Path | None = None
    alone: bool = True


class Own(NamedTuple):
    """A model that was found. make: makes it, in evaluation mode. arch: what made it, by name; identity: what says
    which architecture that is where the name does not, "" where it does.
    """

    make: Callable[[], nn.Module]
    arch: str
    identity: str


class _Found(NamedTuple):
    """Where a model comes from. file: of its weights; said: the normalisation that comes with it, and from where."""

    arch: str
    file: Path | None = None
    key: str | None = None
    said: tuple[Statistics, str] | None = None
    folder: Folder | None = None


def find(model: str, about: About, shape: models.Shape, classes: int) -> Own:
    """The model, not made yet, for images `shape` of so many classes; its normalisation is said. Raises UserError."""
    inputs, found = about.inputs.statistics(shape[0]), _find(model, about, shape[0])
    labels = None if about.labels is None else read_labels(about.labels, classes)
    if about.inputs.given:
        normalize = inputs
    else:
        normalize = None if found.said is None else models.Assumed(*found.said[0])
    make = partial(_make, model, found, shape, classes, labels, normalize)
    if hubs.is_hub(found.arch):
        identity = found.arch
    else:
        identity = "" if found.folder is None else found.folder.identity
    return Own(make, found.arch, identity)


def around(network: nn.Module, name: str, about: About, shape: models.Shape, classes: int) -> nn.Module:
    """A network that somebody holds, with what a call says of its outputs, head and inputs around it. name: for people.
    Raises UserError.
    """
    for option in ("arch", "weights", "weights_key") if about.alone else ():
        if getattr(about, option) is not None:
            raise UserError(f"{name} is a network in memory, with its weights; leave {option} out")
    network = with_logits(network, name, shape)
    if about.labels is not None:
        network = Mapped(network, read_labels(about.labels, classes))
    return models.with_normalization(network, shape, about.inputs.statistics(shape[0]))


def say_inputs(model: str, network: nn.Module, about: About, channels: int) -> None:
    """What is done to images in [0, 1] first, and who says so, where anything is. Raises UserError."""
    if not (isinstance(network, nn.Sequential) and len(network) == 2 and isinstance(network[0], models.Normalize)):
        return
    first = network[0]
    statistics: Statistics = (first.mean.flatten().tolist(), first.std.flatten().tolist())
    found = None if about.inputs.given else _find(model, about, channels).said
    by = "as its file holds"
    if about.inputs.given:
        by = "as the command says"
    elif found is not None and words(found[0]) == words(statistics):
        by = f"as {found[1]} says; --normalization none leaves it out"
    terminal.warn_once(f"{model}: images in [0, 1] are {words(statistics)}, {by}")


def _make(
    name: str,
    found: _Found,
    shape: models.Shape,
    classes: int,
    labels: Labels | None,
    normalize: Statistics | None,
) -> nn.Module:
    """The network, in evaluation mode. Raises UserError."""
    if found.file is not None:
        given: dict[str, Any] = {"key": found.key, "labels": labels}
        return weights.from_weights(found.file, found.arch, shape, classes, normalize, **given)
    if found.folder is not None:
        network = with_logits(found.folder.make(), name, shape, found.folder.make)
    else:
        network = models.create(found.arch, shape, classes, own_head=labels is not None)
    network = network if labels is None else Mapped(network, labels)
    return models.with_normalization(network, shape, normalize)


def _find(model: str, about: About, channels: int) -> _Found:
    """Raises UserError for what is nothing known, and for options that it has no use for."""
    if model.startswith("hf:"):
        _refuse(model, about, "arch", "weights", "weights_key")
        return _of_folder(folders.read_folder(model.removeprefix("hf:")), channels)
    if hubs.is_hub(model):
        _refuse(model, about, "arch")
        return _of_zoo(model, about) if model.startswith("robustbench:") else _of_library(model, about)
    if Path(model).suffix in SUFFIXES or Path(model).is_file():
        _refuse(model, about, "weights")
        return _of_file(Path(model), about)
    if ":" in model:
        if about.weights_key is not None and about.weights is None:
            raise UserError(f"{model} is no weights file; leave out --weights-key")
        _refuse(model, about, "arch")
        return _Found(model, about.weights, about.weights_key)
    if outside.is_outside("model", model, models.MODELS):
        _refuse(model, about, "arch")
        return _Found(model, about.weights, about.weights_key)
    raise UserError(
        f"{model!r} is no registered run, no weights file and no module:factory; `bench list runs` shows the runs"
    )


def _of_folder(folder: Folder, channels: int) -> _Found:
    said = folder.statistics(channels)
    if folder.arch is None:
        return _Found(f"hf:{folder.path}", said=said, folder=folder)
    if models.is_own(folder.arch):
        raise UserError(
            f"hf:{folder.path} is of the architecture {folder.arch!r}, whose code would run; if you trust it, give its "
            f"{folders.WEIGHTS} as MODEL, with --arch {folder.arch}"
        )
    return _Found(folder.arch, folders.weights_of(folder), said=said)


def _of_zoo(model: str, about: About) -> _Found:
    entry = zoo.parse(model.partition(":")[2])
    file = about.weights or entry.file
    if not file.is_file():
        raise UserError(zoo.missing(model.partition(":")[2]))
    return _of_entry(entry, file, about)


def _of_entry(entry: zoo.Entry, file: Path, about: About) -> _Found:
    """By one of our architectures where one is it, whether or not the package is there: one id for one network."""
    arch, statistics = entry.ours or (f"robustbench:{entry.dataset}/{entry.threat}/{entry.name}", None)
    said = None if statistics is None else (statistics, f"RobustBench's {entry.name}")
    return _Found(arch, file, about.weights_key or entry.key, said)


def _of_library(model: str, about: About) -> _Found:
    hubs.check(model)
    file, said = (about.weights, hubs.statistics(model)) if about.weights else hubs.pretrained(model)
    return _Found(model, file, about.weights_key, said)


def _of_file(file: Path, about: About) -> _Found:
    """A weights file: its architecture is the one said, or what an export of ours or RobustBench's layout says."""
    exported = exported_as(file)
    arch = about.arch or exported.get("arch")
    if arch is None and (entry := zoo.entry_of(file)) is not None:
        return _of_entry(entry, file, about)
    if arch is None:
        raise UserError(f"{file} is a weights file; say which architecture it fits with --arch")
    if about.arch is None and models.is_own(arch):
        raise UserError(
            f"{file} is of the architecture {arch!r}, whose code would run; if you trust it, say so: --arch {arch}"
        )
    said = hubs.statistics(arch) if hubs.is_hub(arch) and not exported else None
    return _Found(arch, file, about.weights_key, said)


def exported_as(file: Path) -> dict[str, Any]:
    """What the head of an exported safetensors file says of it; {} for any other file."""
    if file.suffix != ".safetensors":
        return {}
    try:
        check_plain(file)
        with safe_open(file, "pt") as opened:
            content = json.loads((opened.metadata() or {}).get(EXPORTED, "{}"))
    except (OSError, SafetensorError, ValueError, RecursionError):  # said where the weights are read
        return {}
    return {key: value for key, value in content.items() if isinstance(value, str)} if isinstance(content, dict) else {}


def _refuse(model: str, about: About, *options: str) -> None:
    """Raises UserError for an option that this model has no use for, and no other."""
    for option in options if about.alone else ():
        if getattr(about, option) is not None:
            raise UserError(f"{model} says that itself; leave out --{option.replace('_', '-')}")
