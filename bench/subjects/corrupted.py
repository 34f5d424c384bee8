"""CIFAR-10-C's published files (https://zenodo.org/records/2535967) where a user has them: read in place of our images.

A folder CIFAR-10-C in the data folder, with NAME.npy of a corruption, [5 N, 32, 32, 3] uint8, severity s in rows
(s - 1) N to s N in the order of the N test images, and labels.npy, [5 N]: the layout of the code that made them, see
`attacks.corruption`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attacks.contract import Attack
from attacks.corruption import SEVERITIES, Corruption
from attacks.noise import Noise
from attacks.target import Target
from bench.ground.config import UserError
from bench.subjects import arrays
from bench.subjects.arrays import Array
from bench.subjects.data import Dataset, Images

FOLDERS = {"cifar10": "CIFAR-10-C"}
Resolved = dict[str, Any]


@dataclass(frozen=True)
class Published(Corruption):
    """A corruption whose images are read: those of `ids` in the file. published: their SHA-256."""

    file: Array = field(kw_only=True, compare=False, repr=False)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """As `Corruption`; noise.ids are the numbers of test images."""
        pixels = _rows(self.file, self.severity, noise.ids)
        return (torch.from_numpy(pixels).permute(0, 3, 1, 2).to(x.dtype) / 255).to(x.device)


def as_published(
    attacks: Mapping[str, tuple[Attack | None, Resolved]], images: Images, dataset: Dataset, data_dir: Path | None
) -> dict[str, tuple[Attack | None, Resolved]]:
    """The attacks, with corruptions read from the published files where these lie in the data folder and `images` are
    test images; their settings then say so. Raises UserError for files of another form.
    """
    given = data_dir or os.environ.get("BENCH_DATA")
    folder = Path(given) / FOLDERS.get(dataset.name, "") if given else Path()
    wanted = {name: one for name, (one, _) in attacks.items() if isinstance(one, Corruption)}
    if not wanted or not given or dataset.name not in FOLDERS or not folder.is_dir() or not _among(images, dataset):
        return dict(attacks)
    files: dict[str, Array | None] = {one.name: None for one in wanted.values()}
    for name in files:
        path = folder / f"{name.replace('-', '_')}.npy"
        files[name] = _file(path, len(dataset.test), dataset.image_shape) if path.exists() else None
    if any(files.values()):
        _check_labels(folder / "labels.npy", images, len(dataset.test))
    found = dict(attacks)
    for name, one in wanted.items():
        if (file := files[one.name]) is not None:
            seal = hashlib.sha256(np.ascontiguousarray(_rows(file, one.severity, images.ids)).data).hexdigest()
            settings = attacks[name][1]["settings"] | {"published": seal}
            made = Published(one.name, one.severity, published=seal, file=file)
            found[name] = made, attacks[name][1] | {"settings": settings}
    return found


def as_recorded(attack: Corruption, images: Images, dataset: Dataset, data_dir: Path | None) -> Corruption:
    """The corruption of a record, which says by its hash whether its images were read. Raises UserError where they were
    and are not here.
    """
    if not attack.published:
        return attack
    about: dict[str, tuple[Attack | None, Resolved]] = {"": (attack, {"settings": {}})}
    found = as_published(about, images, dataset, data_dir)[""][0]
    if not isinstance(found, Published) or found.published != attack.published:
        raise UserError(
            f"the images of {attack.name} were read from a published file, which is not the one in the data folder now"
        )
    return found


def _among(images: Images, dataset: Dataset) -> bool:
    """Whether they are test images of the data set, by their numbers and labels."""
    test = dataset.test
    where = torch.full((int(test.ids.max()) + 1,), -1)
    where[test.ids] = test.y
    inside = bool((images.ids < len(where)).all())
    return inside and torch.equal(where[images.ids], images.y)


def _rows(file: Array, severity: int, ids: Tensor) -> np.ndarray:
    """[n, H, W, C] uint8."""
    return np.asarray(file.read((severity - 1) * (file.shape[0] // SEVERITIES) + ids.cpu().numpy()))


def _file(path: Path, count: int, shape: tuple[int, int, int]) -> Array:
    """Raises UserError."""
    found = next(iter(arrays.read_file(path).values()))
    wanted = (SEVERITIES * count, *shape[1:], shape[0])
    if tuple(found.shape) != wanted or found.dtype != np.uint8:
        raise UserError(
            f"{path}: holds {list(found.shape)} of {found.dtype}; a published file of {count} test images is "
            f"{list(wanted)} of uint8, one severity after the other; move it away to have the images made here"
        )
    return found


def _check_labels(path: Path, images: Images, count: int) -> None:
    """Raises UserError where there are none, or other ones than those of the images."""
    if not path.exists():
        raise UserError(f"{path} is lacking, which says of which images the published files are; add it")
    labels = arrays.whole(next(iter(arrays.read_file(path).values())))
    if labels.shape != (SEVERITIES * count,):
        raise UserError(f"{path}: holds {list(labels.shape)}; there are {SEVERITIES * count} published images")
    bad = labels.reshape(SEVERITIES, count)[:, images.ids.numpy()] != images.y.numpy()
    if bad.any():
        raise UserError(
            f"{path}: {int(bad.any(0).sum())} of {len(images)} labels are not those of the test images here; the two "
            "are of other images, or in another order"
        )
