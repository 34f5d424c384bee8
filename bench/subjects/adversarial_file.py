"""Somebody's adversarial images in a file -> float32 [N, C, H, W], as they are: nothing is clipped, scaled or repaired.

NumPy's .npz and .npy, safetensors, and torch files of plain tensors. What `bench attack --keep-adversarial` wrote also
says which images they are of, and their originals.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.ground.config import UserError, check_depth, first_line
from bench.ground.plain import read_plain
from bench.subjects import arrays
from bench.subjects.pixels import Held

NAMES = ("x_adv", "adv_complete", "adversarial", "adversarial_images", "adv", "x", "images")  # the first that is there
TORCH = (".pt", ".pth", ".bin", ".ckpt")
FAR = (-0.5, 1.5)  # beyond it values are of another range, and no rounding


class Given(NamedTuple):
    """x_adv: [N, C, H, W] float32. ids: [N] numbers of the test images that they are of, and originals like x_adv,
    where the file says so. sha256: of the file.
    """

    x_adv: Tensor
    ids: Tensor | None
    originals: Tensor | None
    sha256: str


def read(path: Path) -> Given:
    """Raises UserError, which says what was found and what is wanted."""
    try:
        content = read_plain(path)
    except OSError as error:
        raise UserError(f"cannot read adversarial images {path}: {error.strerror or error}") from error
    if path.suffix in TORCH:
        found = _torch(path, content)
    elif path.suffix in (".npz", ".npy", ".safetensors"):
        found = dict(arrays.read_file(path))
    else:
        raise UserError(f"{path}: adversarial images are read from .npz, .npy, .safetensors and {', '.join(TORCH)}")
    name = _chosen(found, path)
    x_adv, ids, originals = _images(found[name], f"{path}, {name}"), None, None
    if name == "x_adv" and "image" in found:
        ids = torch.from_numpy(arrays.whole(found["image"]).astype(np.int64))
        if len(ids) != len(x_adv) or len(ids.unique()) < len(ids):
            raise UserError(
                f"{path}: `image` holds {len(ids)} numbers for {len(x_adv)} images; each needs one of its own"
            )
        originals = _images(found["x"], f"{path}, x") if "x" in found else None
    return Given(x_adv, ids, originals, hashlib.sha256(content).hexdigest())


def _torch(path: Path, content: bytes) -> dict[str, Any]:
    """Tensors by name; one alone is called as NAMES has it first."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what it cannot read, which is refused below in our words
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        check_depth(loaded)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds Python objects, which run code when loaded, or is damaged; save a plain tensor, as in "
            "torch.save(x_adv, ...)"
        ) from error
    except Exception as error:  # a damaged file breaks torch's reader anywhere
        raise UserError(f"{path} cannot be read as a torch file ({first_line(error)})") from error
    named = {NAMES[0]: loaded} if isinstance(loaded, Tensor) else loaded
    if not isinstance(named, dict):
        raise UserError(f"{path} holds a {type(loaded).__name__}, and not a tensor or tensors by name")
    tensors = {str(name): one.detach().cpu() for name, one in named.items() if isinstance(one, Tensor)}
    wide = {name: one.float() if one.dtype == torch.bfloat16 else one for name, one in tensors.items()}
    return {name: Held(one.contiguous().numpy()) for name, one in wide.items()}


def _chosen(found: dict[str, Any], path: Path) -> str:
    """The array that is meant. Raises UserError."""
    likely = [name for name in NAMES if name in found and len(found[name].shape) in (3, 4)]
    alone = [name for name, one in found.items() if len(one.shape) in (3, 4)]
    if not likely and len(alone) != 1:
        listed = ", ".join(f"{name} {list(one.shape)}" for name, one in list(found.items())[:8]) or "nothing"
        raise UserError(f"{path} holds {listed}; save the adversarial images as x_adv, [N, C, H, W] or [N, H, W, C]")
    return likely[0] if likely else alone[0]


def _images(array: Any, where: str) -> Tensor:
    """Bytes over 255, floats as they are. Raises UserError for another range."""
    pixels = arrays.images(array, where)
    if not len(raw := pixels.read(np.arange(pixels.shape[0]))):
        raise UserError(f"{where}: there is no image")
    if raw.dtype.kind != "f":
        bytes_ = arrays.as_images(pixels, [float(raw.min()), float(raw.max())], where)
        return torch.from_numpy(np.ascontiguousarray(bytes_.change(raw))).float() / 255
    values = np.ascontiguousarray(raw.astype(np.float32))
    flat = values.reshape(len(values), -1)
    finite = np.where(np.isfinite(flat), flat, 0.5)
    low, high = float(finite.min()), float(finite.max())
    if ((finite.min(1) < FAR[0]) | (finite.max(1) > FAR[1])).mean() > 0.5:
        advice = "divide them by 255" if low >= 0 and high <= 256 else "undo the normalisation"
        raise UserError(f"{where}: images are {raw.dtype} from {low:g} to {high:g}, and [0, 1] is wanted; {advice}")
    return torch.from_numpy(values)
