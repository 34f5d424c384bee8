"""Data of one's own that is no data set: one sentence, which says what was found and what to do. Nothing is guessed."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import own_sets as own
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_sets import NAMES, X, Y
from PIL import Image

from bench.ground.config import UserError
from bench.subjects import data
from bench.subjects.own_data import Reading

FLOATS = X / np.float32(255)
WRONG = Callable[[Path], Path]


def images(x: np.ndarray) -> WRONG:
    return lambda at: own.npz(at / "it.npz", x=x, y=Y)


def labels(y: np.ndarray) -> WRONG:
    return lambda at: own.npz(at / "it.npz", x=X, y=y)


def cut(make: WRONG, to: float = 0.6) -> WRONG:
    """Only the beginning of the file."""

    def made(at: Path) -> Path:
        path = make(at)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * to)])
        return path

    return made


def written(name: str, content: bytes) -> WRONG:
    def made(at: Path) -> Path:
        (at / name).write_bytes(content)
        return at / name

    return made


def folder(*places: str) -> WRONG:
    def made(at: Path) -> Path:
        for place in places:
            (at / "it" / place).mkdir(parents=True)
        return at / "it"

    return made


def one_picture(content: bytes, name: str = "ape/x.png") -> WRONG:
    def made(at: Path) -> Path:
        path = own.pictures(at / "it") / name
        path.write_bytes(content)
        return at / "it"

    return made


def objects(at: Path) -> Path:
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(at / "ran"),)

    np.savez(at / "it.npz", x=np.array([Bomb()], dtype=object), y=Y, allow_pickle=True)
    return at / "it.npz"


def pipe(at: Path) -> Path:
    os.mkfifo(at / "it.npz")
    return at / "it.npz"


def nan() -> np.ndarray:
    x = FLOATS.copy()
    x[3, 0, 0, 0] = np.nan
    return x


def tall(values: object) -> np.ndarray:
    return np.asarray(values).repeat(60 // len(np.asarray(values)))


def wide_png(at: Path) -> Path:
    """16 bits a channel."""
    path = own.pictures(at / "it") / "ape" / "x.png"
    Image.fromarray(np.full((12, 10), 40_000, np.uint16)).save(path)
    return at / "it"


def other_parts(at: Path) -> Path:
    return own.npz(at / "it.npz", x_train=X, y_train=Y, x_test=X[:, :8], y_test=Y)


def odd_parquet(**more: object) -> WRONG:
    return lambda at: own.parquet(at / "it.parquet", **more)


def lists(at: Path) -> Path:
    pq.write_table(pa.table({"image": [one.tolist() for one in X[:3, ..., 0]], "label": [0, 1, 1]}), at / "it.parquet")
    return at / "it.parquet"


KINDS: dict[str, tuple[WRONG, str]] = {
    # which files
    "nothing there": (lambda at: at / "it.npz", r"it\.npz: No such file"),
    "no folder": (lambda at: at / "it", "No such file"),
    "another kind of file": (written("it.csv", b"1,2"), "data of a kind that is not known; known are a folder"),
    "a pickle": (written("it.pkl", pickle.dumps([1])), "of a kind that is not known"),
    "empty folder": (folder(""), "no picture was found in sub-folders"),
    "empty classes": (folder("ape", "bee"), "no picture was found in sub-folders"),
    "pictures without classes": (lambda at: own.pictures(at / "it") / "ape", "no picture was found in sub-folders"),
    "one class": (lambda at: own.pictures(at / "it", y=Y * 0), "there is one class only"),
    "an empty part": (lambda at: (own.pictures(at / "it" / "train"), folder("test")(at))[1], "no picture was found"),
    "only training images": (lambda at: own.pictures(at / "it" / "train").parent, "has training images and no test"),
    "a part twice": (
        lambda at: [own.pictures(at / "it" / name).parent for name in ("train", "val", "valid")][-1], "two say the same"
    ),
    "a pipe": (pipe, "is no plain file, but a pipe"),
    # damage
    "cut npz": (cut(own.FORMS["npz"]), r"it\.npz is no whole \.npz file"),
    "cut compressed npz": (cut(own.FORMS["compressed npz"]), r"no whole \.npz file"),
    "cut npy": (cut(own.FORMS["npy file"]), r"it\.npy is shorter than its header says"),
    "cut safetensors": (cut(own.FORMS["safetensors"]), r"no whole \.safetensors file"),
    "cut Parquet": (cut(own.FORMS["Parquet"]), "not a whole Parquet file"),
    "text as npz": (written("it.npz", b"hello"), r"no whole \.npz file"),
    "text as safetensors": (written("it.safetensors", b"hello, and some more"), r"no whole \.safetensors file"),
    "text as Parquet": (written("it.parquet", b"hello"), "not a whole Parquet file"),
    "empty npy": (lambda at: (own.FORMS["npy file"](at), written("it.npy", b"")(at))[1], r"no whole \.npy file"),
    "a shard is missing": (
        lambda at: own.parquet(own.saved(at / "it") / "test-00000-of-00002.parquet").parent,
        r"missing test-00001-of-00002\.parquet",
    ),
    "an Arrow file is missing": (
        lambda at: ((own.arrow(at / "it") / "data-00001-of-00002.arrow").unlink(), at / "it")[1], "which are not all"
    ),
    "text as a picture": (one_picture(b"hello"), r"ape/x\.png: the image cannot be decoded"),
    "empty picture": (one_picture(b""), r"ape/x\.png: the image cannot be decoded"),
    "16 bits": (wide_png, r"ape/x\.png: the image has more than 8 bits"),
    "alpha": (one_picture(own.coded(np.dstack([X[0], X[0, ..., :1] // 2]))), r"x\.png: the image is transparent"),
    # which arrays
    "objects": (objects, r"x\.npy holds Python objects, and reading them would run code"),
    "no labels": (lambda at: own.npz(at / "it.npz", x=X), r"holds x \[60, 12, 10, 3\] uint8; which are the images"),
    "two images": (lambda at: own.npz(at / "it.npz", x=X, images=X, y=Y), "which are the images and which"),
    "two labels": (lambda at: own.npz(at / "it.npz", x=X, y=Y, labels=Y), "which are the images and which"),
    "two of no names": (lambda at: own.npz(at / "it.npz", a=X, b=X, c=Y), "--columns image=NAME,label=NAME"),
    "a part and none": (lambda at: own.npz(at / "it.npz", x=X, y=Y, x_test=X, y_test=Y), "which are the images"),
    "npy alone": (lambda at: own.saved(at, it=X) / "it.npy", "files with labels beside it there are 0"),
    "npy, two labels": (lambda at: own.saved(at, it=X, y=Y, labels=Y) / "it.npy", "beside it there are 2"),
    "fewer labels": (labels(Y[:50]), "it holds 60 images and 50 labels"),
    # what images
    "flat": (images(X.reshape(60, -1)), r"shape \[60, 360\] are not \[N, H, W, C\]"),
    "four channels": (images(np.concatenate([X, X[..., :1]], 3)), r"shape \[60, 12, 10, 4\].*alpha"),
    "either layout": (images(X[:, :3]), r"\[60, 3, 10, 3\] have their channels first or last, both would fit"),
    "NaN": (images(nan()), "hold NaN or infinity"),
    "floats in 0..255": (images(X.astype(np.float32)), "save bytes as uint8, or divide them by 255"),
    "[-1, 1]": (images(FLOATS * 2 - 1), r"float32 from -1 to 1, and \[0, 1\] is wanted; if .* x / 2 \+ 0\.5"),
    "normalised": (images((FLOATS - 0.45) / 0.2), "keep normalisation inside the model"),
    "divided twice": (images(FLOATS / 255), "were they divided by 255 twice"),
    "16-bit integers": (images(X.astype(np.uint16) * 257), "uint16 from 0 to 65535; save them as uint8"),
    "floats cast to bytes": (images(FLOATS.round().astype(np.uint8)), "uint8 from 0 to 1; whole numbers are wanted"),
    "negative": (images(X.astype(np.int32) - 128), "whole numbers are wanted from 0 to 255"),
    "truth": (images(X > 127), "bool from 0 to 1; save them as uint8"),
    "complex": (images(X * 1j), "complex128"),
    "parts of two sizes": (other_parts, r"\(3, 12, 10\), and of another \(3, 8, 10\)"),
    # what labels
    "from 1": (labels(Y + 1), "labels run from 1 to 3, and classes are counted from 0; subtract 1"),
    "below 0": (labels(Y - 1), "label -1 is below 0"),
    "halves": (labels(Y / 2), "0.5 is no class"),
    "NaN as a label": (labels(np.where(Y == 1, np.nan, Y)), "nan is no class"),
    "a price": (labels(Y * 9000), "labels reach 18000, so there would be 18001 classes; give --classes N"),
    "two at once": (labels(np.ones((60, 3))), r"not a single 1 in each row"),
    "shares": (labels(np.full((60, 2), 0.5)), "0.5 is no class"),
    "dates": (labels(np.arange(60).astype("M8[D]")), "is not one whole number or text an image"),
    "a missing label": (odd_parquet(y=[None, *Y[1:].tolist()]), "1 rows have no label"),
    "no label column": (lambda at: (pd.read_parquet(own.parquet(at / "it.parquet"))[["image"]]
                                    .to_parquet(at / "it.parquet"), at / "it.parquet")[1], "has columns image; wanted"),
    "two label columns": (odd_parquet(label="a", b=Y), "has columns image, a, b; wanted .* --columns image=NAME"),
    "lists of numbers": (lists, "wanted an image as the bytes of a file|wanted one img or image"),
    "dates in Parquet": (odd_parquet(y=pd.date_range("2020", periods=60)), "not of whole numbers or texts"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_data_set_is_told_in_a_sentence(kind, tmp_path):
    make, words = KINDS[kind]
    path = make(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        _ = data.load(str(path)).test.x
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert not (tmp_path / "ran").exists()


ASKED: dict[str, tuple[Reading, str]] = {
    "no such array": (Reading(image="pixels", label="y"), r"has no pixels; it holds x \[60"),
    "too few classes": (Reading(classes=2), "label 2 is beyond the 2 classes"),
    "crop beyond the image": (Reading(crop=11), "is 10x12, smaller than the crop of 11; give a larger --size"),
}


@pytest.mark.parametrize("kind", ASKED)
def test_what_does_not_fit_the_data_is_told(kind, tmp_path):
    reading, words = ASKED[kind]
    with pytest.raises(UserError, match=words):
        data.load(str(own.FORMS["npz"](tmp_path)), reading=reading)


def test_how_many_classes_there_are_may_be_said(tmp_path):
    some = str(own.npz(tmp_path / "it.npz", x=X, y=Y + 1))
    found = data.load(some, reading=Reading(classes=10))
    assert found.classes == 10 and found.test.y.min() == 1, "class 0 is only missing here"
    with pytest.raises(UserError, match="subtract 1"):
        data.load(some, reading=Reading(classes=3))


def test_a_named_data_set_is_read_as_it_is():
    for reading, option in ((Reading(size=32), "--size"), (Reading(label="y"), "--columns")):
        with pytest.raises(UserError, match=f"^{option}: for a data set of your own, not for digits; leave it out"):
            data.load("digits", reading=reading)
    with pytest.raises(UserError, match=r"unknown dataset 'nothing-here'.*; nor is there a file or folder"):
        data.load("nothing-here")


def test_class_names_of_datasets_reach_the_data_set(tmp_path):
    found = data.load(str(own.arrow(tmp_path / "it")))
    assert found.labels == NAMES
    told = json.loads(pa.ipc.open_stream(next((tmp_path / "it").glob("*.arrow"))).schema.metadata[b"huggingface"])
    assert told["info"]["features"]["label"]["names"] == list(NAMES), "the file says them"


def test_offsets_that_point_outside_of_a_datasets_file(tmp_path):
    """They would end the process: pyarrow follows them unasked."""
    folder = own.arrow(tmp_path / "it")
    path = folder / "data-00000-of-00002.arrow"
    lengths = [len(own.coded(own.X[row])) for row in range(7)]  # of the first record batch
    offsets = np.cumsum([0, *lengths]).astype("<i4").tobytes()
    content = path.read_bytes()
    assert offsets in content
    path.write_bytes(content.replace(offsets, offsets[:8] + np.full(6, 1 << 30, "<i4").tobytes()))
    with pytest.raises(UserError, match=r"data-00000-of-00002.arrow is not a whole Parquet or Arrow file"):
        images = data.load(str(folder)).train
        data.check_images(images.x, images.y, 3)


def test_a_name_in_a_datasets_file_that_is_no_text(tmp_path):
    folder = own.arrow(tmp_path / "it")
    path = folder / "data-00000-of-00002.arrow"
    path.write_bytes(path.read_bytes().replace(b"\x05\x00\x00\x00label", b"\x05\x00\x00\x00\xe0abel"))
    with pytest.raises(UserError, match=r"is no Arrow file as datasets writes it"):
        data.load(str(folder))
