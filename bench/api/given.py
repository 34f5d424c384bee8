"""What a call gives: a network or its name, images and labels in memory or a data set's name -> a `Choice`.

Whatever does not fit is a UserError in one sentence that says what was given and what to do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypedDict, get_args

import numpy as np
import torch
from torch import Tensor, nn

from attacks.model import ModelError, in_training
from attacks.target import Precision, Target
from bench.api.result import IN_MEMORY
from bench.ground.config import UserError, choose, number
from bench.ledger.folder import Results
from bench.ledger.runs import read_run
from bench.running.attack import How
from bench.subjects import own
from bench.subjects.blank import Blank
from bench.subjects.chosen import Choice, choose_norm, device_of
from bench.subjects.data import Dataset, Images, check_images
from bench.subjects.own_data import Reading
from bench.subjects.quick import Arrangement
from trainers.passes import Compile

COLOURS = (1, 3)
Model = nn.Module | str | os.PathLike[str]
Pixels = Tensor | np.ndarray
Labels = Tensor | np.ndarray | list[int]


class More(TypedDict, total=False):
    """What else a call may say; each has the name of the command's option, with _ for -.

    results: the folder of records, in which what is found out is kept where it is given; without it nothing is, and run
    ids are those of the folder `results`. device: "cpu", "cuda", "cuda:1" or "auto"; of a network in memory only its
    own. draws: how often a model is asked that answers at random (docs/verdicts.md). data_dir: where data sets lie.
    classes: how many, for x, y and a model's name. columns: of a path, {"image": "pixels", "label": "fine"} or one of
    them. settings: {"pgd-20.steps": 50}. say: is called with a line as each attack ends, such as print.
    """

    results: str | os.PathLike[str] | None
    device: str
    data_dir: str | os.PathLike[str] | None
    batch_size: int
    seed: int
    gradient_precision: Precision
    compile: Compile
    draws: int
    keep_adversarial: bool
    indices: str | os.PathLike[str]
    classes: int
    columns: Mapping[str, str]
    size: int
    crop: int
    arch: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalization: str
    input_range: tuple[float, float]
    weights: str | os.PathLike[str]
    weights_key: str
    labels: str | os.PathLike[str]
    source: Model
    recipes: str | os.PathLike[str]
    settings: Mapping[str, object]
    say: Callable[[str], None]


ARGUMENTS = ("norm", "eps", "images", "attacks", "seeds")  # that have a name of their own, for "did you mean"
PATHS = ("data_dir", "indices", "weights", "labels", "recipes")
COUNTS = ("images", "batch_size", "draws", "classes", "size", "crop", "jobs")
CHOICES = {"gradient_precision": get_args(Precision), "compile": get_args(Compile)}


def known(more: Mapping[str, Any], allowed: Any = More) -> dict[str, Any]:
    """The keywords that were given and are not None, paths as such. Raises UserError for what cannot be meant."""
    given = {name: value for name, value in more.items() if value is not None}
    for name in given.keys() - allowed.__annotations__.keys():
        choose(name, {*allowed.__annotations__, *ARGUMENTS} - {name}, "keyword")
    for name in COUNTS:
        whole(name, given.get(name))
    for name in given.keys() & CHOICES.keys():
        choose(given[name], CHOICES[name], name)
    return {name: Path(value) if name in PATHS else value for name, value in given.items()}


def whole(name: str, value: object) -> None:
    """Raises UserError for what is no count; None is no choice."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UserError(f"{name} = {value!r}; give a whole number from 1 on")


def choice_of(
    model: Model, x: Pixels | str | None, y: Labels | None, images: int | None, more: dict[str, Any]
) -> Choice:
    """The model and the images. more: of `known`. Raises UserError."""
    whole("images", images)
    about = {field.name: more[field.name] for field in fields(Choice) if field.name in more}
    about |= {"results": Results(Path(more.get("results", "results"))), "images": images}
    if "source" in more:
        about["source"] = _model(more["source"])
    network = model if isinstance(model, nn.Module) else None
    if network is not None:
        about.setdefault("device", str(device_of(network)))
    chosen = Choice(_model(model), **about)
    if isinstance(x, (str, os.PathLike)) or (x is None and network is None):
        return replace(chosen, dataset=_named(x, y), reading=reading_of(more))
    if x is None:
        _named(x, y)
        raise UserError("say on which images: evaluate(model, x, y), or a data set's name, as in 'cifar10'")
    for name in more.keys() & {"columns", "size", "crop"}:
        raise UserError(f"{name} says how a file or folder is read, and these images are in memory; leave {name} out")
    given = _images(x, y)
    dataset = in_memory(given, _classes(chosen, network, given, more.get("classes")))
    return replace(chosen, dataset=dataset, images=images or (None if "indices" in more else len(given)))


def how_of(norm: str | None, eps: float | str | None, more: Mapping[str, Any]) -> How:
    """How the model is attacked. Raises UserError."""
    if more.get("keep_adversarial") and "results" not in more:
        raise UserError("keep_adversarial keeps images beside their record; say in which folder with results=")
    run = {field.name: more[field.name] for field in fields(Arrangement) if field.name in more}
    return How(
        eps=None if eps is None else number(eps),
        norm=None if norm is None else choose_norm(str(norm)),
        seed=more.get("seed", 0),
        arrangement=Arrangement(**run),
        recipes=more.get("recipes"),
        assignments=assignments_of(more.get("settings")),
        keep_adversarial=more.get("keep_adversarial", False),
        keep="results" in more,
    )


def reading_of(more: Mapping[str, Any]) -> Reading:
    """How a data set of one's own is read. Raises UserError."""
    columns = more.get("columns", {})
    named = isinstance(columns, Mapping) and columns.keys() <= {"image", "label"}
    if not named or not all(isinstance(name, str) and name.strip() for name in columns.values()):
        raise UserError(f"columns = {columns!r}; write {{'image': NAME, 'label': NAME}}, or one of them")
    return Reading(columns.get("image"), columns.get("label"), more.get("size"), more.get("crop"), more.get("classes"))


def _named(x: str | os.PathLike[str] | None, y: Labels | None) -> str | None:
    """The name or path of a data set; None is that of a run. Raises UserError for labels beside it."""
    if y is not None and x is None:
        raise UserError("labels were given without images; give both, as in evaluate(model, x, y)")
    if y is not None:
        raise UserError(f"{str(x)!r} names a data set, which has labels of its own; leave y out")
    return None if x is None else os.fspath(x)


def assignments_of(settings: Mapping[str, object] | None) -> tuple[str, ...]:
    """{"pgd-20.steps": 50} -> ("pgd-20.steps=50",), as `--set` has them. Raises UserError."""
    if settings is not None and not isinstance(settings, Mapping):
        raise UserError(f"settings = {settings!r} is no dictionary; write it like {{'pgd-20.steps': 50}}")
    return tuple(f"{name}={_toml(value)}" for name, value in (settings or {}).items())


def in_memory(images: Images, classes: int) -> Dataset:
    """A data set that is test images alone."""
    none = images.head(0)
    source = f"{len(images)} images in memory"
    return Dataset(IN_MEMORY, classes, none, none, images, False, source)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value)


def _model(model: Model) -> nn.Module | str:
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model)
    raise UserError(
        f"the model is a {type(model).__name__}; give a torch.nn.Module, or a name: a run id, a weights file, "
        "module:factory, torchvision:NAME, ..."
    )


def _classes(chosen: Choice, network: nn.Module | None, images: Images, said: int | None) -> int:
    """How many the model tells apart: as it answers, as its record says, or as was said; all labels are below it."""
    if network is not None and chosen.labels is None:
        classes, by = _answered(chosen, network, images), f"{type(network).__name__} returns"
    elif chosen.run_id is not None:
        classes, by = read_run(chosen.results, chosen.run_id).classes, f"{chosen.run_id} returns"
    elif said is not None:
        classes, by = said, "you said"
    else:
        return max(2, int(images.y.max()) + 1)
    if said is not None and said != classes:
        raise UserError(f"classes = {said}, but {by} {classes}; leave classes out")
    if int(images.y.max()) >= classes:
        raise UserError(f"labels reach to {int(images.y.max())}, but {by} {classes} classes: 0 to {classes - 1}")
    return classes


def _answered(chosen: Choice, network: nn.Module, images: Images) -> int:
    name, place, first = type(network).__name__, device_of(network), images.head(1).x
    if in_training(network):
        raise UserError(f"{name} is in training mode, where batch statistics leak; call model.eval() first")
    meant = own.around(network, name, chosen.about, (first.shape[1], first.shape[2], first.shape[3]), 0)
    try:
        return Target(Blank(meant).fresh()).true_logits(first.to(place)).shape[1]
    except ModelError as error:
        raise UserError(f"{name}: {error}") from error


def _images(x: Pixels, y: Labels | None) -> Images:
    """x, y as a call gives them -> images in the suite's form, checked."""
    if y is None:
        raise UserError("images were given without labels; give both, as in evaluate(model, x, y)")
    pixels, labels = _pixels(x), _labels(y)
    if len(labels) != len(pixels):
        raise UserError(f"there are {len(pixels)} images and {len(labels)} labels; one label per image is needed")
    if len(labels) == 0:
        raise UserError("there are no images: x is empty")
    if int(labels.min()) < 0:
        raise UserError(f"labels reach down to {int(labels.min())}; they are class numbers from 0 on")
    images = Images(pixels, labels, torch.arange(len(labels)))
    check_images(images.x, labels, int(labels.max()) + 1)
    return images


def _pixels(x: Pixels) -> Tensor:
    """[N, C, H, W], float32 or uint8, on the CPU, apart from what was given."""
    if not isinstance(x, (Tensor, np.ndarray)):
        raise UserError(f"x is a {type(x).__name__}; give images as a tensor or an array, or a data set's name")
    shape = tuple(x.shape)
    if len(shape) != 4:
        hint = "; a channel is missing: x[:, None]" if len(shape) == 3 else ""
        raise UserError(f"x has the shape {shape}; images are [N, C, H, W]{hint}")
    try:
        pixels = x.detach().cpu() if isinstance(x, Tensor) else torch.from_numpy(np.array(x))
    except (TypeError, ValueError) as error:  # such as uint16, or objects
        raise UserError(f"x is of {x.dtype}; images are float in [0, 1], or uint8 in 0..255") from error
    last = shape[3] in COLOURS and shape[1] not in COLOURS
    if pixels.dtype == torch.uint8:
        return (pixels.permute(0, 3, 1, 2) if last else pixels).contiguous().clone()
    if not pixels.dtype.is_floating_point:
        raise UserError(f"x is of {x.dtype}; images are float in [0, 1], or uint8 in 0..255")
    if last:
        raise UserError(f"x has the shape {shape}, channels last; float images are [N, C, H, W]: x.permute(0, 3, 1, 2)")
    return pixels.float().clone()


def _labels(y: Labels) -> Tensor:
    """[N] int64 on the CPU."""
    try:
        labels = y.detach().cpu() if isinstance(y, Tensor) else torch.from_numpy(np.array(y))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"y is a {type(y).__name__} that is no tensor of class numbers") from error
    if labels.dim() != 1:
        hint = ": y.argmax(1)" if labels.dim() == 2 and labels.shape[1] > 1 else ": y.flatten()"
        raise UserError(f"y has the shape {tuple(labels.shape)}; it is one class number per image{hint}")
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise UserError(f"y is of {labels.dtype}; it is one whole number per image, the class: y.long()")
    return labels.to(torch.int64).clone()
