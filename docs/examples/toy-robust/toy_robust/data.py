"""A data set: any function that returns images and labels by part."""

from __future__ import annotations

from pathlib import Path

import numpy as np

Part = tuple[np.ndarray, np.ndarray]


def bars(data_dir: Path | None) -> dict[str, Part]:
    """Grey images of 8x8 with a light bar that lies, stands or leans: three classes. data_dir: --data-dir, unused."""
    return {"train": _draw(600, seed=0), "test": _draw(200, seed=1)}


def _draw(count: int, seed: int) -> Part:
    """Images [count, 8, 8] uint8 and labels [count]."""
    random = np.random.default_rng(seed)
    labels, place = random.integers(0, 3, count), random.integers(1, 7, count)
    images = random.integers(0, 120, (count, 8, 8))
    for image, label, at in zip(images, labels, place, strict=True):
        bar = (slice(at - 1, at + 1), slice(None)) if label == 0 else (slice(None), slice(at - 1, at + 1))
        image[np.diag_indices(8) if label == 2 else bar] += 100
    return images.astype(np.uint8), labels
