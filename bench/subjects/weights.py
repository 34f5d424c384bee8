"""Weights files, ours and other people's: safetensors, or torch files of plain tensors. Nothing here runs code.

Common wrappers ("state_dict", "model", "net", ...), prefixes ("module.", "model.") and the keys of the WRN of TRADES
and its descendants are mapped to ours; tensors that their forward pass never uses (`sub_block1`) are left out. A file
that holds its normalisation as a first module (keys "0.mean", "0.std", then "1...." for the network) keeps it.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from bench.ground.config import UserError, first_line
from bench.subjects import models

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "ema", "best")
PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
UNUSED = re.compile(r"(^|\.)sub_block1\.|num_batches_tracked$")
WRN_KEYS = (
    (re.compile(r"^conv1\."), "stem."),
    (re.compile(r"^bn1\."), "last_bn."),
    (re.compile(r"^fc\."), "linear."),
    (re.compile(r"\.convShortcut\."), ".shortcut."),
)


def from_weights(
    path: Path,
    arch: str,
    shape: models.Shape,
    classes: int,
    normalize: models.Statistics | None = None,
    sha256: str | None = None,
) -> nn.Module:
    """The architecture with the file's weights, in evaluation mode.

    normalize: (mean, std) to put in front, for files that do not hold them. sha256: what the file must hash to.
    Raises UserError: missing, truncated or altered file, a pickle that is more than weights, keys that do not fit.
    """
    state = read_weights(Path(path), sha256)
    if {"0.mean", "0.std"} <= set(state):
        if normalize is not None:
            raise UserError(f"{path} holds its own normalisation; leave out --mean and --std")
        normalize = state["0.mean"].flatten().tolist(), state["0.std"].flatten().tolist()
        state = {name.removeprefix("1."): value for name, value in state.items() if name.startswith("1.")}
    model = models.create(arch, shape, classes)
    own = model.state_dict()
    fitted = _fit(state, arch)
    missing = [name for name in own if name not in fitted and not name.endswith("num_batches_tracked")]
    extra = [name for name in fitted if name not in own]
    wrong = [
        f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in fitted.items()
        if name in own and value.shape != own[name].shape
    ]
    if missing or extra or wrong:
        found = [("missing", missing), ("not known", extra), ("of another shape", wrong)]
        listed = "; ".join(f"{what}: {_some(names)}" for what, names in found if names)
        raise UserError(f"{path} does not fit {arch} with images {shape} and {classes} classes; {listed}")
    model.load_state_dict(fitted, strict=False)
    return models.with_normalization(model, shape, normalize).eval()


def read_weights(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """name -> tensor, dense and of real numbers. Raises UserError."""
    state = _read(path, sha256)
    for name, value in state.items():
        plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not plain or value.is_nested or value.is_complex():
            raise UserError(f"{path}: {name} is no plain tensor of real numbers, and weights are")
    return state


def _read(path: Path, sha256: str | None) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read weights {path}: {error.strerror or error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if sha256 is not None and digest != sha256:
        raise UserError(
            f"{path} is not the file that was registered (SHA-256 {digest[:12]}..., recorded {sha256[:12]}...): it was "
            "truncated or altered; delete its run and train again"
        )
    if path.suffix == ".safetensors":
        try:
            return load_safetensors(content)
        except SafetensorError as error:
            raise UserError(f"{path} is not a whole safetensors file ({error})") from error
    return _plain_state(path)


def _plain_state(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what it cannot read, which is refused below in our words
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not plain weights: it holds Python objects, which run code when loaded, or is damaged; "
            "save model.state_dict() and try again"
        ) from error
    except Exception as error:  # a damaged file breaks torch's reader anywhere
        raise UserError(f"{path} cannot be read as weights ({first_line(error)})") from error
    for name in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
    if not isinstance(loaded, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()):
        raise UserError(f"{path} holds no state dict (a mapping from names to tensors)")
    return loaded


def _fit(state: dict[str, Tensor], arch: str) -> dict[str, Tensor]:
    """The file's tensors under our names; what no forward pass uses is left out."""
    used = {name: value for name, value in state.items() if not UNUSED.search(name)}
    for prefix in PREFIXES * 2:
        if used and all(name.startswith(prefix) for name in used):
            used = {name.removeprefix(prefix): value for name, value in used.items()}
    layers = [int(match[1]) for name in used if (match := re.match(r"block1\.layer\.(\d{1,4})\.", name))]
    if arch.startswith("wrn") and layers:
        depth = 1 + max(layers)
        used = {_wrn_name(name, depth): value for name, value in used.items()}
    return used


def _wrn_name(name: str, depth: int) -> str:
    """block2.layer.1.bn1.weight -> blocks.<depth + 1>.bn1.weight, and the top-level names."""
    match = re.match(r"block(\d)\.layer\.(\d+)\.(.*)", name)
    if match:
        name = f"blocks.{(int(match[1]) - 1) * depth + int(match[2])}.{match[3]}"
        return WRN_KEYS[3][0].sub(WRN_KEYS[3][1], name)
    for pattern, replacement in WRN_KEYS[:3]:
        name = pattern.sub(replacement, name)
    return name


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
