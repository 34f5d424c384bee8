"""A data set by its path: every form gives the same images, every mistake a sentence, and none another picture."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import own_sets as own
import pytest
import torch
from own_sets import NAMES, TEXTS, X, Y
from PIL import Image
from small_table import TABLE

from bench.commands.cli import main
from bench.ground.config import UserError
from bench.judge import verify
from bench.subjects import data
from bench.subjects.own_data import Reading

PARTS = {"train": slice(0, 60, 2), "val": slice(1, 60, 4), "test": slice(3, 60, 4)}
PIXELS = torch.from_numpy(X).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("form", own.FORMS)
def test_every_form_is_the_same_images(form, tmp_path):
    found = data.load(str(own.FORMS[form](tmp_path)))
    assert torch.equal(found.test.x, PIXELS) and found.test.y.tolist() == Y.tolist()
    assert found.test.sha256 == data.Images(PIXELS, torch.from_numpy(Y), torch.arange(60)).sha256
    assert found.image_shape == (3, 12, 10) and found.classes == 3 and not len(found.train)
    assert found.name.startswith("it") and found.labels in ((), NAMES)
    some = torch.tensor([41, 3, 40])
    assert torch.equal(found.test.take(some).x, PIXELS[some]), "in the order asked for"


def split(at: Path) -> Path:
    for part, rows in PARTS.items():
        own.pictures(at / "it" / part.title(), X[rows], Y[rows])
    return at / "it"


def medmnist(at: Path) -> Path:
    y = Y[:, None].astype(np.uint8)
    parts = {"train": slice(0, 60, 2), "val": slice(1, 60, 4), "test": slice(3, 60, 4)}
    arrays = {
        f"{part}_{what}": each[rows] for part, rows in parts.items() for what, each in (("images", X), ("labels", y))
    }
    return own.npz(at / "it.npz", np.savez_compressed, **arrays)


def datasets(at: Path) -> Path:
    for part, rows in PARTS.items():
        own.arrow(at / "it" / part, X[rows], Y[rows])
    (at / "it" / "dataset_dict.json").write_text("{}")
    return at / "it"


@pytest.mark.parametrize("make", [split, medmnist, datasets])
def test_parts_are_kept_apart(make, tmp_path):
    found = data.load(str(make(tmp_path)))
    for images, rows in (
        (found.train, slice(0, 60, 2)),
        (found.validation, slice(1, 60, 4)),
        (found.test, slice(3, 60, 4)),
    ):
        assert torch.equal(images.x, PIXELS[rows]) and images.y.tolist() == Y[rows].tolist()
    found.check_trainable()


def test_validation_is_cut_from_training_images_where_there_is_none(tmp_path):
    own.pictures(tmp_path / "it" / "train", X[:40], Y[:40])
    own.pictures(tmp_path / "it" / "val", X[40:], Y[40:])
    found = data.load(str(tmp_path / "it"))
    assert (len(found.train), len(found.validation), len(found.test)) == (32, 8, 20)
    assert sorted([*found.train.ids.tolist(), *found.validation.ids.tolist()]) == list(range(40))
    assert torch.equal(found.test.x, PIXELS[40:]) and torch.equal(found.validation.x, PIXELS[found.validation.ids])


def test_columns_say_which_are_meant(tmp_path):
    path = own.parquet(tmp_path / "a.parquet", "pixels", "fine", TEXTS, coarse=[0, 1] * 30, idle=["x"] * 60)
    found = data.load(str(path), reading=Reading(image="pixels", label="fine"))
    assert found.labels == NAMES and found.test.y.tolist() == Y.tolist() and found.reading["label"] == "fine"
    assert data.load(str(path), reading=Reading(label="coarse")).test.y.tolist() == [0, 1] * 30
    arrays = own.npz(tmp_path / "b.npz", a=X, b=X[::-1], c=Y, d=Y)
    assert torch.equal(data.load(str(arrays), reading=Reading("b", "c")).test.x, PIXELS.flip(0))


@pytest.mark.parametrize("size, crop", [(8, None), (9, 8), (None, 7), (None, 9), (15, 14)])
def test_size_and_crop_are_torchvisions(size, crop, tmp_path):
    from torchvision.transforms import v2

    steps = [v2.Resize(size)] if size else []
    steps += [v2.CenterCrop(crop)] if crop else []
    expected = np.stack([np.asarray(v2.Compose(steps)(Image.fromarray(one))) for one in X])
    reading = Reading(size=size, crop=crop)
    for path in (own.pictures(tmp_path / "it"), own.npz(tmp_path / "it.npz", x=X, y=Y)):
        found = data.load(str(path), reading=reading)
        assert np.array_equal((found.test.x * 255).round().numpy().transpose(0, 2, 3, 1), expected)
    floats = data.load(str(own.npz(tmp_path / "f.npz", x=X / np.float32(255), y=Y)), reading=reading).test.x
    assert (floats - torch.from_numpy(expected).permute(0, 3, 1, 2) / 255).abs().max() < 1.5 / 255
    assert found.reading == {name: value for name, value in (("size", size), ("crop", crop)) if value}


def test_pictures_of_many_sizes_become_one(tmp_path):
    for at in range(6):
        own.pictures(tmp_path / "it", X[at : at + 1, : 8 + at % 3], np.array([at % 3]))
    with pytest.raises(UserError, match=r"is 10x8 and .* is 10x9; images must be of one size: give --size"):
        data.load(str(tmp_path / "it"))
    with pytest.raises(UserError, match="after --size 6"):
        data.load(str(tmp_path / "it"), reading=Reading(size=6))
    assert data.load(str(tmp_path / "it"), reading=Reading(size=8, crop=8)).image_shape == (3, 8, 8)


def test_grey_and_coloured_pictures_are_coloured_and_grey_ones_grey(tmp_path):
    own.pictures(tmp_path / "it", X[:30, ..., :1], Y[:30])
    assert data.load(str(tmp_path / "it")).image_shape == (1, 12, 10)
    own.pictures(tmp_path / "it", X[30:], Y[30:], "BMP")
    found = data.load(str(tmp_path / "it"))
    first = found.test.head(1).x
    assert found.image_shape == (3, 12, 10) and torch.equal(first, PIXELS[:1, :1].expand(-1, 3, -1, -1))


def test_names_hold_what_is_in_the_files_and_how_they_are_read(tmp_path):
    def name(*parts: str, reading: Reading | None = None) -> str:
        return data.load(str(tmp_path.joinpath(*parts, "it")), reading=reading).name

    own.pictures(tmp_path / "a" / "it")
    own.pictures(tmp_path / "b" / "it")
    assert name("a") == name("b"), "the same files"
    assert len({name("a"), name("a", reading=Reading(crop=8)), name("a", reading=Reading(size=8))}) == 3
    picture = next((tmp_path / "b" / "it").rglob("*.png"))
    seen, changed = os.stat(picture), Image.open(picture)
    changed.putpixel((0, 0), (1, 2, 3))
    content = own.coded(np.asarray(changed))
    picture.write_bytes(content + bytes(max(0, seen.st_size - len(content))))
    os.utime(picture, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert name("a") != name("b"), "size and time say nothing"
    (tmp_path / "a" / "it" / "ape").rename(tmp_path / "a" / "it" / "zebra")
    assert name("a") not in (name("b"), data.load(str(tmp_path / "b" / "it")).name), "another order of classes"


def test_a_damaged_picture_is_no_hindrance_until_it_is_asked_for(tmp_path):
    folder = own.pictures(tmp_path / "it", form="BMP")
    path = folder / "cat" / "050.bmp"
    path.write_bytes(path.read_bytes()[:90])
    found = data.load(str(folder))
    assert torch.equal(found.test.head(7).x, PIXELS[:7])
    with pytest.raises(UserError, match=r"050\.bmp: the image cannot be decoded"):
        _ = found.test.x


def test_numbers_in_the_order_of_their_text_are_told(tmp_path, capsys):
    own.pictures(tmp_path / "it", X[:12], np.arange(12), names=[str(at) for at in range(12)])
    assert data.load(str(tmp_path / "it")).labels[:3] == ("0", "1", "10")
    assert "in the order of the text of their folders: 0, 1, 10, 11, 2" in capsys.readouterr().err


def test_commands_take_a_path(tmp_path, capsys, monkeypatch):
    """One set of images is attacked; nothing can be trained on it; a run on a folder is verified by its path."""
    monkeypatch.chdir(tmp_path)
    grey = X[:, :8, :8, :1]
    for part, rows in (("train", slice(0, 60, 2)), ("test", slice(1, 60, 2))):
        own.pictures(Path("set") / part, grey[rows], Y[rows])
    own.npz(Path("one.npz"), x=grey, y=Y)
    small = ["--arch", "cnn-small", "--set", "*-digits.schedule.epochs=1", "--set", "*-digits.inner.steps=1"]
    assert main(["train", "at-digits", "--dataset", "set", *small]) == 0
    run = capsys.readouterr().out.splitlines()[0]
    assert main(["attack", run, "fgsm-digits", "--dataset", "set", "--images", "5"]) == 0
    assert main(["attack", run, "fgsm-digits", "--dataset", "one.npz", "--images", "5"]) == 0
    assert main(["run", "table2", "--dataset", "set", "--arch", "cnn-small", "--dry-run"]) == 0
    assert "trainings" in capsys.readouterr().out
    for command in (["train", "at-digits"], ["run", "table2"]):
        assert main([*command, "--dataset", "one.npz", "--arch", "cnn-small"]) == 2
        assert "cannot be trained on: there is one set of images" in capsys.readouterr().err
    assert main(["attack", run, "fgsm-digits", "--images", "5"]) == 2
    assert "give its path with --dataset" in capsys.readouterr().err
    assert main(["attack", run, "clean", "--dataset", "set", "--crop", "7"]) == 2
    assert "takes images (1, 8, 8)" in capsys.readouterr().err


def test_a_record_says_how_its_images_were_read_and_is_verified_so(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part, rows in (("train", slice(0, 60, 2)), ("test", slice(1, 60, 2))):
        own.pictures(Path("set") / part, X[rows, ..., :1], Y[rows])
    read = ["--dataset", "set", "--size", "9", "--crop", "8"]
    small = ["--arch", "cnn-small", "--set", "*-digits.schedule.epochs=1", "--set", "*-digits.inner.steps=1"]
    assert main(["train", "at-digits", *read, *small]) == 0
    run = capsys.readouterr().out.splitlines()[0]
    assert main(["attack", run, "fgsm-digits", *read, "--images", "5"]) == 0
    assert main(["verify", run, "--dataset", "set"]) == 0 and "all agree" in capsys.readouterr().out
    own.pictures(Path("set") / "test", X[:1, ..., 1:2], Y[:1])
    verify._dataset.cache_clear()  # as in another command
    assert main(["verify", run, "--dataset", "set"]) == 2 and "its files are others" in capsys.readouterr().err


def test_some_images_of_what_lies_class_by_class_are_of_every_class(tmp_path, capsys):
    """The first ones of a folder are of its first class, and what is found on them is about that class."""
    found = data.load(str(own.pictures(tmp_path / "it"))).test
    some = found.some(9)
    assert some.y.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and some.ids.tolist() == [0, 6, 13, 20, 26, 33, 40, 46, 53]
    assert torch.equal(some.x, PIXELS[some.ids])
    assert "class by class: 9 evenly over all 60 are taken, not the first 9" in capsys.readouterr().err
    assert found.some(60).ids.tolist() == list(range(60)) == found.head(60).ids.tolist()
    mixed = data.load(str(own.npz(tmp_path / "mixed.npz", x=X[::-1], y=(Y + np.arange(60)) % 3))).test
    assert mixed.some(9).ids.tolist() == list(range(9)), "first ones that are of all classes are a sample"
    backwards = data.load(str(own.npz(tmp_path / "backwards.npz", x=X[::-1], y=Y[::-1]))).test
    assert backwards.some(3).y.tolist() == [2, 1, 0], "in whatever order the classes come"


def test_models_and_tables_are_attacked_on_some_of_every_class(tmp_path):
    from bench.ledger.folder import Results
    from bench.running.table import Options, Table
    from bench.subjects.chosen import Choice

    for part in ("train", "test"):
        own.pictures(tmp_path / "it" / part)
    choice = Choice("no model", Results(tmp_path), dataset=str(tmp_path / "it"), images=6)
    assert choice.pick(choice.load(), 100).y.tolist() == [0, 0, 1, 1, 2, 2]
    (tmp_path / "any.toml").write_text(TABLE.replace('datasets = ["digits"]', 'datasets = ["*"]'))
    given = {"dataset": str(tmp_path / "it"), "images": 3}
    assert Table(str(tmp_path / "any.toml"), Options(Results(tmp_path), **given)).images.y.tolist() == [0, 1, 2]
