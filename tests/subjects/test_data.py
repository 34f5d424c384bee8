"""Data sets: every source reads the same images, splits are fixed and disjoint, damage is a sentence."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.io import savemat
from shards import pictures, write_shards
from slowly import slow

from bench.ground.config import UserError
from bench.subjects import data

REAL = Path(os.environ.get("BENCH_DATA", ""))
ROOT = Path(__file__).parents[2]
needs_cifar = pytest.mark.skipif(not (REAL / "cifar10").is_dir(), reason="BENCH_DATA holds no cifar10 folder")


def whole(dataset):
    """Training images in their official order again, from the two parts they were cut into."""
    order = torch.cat([dataset.train.ids, dataset.validation.ids]).argsort()
    return torch.cat([dataset.train.x, dataset.validation.x])[order], torch.cat(
        [dataset.train.y, dataset.validation.y]
    )[order]


@pytest.mark.parametrize(
    "name, coding, image, label",
    [
        ("cifar10", "WebP", "img", "label"),
        ("cifar100", "PNG", "img", "fine_label"),
        ("mnist", "PNG", "image", "label"),
        ("fashion-mnist", "BMP", "image", "label"),
        ("svhn", "PNG", "image", "label"),
    ],
)
def test_parquet_shards_are_read_in_order(tmp_path, name, coding, image, label):
    folder = tmp_path / name.replace("-", "_")
    pixels, labels = write_shards(folder, name, "train", 2, 0, coding, image, label)
    test_pixels, _ = write_shards(folder, name, "test", 1, 9, coding, image, label)
    dataset = data.load(name, tmp_path)
    x, y = whole(dataset)
    assert np.array_equal((x * 255).round().numpy().astype(np.uint8).transpose(0, 2, 3, 1), pixels)
    assert np.array_equal(y.numpy(), labels) and len(dataset.test) == len(test_pixels)
    assert x.dtype == torch.float32 and y.dtype == torch.int64 and "Parquet" in dataset.source


def test_digits_are_complete_disjoint_and_fixed():
    one, two = data.load(), data.load()
    assert one.test.sha256 == two.test.sha256 and one.train.sha256 == two.train.sha256
    parts = [set(part.ids.tolist()) for part in (one.train, one.validation)]
    assert not parts[0] & parts[1] and len(one.train) + len(one.validation) + len(one.test) == 1797
    everything = torch.cat([part.x for part in (one.train, one.validation, one.test)]).flatten(1)
    assert len(everything.unique(dim=0)) == 1797
    assert one.train.x.min() == 0 and one.train.x.max() == 1 and not one.flip


def test_the_hash_sees_pixels_labels_and_order():
    images = data.load().test
    others = [
        data.Images((images.x + 1 / 16).clamp(max=1), images.y, images.ids),
        data.Images(images.x, images.y.flip(0), images.ids),
        images.take(torch.arange(len(images)).flip(0)),
        images.head(10),
    ]
    assert len({images.sha256, *(other.sha256 for other in others)}) == 5


def test_the_hash_sees_shape_and_every_bit_of_images_that_are_no_levels():
    x, y = torch.zeros(2, 1, 4, 2), torch.zeros(2, dtype=torch.int64)
    flat, levels = data.Images(x, y, y), torch.full_like(x, 10 / 255)
    assert flat.sha256 != data.Images(x.view(2, 1, 2, 4), y, y).sha256
    assert data.Images(levels, y, y).sha256 != data.Images(levels + 1e-4, y, y).sha256


def test_images_are_mirrored_only_where_that_keeps_the_label():
    flips = {name: kind.flip for name, kind in data.DATASETS.items()}
    natural = {"cifar10", "cifar100", "fashion-mnist"}
    assert {name for name, flip in flips.items() if flip} == natural and {"digits", "mnist", "svhn"} <= set(flips)


def test_svhn_in_torchvisions_files_has_its_axes_in_order(tmp_path, monkeypatch):
    """Its .mat files hold [32, 32, 3, N] and torchvision gives [N, 3, 32, 32]."""
    from torchvision.datasets import SVHN

    pixels, labels = pictures(data.DATASETS["svhn"], 20, 4)
    for split in ("train", "test"):
        url, file, _ = SVHN.split_list[split]
        savemat(tmp_path / file, {"X": pixels.transpose(1, 2, 3, 0), "y": np.where(labels, labels, 10)[:, None]})
        digest = hashlib.md5((tmp_path / file).read_bytes()).hexdigest()
        monkeypatch.setitem(SVHN.split_list, split, [url, file, digest])
    dataset = data.load("svhn", tmp_path)
    x, y = whole(dataset)
    assert np.array_equal((x * 255).round().numpy().transpose(0, 2, 3, 1), pixels)
    assert y.tolist() == labels.tolist()


def damage_missing_shard(folder):
    (folder / "train-00001-of-00002.parquet").unlink()


def damage_truncate(folder):
    path = folder / "train-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def damage_image(folder):
    path = folder / "train-00000-of-00002.parquet"
    frame = pd.read_parquet(path)
    frame.at[3, "img"] = {"bytes": b"no image", "path": None}
    frame.to_parquet(path)


def damage_label(folder):
    path = folder / "train-00000-of-00002.parquet"
    frame = pd.read_parquet(path)
    frame.at[3, "label"] = 10
    frame.to_parquet(path)


@pytest.mark.parametrize(
    "damage, message",
    [
        (damage_missing_shard, "missing train-00001-of-00002"),
        (damage_truncate, "not a whole Parquet file"),
        (damage_image, "row 3: the image cannot be decoded"),
        (damage_label, r"row 3: label 10 is outside 0\.\.9"),
    ],
)
def test_damage_is_one_sentence_with_the_place(tmp_path, damage, message):
    write_shards(tmp_path / "cifar10", "cifar10", "train", 2)
    write_shards(tmp_path / "cifar10", "cifar10", "test", 1)
    damage(tmp_path / "cifar10")
    with pytest.raises(UserError, match=message):
        whole(data.load("cifar10", tmp_path))


def test_wrong_image_size_and_unknown_names_and_folders_are_refused(tmp_path):
    for split in ("train", "test"):
        write_shards(tmp_path / "cifar10", "mnist", split, 1)
    with pytest.raises(UserError, match="28x28, not 32x32"):
        data.load("cifar10", tmp_path)
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        data.load("cifar11")
    with pytest.raises(UserError, match="does not exist"):
        data.load("cifar10", tmp_path / "nowhere")


def test_images_that_are_not_the_official_ones_are_told_once(tmp_path, capsys):
    """As SVHN in the layout of the hub is, where a folder of it is given for CIFAR-10."""
    for split in ("train", "test"):
        write_shards(tmp_path, "svhn", split, 1)
    for _ in range(2):
        assert len(data.load("cifar10", tmp_path).test) == 15
    told = "are not the official test images of cifar10, so no number here is one of cifar10\n"
    assert capsys.readouterr().err == f"bench: Parquet files in {tmp_path} {told}"


@needs_cifar
@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_official_images_are_taken_without_a_word(name, capsys):
    data.load(name, REAL)
    told = capsys.readouterr().err.splitlines()
    assert all(line.startswith("bench: decoding") for line in told), "nothing but how far it is, on a slow machine"


def test_torchvision_files_are_read_and_parquet_goes_first(tmp_path, monkeypatch):
    """CIFAR-10's pickled batches as torchvision lays them out, with the MD5 of what is written here."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels, labels = pictures(data.DATASETS["cifar10"], 20, 4)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    planes = pixels.transpose(0, 3, 1, 2).reshape(20, -1)
    monkeypatch.setattr(CIFAR10, "train_list", [write("data_batch_1", {"data": planes, "labels": labels.tolist()})])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", {"data": planes, "labels": labels.tolist()})])
    name, digest = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": digest})
    dataset = data.load("cifar10", tmp_path)
    assert np.array_equal((whole(dataset)[0] * 255).round().numpy().transpose(0, 2, 3, 1), pixels)
    assert "torchvision" in dataset.source
    write_shards(tmp_path / "cifar10", "cifar10", "train", 1)
    write_shards(tmp_path / "cifar10", "cifar10", "test", 1)
    source = data.load("cifar10", tmp_path).source
    assert source.startswith("Parquet") and "were not read" in source


def test_nothing_there_and_no_network_says_what_to_do(tmp_path, monkeypatch):
    import torchvision

    def offline(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    with pytest.raises(UserError, match="--data-dir or BENCH_DATA"):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize("first", ["import bench", *slow(["import torch, bench", "import bench.ground.config"])])
def test_whoever_imports_torchvision_after_the_bench_gets_one_that_works(first):
    code = f"{first}; import torchvision.models, timm; torchvision.models.resnet18"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT).returncode == 0


def test_augmentation_equals_the_naive_loop():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, 3, 12, 10, generator=generator)
    offsets = torch.randint(0, 9, (40, 2), generator=generator)
    flips = torch.rand(40, generator=generator) < 0.5
    for image, (top, left), flip, out in zip(x, offsets, flips, data.augment(x, offsets, flips), strict=True):
        padded = torch.zeros(3, 20, 18)
        padded[:, 4:16, 4:14] = image
        expected = padded[:, top : top + 12, left : left + 10]
        assert torch.equal(out, expected.flip(2) if flip else expected)
    assert {0, 8} <= set(offsets.flatten().tolist()) and 0 < flips.sum() < 40


@needs_cifar
def test_real_cifar10_is_the_official_one():
    dataset = data.load("cifar10", REAL)
    x, y = whole(dataset)
    digests = []
    for images in (x, dataset.test.x):
        pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        digests.append(hashlib.sha256(pixels.numpy().tobytes()).hexdigest())
    assert digests[0] == "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a"
    assert digests[1] == "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"
    assert torch.bincount(y).tolist() == [5000] * 10 and len(dataset.validation) == 1000
