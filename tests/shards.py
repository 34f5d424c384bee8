"""Data sets of random images, in the column layout of the Hugging Face hub."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from PIL import Image

from bench.subjects import data, standard


def pictures(kind, count, seed):
    generator = np.random.default_rng(seed)
    c, h, w = kind.shape
    pixels = generator.integers(0, 256, (count, h, w, c), dtype=np.uint8)
    return pixels, generator.integers(0, kind.classes, count)


def parquet(folder, split, kind):
    """All pixels [N, H, W, C] and labels of the shards in a folder."""
    pixels, labels = standard.parquet(folder, split, kind)
    return pixels.read(np.arange(len(labels))).transpose(0, 2, 3, 1), labels


def write_shards(folder, name, split, shards, seed=0, coding="PNG", image="img", label="label"):
    """Random images in the hub's layout; returns pixels and labels."""
    folder.mkdir(parents=True, exist_ok=True)
    kind, every = data.DATASETS[name], []
    for index in range(shards):
        pixels, labels = pictures(kind, 15, seed + index)
        cells = []
        for picture in pixels:
            file = io.BytesIO()
            Image.fromarray(picture.squeeze()).save(file, coding, lossless=True)
            cells.append({"bytes": file.getvalue(), "path": None})
        path = folder / f"{split}-{index:05d}-of-{shards:05d}.parquet"
        pd.DataFrame({image: cells, label: labels}).to_parquet(path)
        every.append((pixels, labels))
    return np.concatenate([p for p, _ in every]), np.concatenate([lab for _, lab in every])
