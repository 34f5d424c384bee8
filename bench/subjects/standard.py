"""The data sets that have a name: what they look like, where their files are looked for, and what reads them.

Parquet in the column layout of the Hugging Face hub, or torchvision's own formats.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.ground.config import UserError
from bench.ground.plain import check_plain
from bench.subjects import cache, columns
from bench.subjects.pictures import Coded
from bench.subjects.pixels import Files, Pixels


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
_CIFAR = {"Linf": 8 / 255, "L2": 0.5, "L1": 12.0}
# norm -> the radius that robustness is claimed at where nobody says another. CIFAR: AutoAttack and RobustBench (Linf,
# L2; arXiv:2003.01690, arXiv:2010.09670), APGD in L1 (arXiv:2103.01208). MNIST: Linf as Madry et al. (arXiv:1706.06083)
# and L2, L1 as Maini et al. (arXiv:1909.04068). Digits: ours, see attacks/suite.toml. Of others there is no usage.
RADII: dict[str, dict[str, float]] = {
    "digits": {"Linf": 0.15, "L2": 0.36, "L1": 1.25},
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "svhn": {"Linf": 8 / 255, "L2": 0.5},
    "mnist": {"Linf": 0.3, "L2": 2.0, "L1": 10.0},
}
OFFICIAL_TEST = {  # SHA-256 of the test images, uint8 [N, H, W, C], of the sets that we could look at
    "cifar10": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "mnist": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
}
Arrays = tuple[np.ndarray, np.ndarray]  # images [N, H, W, C] uint8, labels [N] int64
Part = tuple[Pixels, np.ndarray]  # and labels [N] int64


def parquet_folder(root: Path, name: str) -> Path | None:
    """Where the shards of a data set lie: DIR/<name>, DIR/<name>/data or DIR itself."""
    names = (name, name.replace("-", "_"))
    places = [root / one / inner for one in names for inner in ("", "data")] + [root]
    return next((place for place in places if list(place.glob("train-*-of-*.parquet"))), None)


def parquet(folder: Path, split: str, kind: Kind) -> Part:
    """Train or test images of a folder of shards, whose pictures are not yet read. Raises UserError."""
    paths = columns.shards(folder, split)
    table = columns.parquet(paths)
    image, label = columns.choose(table.schema, str(paths[0]), None, None)
    labels = []
    for block in table.blocks:
        labels.append(columns.Columns([block], table.schema).labels(label))
        _check_labels(labels[-1], kind, block)
    coded = Coded((len(table), *kind.shape), partial(table.cells, image))
    what = f"{split} images of {folder}"
    return cache.Kept(coded, Files(paths, folder), (image, *kind.shape), what), np.concatenate(labels)


def _check_labels(labels: np.ndarray, kind: Kind, block: columns.Block) -> None:
    if labels.dtype.kind not in "iu":
        raise UserError(f"{block.path}: labels are {labels.dtype}, not whole numbers")
    bad = np.flatnonzero((labels < 0) | (labels >= kind.classes))
    if len(bad):
        raise UserError(
            f"{block.path}, row {block.begin + bad[0]}: label {labels[bad[0]]} is outside 0..{kind.classes - 1}"
        )


def torchvision_root(root: Path, name: str, kind: Kind) -> Path | None:
    """The folder that holds torchvision's files of this data set: DIR or DIR/<name>."""
    return next((place for place in (root, root / name) if (place / kind.folder).exists()), None)


def torchvision(root: Path | None, name: str, kind: Kind) -> tuple[Arrays, Arrays, str]:
    """Both parts through torchvision, downloaded where there is nothing yet. Raises UserError."""
    import torchvision as library

    place = (torchvision_root(root, name, kind) if root else None) or (root or Path("data"))
    _check_files(place / kind.folder)
    make: Callable[..., Any] = getattr(library.datasets, kind.torchvision)
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
