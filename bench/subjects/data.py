"""Data sets as tensors: images [N, C, H, W] float32 in [0, 1], labels int64, split into train, validation and test.

Validation images are cut from the training images by a fixed permutation (torch's randperm seeded with
SPLIT_SEED); test images never select anything. Sources: scikit-learn's digits (embedded, the default), Parquet in the
column layout of the Hugging Face hub, and torchvision's own formats.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.ground import terminal
from bench.ground.config import UserError, choose, first_line
from bench.ground.plain import check_plain, read_plain

SPLIT_SEED = 0
VALIDATION = 1000  # images held out of training, as in Rice et al. 2020
DIGITS_TEST, DIGITS_VALIDATION = 450, 200
PAD = 4
MOST_ROWS = 10_000_000  # of a shard
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # others may run programs, or hide how deep their colours are
MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX")  # of Pillow: 8 bits or fewer, and colours that are RGB
DEEP = re.compile(r";(12|16|32|64)[BLNSF]|;32\b")  # Pillow's name of a file's own depth, which it may cut to 8 bits


@dataclass(frozen=True)
class Images:
    """x [N, C, H, W] float32 in [0, 1], y [N] int64, ids [N] int64: their numbers in the official order."""

    x: Tensor
    y: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def head(self, count: int) -> Images:
        """The first `count` images. Raises UserError when there are fewer."""
        if count > len(self):
            raise UserError(f"{count} images were asked for; there are {len(self)}")
        return self.take(torch.arange(count))

    def take(self, indices: Tensor) -> Images:
        """The images at these positions."""
        return Images(self.x[indices], self.y[indices], self.ids[indices])

    @cached_property
    def sha256(self) -> str:
        """Over shape, pixels and labels; pixels as uint8 where they all are multiples of 1/255, else as float32."""
        digest = hashlib.sha256(str(tuple(self.x.shape)).encode())
        bytes_ = (self.x * 255).round().to(torch.uint8)
        exact = torch.equal(bytes_.float() / 255, self.x)
        digest.update((bytes_ if exact else self.x).contiguous().numpy().tobytes())
        digest.update(self.y.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Dataset:
    """A data set in three parts. flip: a mirrored image keeps its label. source: what was read, in a sentence."""

    name: str
    classes: int
    train: Images
    validation: Images
    test: Images
    flip: bool
    source: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        c, h, w = self.train.x.shape[1:]
        return c, h, w


@dataclass(frozen=True)
class Kind:
    """What a named data set looks like, how torchvision calls it, and where it keeps it."""

    classes: int
    shape: tuple[int, int, int]
    flip: bool
    torchvision: str
    folder: str  # what torchvision makes below its root: a folder, or a file


DATASETS: dict[str, Kind] = {
    "digits": Kind(10, (1, 8, 8), False, "", ""),
    "cifar10": Kind(10, (3, 32, 32), True, "CIFAR10", "cifar-10-batches-py"),
    "cifar100": Kind(100, (3, 32, 32), True, "CIFAR100", "cifar-100-python"),
    "mnist": Kind(10, (1, 28, 28), False, "MNIST", "MNIST"),
    "fashion-mnist": Kind(10, (1, 28, 28), True, "FashionMNIST", "FashionMNIST"),
    "svhn": Kind(10, (3, 32, 32), False, "SVHN", "train_32x32.mat"),
}
OFFICIAL_TEST = {  # SHA-256 of the test images, uint8 [N, H, W, C], of the sets that we could look at
    "cifar10": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "mnist": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
}
Arrays = tuple[np.ndarray, np.ndarray]  # images [N, H, W, C] uint8, labels [N] int64


def load(name: str = "digits", data_dir: str | Path | None = None) -> Dataset:
    """The data set of that name. data_dir: where files lie (default: BENCH_DATA). Raises UserError.

    Files of the same layout may hold other images; where the official test images are known, that is said.
    """
    kind = DATASETS[choose(name, DATASETS, "dataset")]
    if name == "digits":
        return _digits(kind)
    given = data_dir or os.environ.get("BENCH_DATA")
    root = Path(given) if given else None
    if root is not None and not root.is_dir():
        raise UserError(f"data folder {root} does not exist; give one with --data-dir or BENCH_DATA")
    folder = _parquet_folder(root, name) if root else None
    if folder is not None:
        train, test = _parquet(folder, "train", kind), _parquet(folder, "test", kind)
        source = f"Parquet files in {folder}"
        if root is not None and _torchvision_root(root, name, kind):
            source += f" (torchvision's files in {_torchvision_root(root, name, kind)} were not read)"
    else:
        train, test, source = _torchvision(root, name, kind)
    if name in OFFICIAL_TEST and hashlib.sha256(test[0].data).hexdigest() != OFFICIAL_TEST[name]:
        _warn(f"{source} are not the official test images of {name}, so no number here is one of {name}")
    return _split(name, kind, _images(*train), _images(*test), source, VALIDATION)


@cache
def _warn(sentence: str) -> None:
    """Once a process."""
    terminal.warn(sentence)


def check_images(x: Tensor, y: Tensor, classes: int) -> None:
    """x [N, C, H, W] float in [0, 1], y [N] int64 below `classes`. Raises UserError in one sentence."""
    if x.dim() != 4 or not x.dtype.is_floating_point:
        raise UserError(f"images must be float tensors [N, C, H, W]; got {tuple(x.shape)} of {x.dtype}")
    if len(x) == 0 or y.dim() != 1 or len(x) != len(y):
        raise UserError(
            f"there are {len(x)} images and labels of shape {tuple(y.shape)}; one label per image is needed"
        )
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        raise UserError(f"{bad} of {len(x)} images hold NaN or infinity; images must be in [0, 1]")
    if x.min() < 0 or x.max() > 1:
        raise UserError(
            f"images reach from {x.min():g} to {x.max():g}, outside [0, 1]; divide bytes by 255 and keep "
            "normalisation inside the model"
        )
    if y.dtype != torch.int64 or y.min() < 0 or y.max() >= classes:
        raise UserError(f"labels must be int64 in 0..{classes - 1}; got {y.dtype} from {y.min()} to {y.max()}")


def augment(x: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
    """Pad by 4 with zeros, crop at the offsets, then mirror: the standard augmentation, on a whole batch.

    x [B, C, H, W]; offsets [B, 2] int64 in 0..8 (row, column; 4 is no shift); flips [B] bool. Pure function.
    """
    count, _, height, width = x.shape
    padded = F.pad(x, (PAD, PAD, PAD, PAD))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view [B, C, 9, 9, H, W]
    out = windows[torch.arange(count, device=x.device), :, offsets[:, 0], offsets[:, 1]]
    return torch.where(flips[:, None, None, None], out.flip(3), out)


def _digits(kind: Kind) -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    every = Images(x, torch.tensor(bunch.target, dtype=torch.int64), torch.arange(len(x)))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(SPLIT_SEED))
    test = every.take(order[:DIGITS_TEST].sort().values)
    rest = every.take(order[DIGITS_TEST:].sort().values)
    source = f"scikit-learn's digits, {DIGITS_TEST} of {len(x)} images for testing by a fixed permutation"
    return _split("digits", kind, rest, test, source, DIGITS_VALIDATION)


def _split(name: str, kind: Kind, train: Images, test: Images, source: str, held_out: int) -> Dataset:
    held_out = min(held_out, len(train) // 5)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SPLIT_SEED))
    validation, rest = order[:held_out].sort().values, order[held_out:].sort().values
    for part in (train, test):
        check_images(part.x, part.y, kind.classes)
    return Dataset(name, kind.classes, train.take(rest), train.take(validation), test, kind.flip, source)


def _images(pixels: np.ndarray, labels: np.ndarray) -> Images:
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255
    y = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    return Images(x, y, torch.arange(len(y)))


def _parquet_folder(root: Path, name: str) -> Path | None:
    """Where the shards of a data set lie: DIR/<name>, DIR/<name>/data or DIR itself."""
    names = (name, name.replace("-", "_"))
    places = [root / one / inner for one in names for inner in ("", "data")] + [root]
    return next((place for place in places if list(place.glob("train-*-of-*.parquet"))), None)


def _parquet(folder: Path, split: str, kind: Kind) -> Arrays:
    parts = [_parquet_shard(path, kind) for path in _shards(folder, split)]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _shards(folder: Path, split: str) -> list[Path]:
    """All shards in their order. Raises UserError for a missing one."""
    found = sorted(folder.glob(f"{split}-*-of-*.parquet"))
    if not found:
        raise UserError(f"{folder} holds no {split}-*-of-*.parquet")
    match = re.fullmatch(rf"{split}-(\d+)-of-(\d+)\.parquet", found[0].name)
    total = int(match[2]) if match else 0
    wanted = [folder / f"{split}-{index:05d}-of-{total:05d}.parquet" for index in range(total)]
    missing = [path.name for path in wanted if not path.exists()]
    if missing:
        raise UserError(f"{folder}: shards of {split} are incomplete; missing {', '.join(missing)}")
    if found != wanted:
        extra = ", ".join(path.name for path in found if path not in wanted)
        raise UserError(f"{folder}: shards of {split} belong to two sets; {extra} is not of {total:05d}")
    return found


def _parquet_shard(path: Path, kind: Kind) -> Arrays:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = pa.BufferReader(read_plain(path))
        if (rows := pq.read_metadata(content).num_rows) > MOST_ROWS:  # a few bytes may say billions
            raise UserError(f"{path} has {rows} rows, more than {MOST_ROWS}")
        table = pq.read_table(content)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a whole Parquet file ({str(error).splitlines()[0]})") from error
    names = table.column_names
    image = next((name for name in ("img", "image") if names.count(name) == 1), None)
    label = next((name for name in ("fine_label", "label") if names.count(name) == 1), None)
    if image is None or label is None:
        raise UserError(f"{path} has columns {', '.join(names)}; wanted one img or image, and one fine_label or label")
    if not table.num_rows:
        raise UserError(f"{path} holds no image")
    rows = table.column(image).to_pylist()
    labels = table.column(label).to_numpy()
    _check_labels(labels, kind, path)
    out = np.empty((len(rows), kind.shape[1], kind.shape[2], kind.shape[0]), dtype=np.uint8)

    def decode(index: int) -> None:
        out[index] = _decode(rows[index], kind, f"{path}, row {index}")

    with ThreadPoolExecutor() as pool:
        list(pool.map(decode, range(len(rows)), chunksize=256))
    return out, labels


def _check_labels(labels: np.ndarray, kind: Kind, path: Path) -> None:
    if labels.dtype.kind not in "iu":
        raise UserError(f"{path}: labels are {labels.dtype}, not whole numbers")
    bad = np.flatnonzero((labels < 0) | (labels >= kind.classes))
    if len(bad):
        raise UserError(f"{path}, row {bad[0]}: label {labels[bad[0]]} is outside 0..{kind.classes - 1}")


def _decode(cell: Any, kind: Kind, where: str) -> np.ndarray:
    """The bytes of an image file, alone or as {"bytes": ...} -> [H, W, C] uint8. Raises UserError."""
    from PIL import Image

    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        raise UserError(
            f"{where}: wanted an image as the bytes of a file, such as a PNG, in a column of bytes or of "
            f"{{bytes, path}}; got {content!r:.60}"
        )
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return _pixels(image, kind)
    except _Unfit as error:
        raise UserError(f"{where}: the image {error}") from error
    except Exception as error:  # a damaged image breaks its reader anywhere
        raise UserError(f"{where}: the image cannot be decoded ({first_line(error)})") from error


class _Unfit(Exception):
    """An image that is another picture than any [H, W, C] of bytes says."""


def _pixels(image: Any, kind: Kind) -> np.ndarray:
    """A PIL image that is not yet decoded -> [H, W, C] uint8, upright. Raises _Unfit for what would lose a part of the
    picture without a word: depth, transparency, colours, frames.
    """
    from PIL import ImageOps

    channels, height, width = kind.shape
    if set(image.size) != {width, height}:  # before it is decoded: it may unpack to gigabytes
        raise _Unfit(f"is {image.size[0]}x{image.size[1]}, not {width}x{height}")
    if (frames := getattr(image, "n_frames", 1)) != 1:
        raise _Unfit(f"has {frames} frames, and one is wanted")
    if image.mode.startswith(("I", "F")) or any(DEEP.search(str(tile)) for tile in image.tile):
        raise _Unfit(f"has more than 8 bits a channel (mode {image.mode}); save it with 8 bits, 0 to 255")
    if image.mode not in MODES:
        raise _Unfit(f"is in {image.mode}, whose colours depend on a profile; save it as RGB")
    upright = ImageOps.exif_transpose(image)  # as the Hugging Face hub's own reader does
    if upright.has_transparency_data and np.asarray(upright.convert("RGBA"))[..., 3].min() < 255:
        raise _Unfit("is transparent in places, where its colour is that of an unknown background")
    pixels = np.asarray(upright.convert("RGB"))
    if channels == 1 and not (pixels == pixels[..., :1]).all():
        raise _Unfit("has colours, and the data set is grey")
    return pixels[..., :channels]


def _torchvision_root(root: Path, name: str, kind: Kind) -> Path | None:
    """The folder that holds torchvision's files of this data set: DIR or DIR/<name>."""
    return next((place for place in (root, root / name) if (place / kind.folder).exists()), None)


def _torchvision(root: Path | None, name: str, kind: Kind) -> tuple[Arrays, Arrays, str]:
    """Both parts through torchvision, downloaded where there is nothing yet. Raises UserError."""
    from bench.subjects import torchvision_ops

    torchvision_ops.declare()
    import torchvision

    place = (_torchvision_root(root, name, kind) if root else None) or (root or Path("data"))
    _check_files(place / kind.folder)
    make: Callable[..., Any] = getattr(torchvision.datasets, kind.torchvision)
    parts = []
    for train in (True, False):
        which = {"split": "train" if train else "test"} if name == "svhn" else {"train": train}
        try:
            parts.append(_arrays(make(str(place), download=True, **which)))
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(
                f"{name} is neither in {place} (looked for Parquet shards train-*-of-*.parquet and torchvision's "
                f"{kind.folder}) nor could it be read or downloaded ({error}); name a folder that holds "
                "it with --data-dir or BENCH_DATA"
            ) from error
    return parts[0], parts[1], f"torchvision's files in {place}"


def _check_files(place: Path) -> None:
    """torchvision opens these files itself. Raises UserError for what is no plain file."""
    for path in place.rglob("*") if place.is_dir() else [place] if place.exists() else []:
        try:
            if not path.is_dir():
                check_plain(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error


def _arrays(dataset: Any) -> Arrays:
    pixels = np.asarray(dataset.data)
    labels = np.asarray(dataset.labels if hasattr(dataset, "labels") else dataset.targets)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    elif pixels.shape[1] == 3:  # SVHN is stored channels first
        pixels = pixels.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), labels
