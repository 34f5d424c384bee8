"""Data sets: images [N, C, H, W] float32 in [0, 1], labels int64, split into train, validation and test.

Validation images are cut from the training images by a fixed permutation (torch's randperm seeded with
SPLIT_SEED); test images never select anything. Pixels stay where they lie, as bytes where they came so, until some are
asked for. Sources: scikit-learn's digits (embedded, the default), the data sets of `standard`, any path (`own_data`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.ground import packages, terminal
from bench.ground.config import UserError, choose
from bench.subjects import outside, own_data, standard
from bench.subjects.own_data import Own, Reading
from bench.subjects.pixels import Pixels, blocks
from bench.subjects.standard import DATASETS, OFFICIAL_TEST, Kind

SPLIT_SEED = 0
VALIDATION = 1000  # images held out of training, as in Rice et al. 2020
DIGITS_TEST, DIGITS_VALIDATION = 450, 200
PAD = 4


@dataclass(frozen=True)
class Images:
    """Images with labels y [N] int64 and ids [N] int64, their numbers in the official order.

    pixels: [M, C, H, W] float32 in [0, 1], or bytes that stand for multiples of 1/255; in memory or not yet read. rows:
    where in them the images lie, [N] int64; None is one after another.
    """

    pixels: Tensor | Pixels
    y: Tensor
    ids: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each; nothing is read."""
        c, h, w = self.pixels.shape[1:]
        return c, h, w

    @cached_property
    def x(self) -> Tensor:
        """[N, C, H, W] float32 in [0, 1], read when first asked for. Raises UserError where that cannot be."""
        return _floats(self._read())

    @property
    def compact(self) -> Tensor:
        """The same as bytes, a quarter of the memory, where all are multiples of 1/255."""
        return torch.cat([_bytes(block) for block in self._blocks()]) if self._exact else self.x

    def head(self, count: int) -> Images:
        """The first `count` images. Raises UserError when there are fewer."""
        if count > len(self):
            raise UserError(f"{count} images were asked for; there are {len(self)}")
        return self.take(torch.arange(count))

    def some(self, count: int) -> Images:
        """`count` images to know a network by: the first ones. Where images lie class by class, the first ones are of
        few classes, so there it is as many evenly over all, in their order, which is said. Raises UserError.
        """
        if count >= len(self) or not self._by_class:
            return self.head(count)
        terminal.warn_once(
            f"the images lie class by class: {count} evenly over all {len(self)} are taken, not the first {count}"
        )
        return self.take(torch.arange(count) * len(self) // count)

    @property
    def _by_class(self) -> bool:
        """Whether all images of a class lie together, as in a folder that is read in its order."""
        classes = len(self.y.unique())
        return 1 < classes <= len(self) / 2 and int((self.y.diff() != 0).sum()) == classes - 1

    def take(self, indices: Tensor) -> Images:
        """The images at these positions; not yet read ones are not read by that."""
        if isinstance(self.pixels, Tensor):
            return Images(self.pixels[indices], self.y[indices], self.ids[indices])
        rows = indices if self.rows is None else self.rows[indices]
        return Images(self.pixels, self.y[indices], self.ids[indices], rows)

    @cached_property
    def sha256(self) -> str:
        """Over shape, pixels and labels; pixels as uint8 where they all are multiples of 1/255, else as float32."""
        digest = hashlib.sha256(str((len(self), *self.shape)).encode())
        for block in self._blocks():
            digest.update((_bytes(block) if self._exact else _floats(block)).contiguous().numpy().data)
        digest.update(self.y.numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def _exact(self) -> bool:
        """Whether all pixels are multiples of 1/255."""
        return self.pixels.dtype in (torch.uint8, np.uint8) or all(
            torch.equal(_floats(_bytes(block)), block) for block in self._blocks()
        )

    def _blocks(self) -> Iterator[Tensor]:
        """The images in turns that do not fill the memory."""
        c, h, w = self.shape
        for block in blocks(len(self), 4 * c * h * w):
            yield self._read(int(block[0]), int(block[-1]) + 1)

    def _read(self, begin: int = 0, end: int | None = None) -> Tensor:
        """As they are stored."""
        if isinstance(self.pixels, Tensor):
            return self.pixels[begin:end]
        rows = torch.arange(len(self)) if self.rows is None else self.rows
        return torch.from_numpy(np.ascontiguousarray(self.pixels.read(rows[begin:end].numpy())))


def _floats(pixels: Tensor) -> Tensor:
    return pixels.contiguous().float() / 255 if pixels.dtype == torch.uint8 else pixels.float()


def _bytes(pixels: Tensor) -> Tensor:
    return pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().to(torch.uint8)


@dataclass(frozen=True)
class Dataset:
    """A data set in three parts. flip: a mirrored image keeps its label. source: what was read, in a sentence.

    labels: names of the classes, where they are known. reading: what was asked for of a data set of one's own, for the
    records.
    """

    name: str
    classes: int
    train: Images
    validation: Images
    test: Images
    flip: bool
    source: str
    labels: tuple[str, ...] = ()
    reading: dict[str, Any] | None = field(default=None, hash=False)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.test.shape

    def check_trainable(self) -> None:
        """Raises UserError where there is nothing to train on, or to choose checkpoints with."""
        if len(self.train) and len(self.validation):
            return
        found = f"{len(self.train)} training images" if len(self.train) else "one set of images, taken as test images"
        raise UserError(
            f"{self.name} cannot be trained on: there is {found}; give a data set with train and test, of which the "
            "first has 5 images or more"
        )


def load(name: str = "digits", data_dir: str | Path | None = None, reading: Reading | None = None) -> Dataset:
    """The data set of that name, or that lies at that path. data_dir: where files lie (default: BENCH_DATA).

    reading: how one of one's own is read. Files of the same layout may hold other images than a name says; where the
    official test images are known, that is said. Raises UserError.
    """
    reading = reading or Reading()
    if name not in DATASETS and _is_path(name):
        return _own(own_data.read(Path(name), reading), reading)
    try:
        theirs = ":" in name or choose(name, outside.known("dataset", DATASETS), "dataset") not in DATASETS
    except UserError as error:
        raise UserError(f"{error}; nor is there a file or folder of that name") from error
    if reading.told:
        raise UserError(f"--{', --'.join(reading.options)}: for a data set of your own, not for {name}; leave it out")
    if name == "digits":
        return _digits(DATASETS[name])
    given = data_dir or os.environ.get("BENCH_DATA")
    root = Path(given) if given else None
    if root is not None and not root.is_dir():
        raise UserError(f"data folder {root} does not exist; give one with --data-dir or BENCH_DATA")
    if theirs:
        found, parts = outside.images(name, root)
        own = own_data.of_arrays(name, f"{found.words}, {found.code.rpartition(', ')[2]}", parts)
        return _own(own, reading)
    return _named(name, root)


def has_name(name: str) -> bool:
    """Whether `load` knows it by its name alone: one of ours, or of an installed package. What lies at a path, and what
    the user's own code makes, is known only to who says where that is.
    """
    return ":" not in name and name in outside.known("dataset", DATASETS)


def _named(name: str, root: Path | None) -> Dataset:
    """One of DATASETS that is read from files. Raises UserError."""
    kind = DATASETS[name]
    packages.say_hidden("dataset", name)
    folder = standard.parquet_folder(root, name) if root else None
    if folder is not None:
        parts = [_images(*standard.parquet(folder, split, kind)) for split in ("train", "test")]
        source = f"Parquet files in {folder}"
        if root is not None and (other := standard.torchvision_root(root, name, kind)):
            source += f" (torchvision's files in {other} were not read)"
    else:
        *arrays, source = standard.torchvision(root, name, kind)
        parts = [_images(torch.from_numpy(pixels).permute(0, 3, 1, 2), labels) for pixels, labels in arrays]
    train, test = parts
    if name in OFFICIAL_TEST and _official(test) != OFFICIAL_TEST[name]:
        terminal.warn_once(f"{source} are not the official test images of {name}, so no number here is one of {name}")
    return _split(name, kind, train, test, source, VALIDATION)


def _is_path(name: str) -> bool:
    """Whether it is meant as one: a word that nothing of that name lies at is a name with a mistake in it."""
    return os.sep in name or os.path.exists(name) or Path(name).suffix in (*own_data.ARRAYS, ".parquet")


def _official(images: Images) -> str:
    """SHA-256 of bytes [N, H, W, C]."""
    digest = hashlib.sha256()
    for block in images._blocks():
        digest.update(block.permute(0, 2, 3, 1).contiguous().numpy().data)
    return digest.hexdigest()


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


def _own(own: Own, reading: Reading) -> Dataset:
    """Parts as they were found -> train, validation and test; validation is cut from train where there is none."""
    parts = {part: _images(pixels, own.labels.y[part]) for part, pixels in own.pixels.items()}
    if set(parts) == {"train"}:
        raise UserError(
            f"{own.source} has training images and no test images; add them, or name only these images to take them "
            "for testing"
        )
    held_out = parts.pop("validation", None)
    test = next((parts[part] for part in ("test", "") if part in parts), held_out)
    assert test is not None, "there is a part"
    train = parts.get("train", test.head(0))
    if test is held_out or held_out is None:
        validation, train = _cut(train, VALIDATION)
    else:
        validation, _ = _cut(held_out, VALIDATION, share=1)
    for part in (train, validation, test):
        if part.shape != test.shape:
            raise UserError(f"{own.source}: images of one part are {part.shape}, and of another {test.shape}")
    counts = f"{len(train)} for training, {len(validation)} for validation, {len(test)} for testing"
    source, names = f"{own.source} ({counts})", own.labels.names
    return Dataset(own.name, own.labels.classes, train, validation, test, False, source, names, reading.told or None)


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
    for part in (train, test):
        if isinstance(part.pixels, Tensor):  # others are checked by who reads them
            check_images(part.x, part.y, kind.classes)
    validation, rest = _cut(train, held_out)
    return Dataset(name, kind.classes, rest, validation, test, kind.flip, source)


def _cut(images: Images, count: int, share: int = 5) -> tuple[Images, Images]:
    """`count` images, or their `share`-th part if that is less, by a fixed permutation; and the rest."""
    count = min(count, len(images) // share)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return images.take(order[:count].sort().values), images.take(order[count:].sort().values)


def _images(pixels: Tensor | Pixels, labels: np.ndarray) -> Images:
    y = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    return Images(pixels, y, torch.arange(len(y)))
