"""A folder in the layout of the Hugging Face hub: `config.json`, `model.safetensors`, perhaps a preprocessor's.

Three kinds: image classifiers of transformers ("model_type"), timm's ("architecture"), and our own exports
("bench_arch"). Code in a folder is never run, and weights are safetensors alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.ground.config import UserError, check_depth, first_line
from bench.ground.plain import TEXT, read_plain
from bench.subjects.hubs import library
from bench.subjects.normalization import Statistics, of_preprocessor

CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"


@dataclass(frozen=True)
class Folder:
    """What a folder holds. config: its config.json."""

    path: Path
    config: Mapping[str, Any]

    @property
    def arch(self) -> str | None:
        """The architecture by our names; None of a model of transformers."""
        if "bench_arch" in self.config:
            return str(self.config["bench_arch"])
        return f"timm:{self.config['architecture']}" if "architecture" in self.config else None

    @property
    def identity(self) -> str:
        """What the architecture is, beside the weights: a hash of its configuration."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    def statistics(self, channels: int) -> tuple[Statistics, str] | None:
        """The normalisation that the folder says, and where. Raises UserError."""
        if "bench_arch" in self.config:
            return None  # it is among the weights
        timms = self.config.get("pretrained_cfg")
        if isinstance(timms, Mapping) and "mean" in timms and "std" in timms:
            found: Statistics = (list(map(float, timms["mean"])), list(map(float, timms["std"])))
            plain = not any(found[0]) and set(found[1]) == {1.0}
            return None if plain else (found, f"{self.path / CONFIG}")
        file = self.path / PREPROCESSOR
        if not file.is_file():
            return None
        read = of_preprocessor(_object(file), channels)
        return None if read is None else (read, f"{file}")

    def make(self) -> nn.Module:
        """The image classifier of transformers with its weights, in evaluation mode. Raises UserError."""
        if "auto_map" in self.config:
            raise UserError(f"hf:{self.path} brings code of its own (auto_map), which is not run")
        transformers = library("transformers")
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        try:
            model, info = transformers.AutoModelForImageClassification.from_pretrained(
                self.path, local_files_only=True, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True, dtype=torch.float32,
            )  # fmt: skip
        except Exception as error:  # whatever transformers raises of what it does not know
            raise UserError(
                f"hf:{self.path} cannot be loaded as an image classifier ({type(error).__name__}: {first_line(error)})"
            ) from error
        lacking = sorted({str(key) for kind in ("missing_keys", "mismatched_keys") for key in info.get(kind, ())})
        if lacking:
            raise UserError(
                f"hf:{self.path}: its weights lack {', '.join(lacking[:3])}{' and more' if len(lacking) > 3 else ''}, "
                "which would be drawn at random; is it a classifier?"
            )
        return model.eval()


def read_folder(name: str) -> Folder:
    """`PATH`, or where there is no such folder the id of a repository on the hub. Raises UserError."""
    path = Path(name).expanduser()
    if not path.is_dir():
        path = _from_hub(name)
    if not (path / CONFIG).is_file():
        raise UserError(f"hf:{name} has no {CONFIG}; a folder in Hugging Face's layout has it beside {WEIGHTS}")
    config = _object(path / CONFIG)
    if not {"model_type", "architecture", "bench_arch"} & set(config):
        raise UserError(f"{path / CONFIG} names no model_type (transformers) and no architecture (timm)")
    return Folder(path, config)


def weights_of(folder: Folder) -> Path:
    """Its weights in one file. Raises UserError."""
    path = folder.path / WEIGHTS
    if not path.is_file():
        there = ", ".join(sorted(file.name for file in folder.path.glob("*.bin"))) or "no weights"
        raise UserError(f"hf:{folder.path} has {there}, and {WEIGHTS} is wanted")
    return path


def _object(path: Path) -> Mapping[str, Any]:
    """A JSON object. Raises UserError."""
    try:
        content = json.loads(read_plain(path, TEXT))
        check_depth(content)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object")
    return content


def _from_hub(name: str) -> Path:
    """Downloads what is JSON or safetensors, and nothing else. Raises UserError."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"hf:{name}: there is no such folder, and it is no OWNER/NAME of the hub")
    try:
        hub = library("huggingface_hub")
        return Path(hub.snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except UserError as error:
        raise UserError(f"hf:{name}: there is no such folder; to ask the hub for it, {error}") from error
    except Exception as error:  # whatever the hub's client raises where there is no network
        raise UserError(
            f"hf:{name}: there is no such folder, and the hub cannot be asked ({type(error).__name__}: "
            f"{first_line(error)}); put its {CONFIG} and {WEIGHTS} into a folder and write hf:FOLDER"
        ) from error
