"""Architectures of libraries by name: `torchvision:NAME`, `timm:NAME`, `robustbench:DATASET/THREAT/NAME`.

Made with the data set's shape and classes and with initial weights; weights come from a file, or, where none is given,
are the library's own, which are downloaded as tensors and read like any other file: nothing downloaded runs.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from bench.ground.config import UserError, choose, first_line
from bench.subjects import zoo
from bench.subjects.normalization import Statistics

Shape = tuple[int, int, int]
HUBS = ("torchvision", "timm", "robustbench")
PACKAGES = {"timm": "timm", "transformers": "transformers", "huggingface_hub": "huggingface_hub"}  # -> the extra


def is_hub(name: str) -> bool:
    """Whether an architecture is a library's, and not a module:factory of the user's own."""
    hub, colon, _ = name.partition(":")
    return bool(colon) and hub in HUBS


def check(name: str) -> str:
    """The name, if its library has it. Raises UserError."""
    hub, _, called = name.partition(":")
    if hub == "torchvision":
        choose(called, _torchvision().list_models(module=_torchvision()), "torchvision model")
    elif hub == "timm":
        choose(called.partition(".")[0], library("timm").list_models(), "timm model")
    else:
        zoo.parse(called)
    return name


def create(name: str, shape: Shape, classes: int) -> nn.Module:
    """The architecture with its initial weights. Raises UserError."""
    check(name)
    hub, _, called = name.partition(":")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that initial weights are slow to draw, or will be drawn otherwise
            if hub == "torchvision":
                return _torchvision().get_model(called, weights=None, num_classes=classes)
            if hub == "timm":
                return _timm(called, shape, classes)
            return zoo.create(called, shape, classes)
    except UserError:
        raise
    except Exception as error:  # whatever a library raises of a shape or a number of classes that it cannot have
        raise UserError(
            f"{name} cannot be made for images {shape} of {classes} classes ({type(error).__name__}: "
            f"{first_line(error)})"
        ) from error


def statistics(name: str) -> tuple[Statistics, str] | None:
    """The normalisation that the library says of the architecture's weights, and where; None where it says none."""
    hub, _, called = name.partition(":")
    if hub != "timm":
        return None
    config = library("timm").get_pretrained_cfg(called)
    return None if config is None else ((config.mean, config.std), f"timm's configuration of {called}")


def pretrained(name: str) -> tuple[Path, tuple[Statistics, str] | None]:
    """The library's own weights, downloaded where they are not yet, and their normalisation. Raises UserError."""
    hub, _, called = name.partition(":")
    if hub == "robustbench":
        raise UserError(zoo.missing(called))
    try:
        return _torchvision_weights(called) if hub == "torchvision" else (_timm_weights(called), statistics(name))
    except UserError:
        raise
    except Exception as error:  # whatever a library raises where there is no network
        raise UserError(
            f"{name}: its weights cannot be downloaded ({type(error).__name__}: {first_line(error)}); "
            "without a network give a file of them with --weights FILE"
        ) from error


def library(package: str) -> Any:
    """An optional package. Raises UserError with the command that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        extra = PACKAGES[package]
        why = "" if getattr(error, "name", None) == package else f" ({first_line(error)})"
        raise UserError(
            f'the package {package} is not installed{why}: pip install "robustness-bench[{extra}]"'
        ) from error


def _torchvision() -> ModuleType:
    return importlib.import_module("torchvision.models")


def _timm(called: str, shape: Shape, classes: int) -> nn.Module:
    timm = library("timm")
    config = timm.get_pretrained_cfg(called)
    given: dict[str, Any] = {"num_classes": classes, "in_chans": shape[0]}
    if config is not None and config.fixed_input_size:  # transformers: their positions are of one size
        given["img_size"] = shape[1:]
    return timm.create_model(called, pretrained=False, **given)


def _torchvision_weights(called: str) -> tuple[Path, tuple[Statistics, str] | None]:
    found = _torchvision().get_model_weights(called).DEFAULT
    path = Path(torch.hub.get_dir()) / "checkpoints" / found.url.rpartition("/")[2]
    _download(path, lambda: torch.hub.download_url_to_file(found.url, str(path), path.stem.rpartition("-")[2], False))
    made = found.transforms()
    return path, ((made.mean, made.std), f"torchvision's {found}")


def _timm_weights(called: str) -> Path:
    config = library("timm").get_pretrained_cfg(called)
    if config is None or not (config.hf_hub_id or config.url):
        raise UserError(f"timm has no weights of {called}; give a file of them with --weights FILE")
    if config.hf_hub_id:
        return Path(library("huggingface_hub").hf_hub_download(config.hf_hub_id, "model.safetensors"))
    path = Path(torch.hub.get_dir()) / "checkpoints" / config.url.rpartition("/")[2]
    _download(path, lambda: torch.hub.download_url_to_file(config.url, str(path), progress=False))
    return path


def _download(path: Path, fetch: Callable[[], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        fetch()
