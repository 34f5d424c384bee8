"""Every kind of image that a Parquet cell can carry: read as it is meant, or refused in a sentence with its place."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from shards import parquet

from bench.ground.config import UserError
from bench.subjects import data, pictures

GREY, COLOUR = data.DATASETS["mnist"], data.DATASETS["cifar10"]
RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (32, 32, 3), dtype=np.uint8)
L = RANDOM.integers(0, 256, (28, 28), dtype=np.uint8)
ROTATED = 0x0112, 6  # EXIF: the camera was held on its side
Made = tuple[bytes, data.Kind, np.ndarray]


def coded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(rows: np.ndarray, depth: int, kind: int) -> bytes:
    """A PNG of any depth, as the specification has it: Pillow writes no 16-bit colours. rows: [H, bytes]."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height = len(rows)
    header = struct.pack(">IIBBBBB", height, height, depth, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def wide(pixels: np.ndarray) -> np.ndarray:
    """The same picture in 16 bits: [H, ...] big-endian."""
    return (pixels.astype(np.uint16) * 257).astype(">u2").reshape(len(pixels), -1)


def nibbles(pixels: np.ndarray) -> np.ndarray:
    """[H, W] bytes -> [H, 2 W]: their upper and lower four bits."""
    return np.stack([pixels // 16, pixels % 16], 2).reshape(len(pixels), -1)


def alpha(value: int) -> Image.Image:
    return Image.fromarray(np.dstack([RGB, np.full((32, 32), value, np.uint8)]))


def palette() -> Image.Image:
    return Image.fromarray(RGB).quantize(64)


def grey_twice(value: int) -> Image.Image:
    return Image.merge("LA", [Image.fromarray(L), Image.new("L", (28, 28), value)])


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[ROTATED[0]] = ROTATED[1]
    return tags


RIGHT: dict[str, Callable[[], Made]] = {
    "RGB PNG": lambda: (coded(Image.fromarray(RGB)), COLOUR, RGB),
    "RGB TIFF": lambda: (coded(Image.fromarray(RGB), "TIFF"), COLOUR, RGB),
    "RGB BMP": lambda: (coded(Image.fromarray(RGB), "BMP"), COLOUR, RGB),
    "RGB WebP": lambda: (coded(Image.fromarray(RGB), "WebP", lossless=True), COLOUR, RGB),
    "L PNG": lambda: (coded(Image.fromarray(L)), GREY, L[..., None]),
    "grey as colour": lambda: (
        coded(Image.fromarray(RGB[..., 0])), COLOUR, RGB[..., :1].repeat(3, 2)
    ),
    "colour that is grey": lambda: (coded(Image.fromarray(L).convert("RGB")), GREY, L[..., None]),
    "palette": lambda: (coded(palette()), COLOUR, np.asarray(palette().convert("RGB"))),
    "palette GIF": lambda: (coded(palette(), "GIF"), COLOUR, np.asarray(palette().convert("RGB"))),
    "opaque RGBA": lambda: (coded(alpha(255)), COLOUR, RGB),
    "opaque LA": lambda: (coded(grey_twice(255)), GREY, L[..., None]),
    "1 bit": lambda: (coded(Image.fromarray(L > 127)), GREY, np.where(L > 127, 255, 0)[..., None].astype(np.uint8)),
    "4-bit grey": lambda: (png(L[:, ::2], 4, 0), GREY, nibbles(L[:, ::2])[..., None] * np.uint8(17)),
    "EXIF, rotated": lambda: (coded(Image.fromarray(RGB), exif=exif()), COLOUR, np.rot90(RGB, -1)),
}  # fmt: skip


REFUSED: dict[str, tuple[Callable[[], tuple[bytes, data.Kind]], str]] = {
    "16-bit grey PNG": (lambda: (coded(Image.fromarray(L.astype(np.uint16) * 257)), GREY), "more than 8 bits"),
    "16-bit RGB PNG": (lambda: (png(wide(RGB), 16, 2), COLOUR), "more than 8 bits"),
    "16-bit RGBA PNG": (lambda: (png(wide(np.dstack([RGB, RGB[..., :1] * 0 + 255])), 16, 6), COLOUR),
                        "more than 8 bits"),
    "16-bit LA PNG": (lambda: (png(wide(np.dstack([L, L * 0 + 255])), 16, 4), GREY), "more than 8 bits"),
    "16-bit TIFF": (lambda: (coded(Image.fromarray(L.astype(np.uint16)), "TIFF"), GREY), "more than 8 bits"),
    "32-bit TIFF": (lambda: (coded(Image.fromarray(L.astype(np.int32)), "TIFF"), GREY), "more than 8 bits"),
    "float TIFF": (lambda: (coded(Image.fromarray(L / np.float32(255)), "TIFF"), GREY), "more than 8 bits"),
    "float TIFF, colours": (lambda: (coded(Image.fromarray(RGB[..., 0] / np.float32(255)), "TIFF"), COLOUR),
                            "more than 8 bits"),
    "CMYK JPEG": (lambda: (coded(Image.fromarray(RGB).convert("CMYK"), "JPEG"), COLOUR), "CMYK"),
    "CMYK TIFF": (lambda: (coded(Image.fromarray(RGB).convert("CMYK"), "TIFF"), COLOUR), "CMYK"),
    "LAB TIFF": (lambda: (coded(Image.fromarray(RGB).convert("RGB").convert("LAB"), "TIFF"), COLOUR), "LAB"),
    "half transparent RGBA": (lambda: (coded(alpha(128)), COLOUR), "transparent"),
    "transparent LA": (lambda: (coded(grey_twice(0)), GREY), "transparent"),
    "transparent palette": (lambda: (coded(palette(), transparency=3), COLOUR), "transparent"),
    "transparent colour": (lambda: (coded(Image.fromarray(RGB), transparency=tuple(RGB[3, 4].tolist())), COLOUR),
                           "transparent"),
    "animated GIF": (lambda: (coded(palette(), "GIF", save_all=True, append_images=[palette().rotate(90)]), COLOUR),
                     "2 frames"),
    "animated PNG": (lambda: (coded(Image.fromarray(RGB), save_all=True, append_images=[alpha(255).convert("RGB")
                              .rotate(90)]), COLOUR), "2 frames"),
    "animated WebP": (lambda: (coded(Image.fromarray(RGB), "WebP", save_all=True,
                               append_images=[Image.fromarray(RGB).rotate(90)]), COLOUR), "2 frames"),
    "pages": (lambda: (coded(Image.fromarray(RGB), "TIFF", save_all=True, append_images=[Image.fromarray(RGB)]),
                       COLOUR), "2 frames"),
    "colours for grey": (lambda: (coded(Image.fromarray(RGB).resize((28, 28))), GREY), "colour"),
    "PostScript": (lambda: (coded(Image.fromarray(RGB), "EPS"), COLOUR), "cannot be decoded"),
    "PDF": (lambda: (coded(Image.fromarray(RGB), "PDF"), COLOUR), "cannot be decoded"),
    "PPM of 16 bits": (lambda: (b"P6 32 32 65535\n" + wide(RGB).tobytes(), COLOUR), "cannot be decoded"),
    "huge": (lambda: (png(np.zeros((9000, 9000 // 8), np.uint8), 1, 0), COLOUR), "9000x9000, not 32x32"),
    "another size": (lambda: (coded(Image.fromarray(RGB).resize((33, 32))), COLOUR), "33x32, not 32x32"),
    "nothing": (lambda: (b"", COLOUR), "cannot be decoded"),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_an_image_is_read_as_it_is_meant(name):
    content, kind, expected = RIGHT[name]()
    assert np.array_equal(pictures.decode({"bytes": content, "path": None}, kind.shape, "row 0"), expected)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_another_picture_is_refused(name):
    make, words = REFUSED[name]
    content, kind = make()
    with pytest.raises(UserError, match=rf"^shard, row 7: .*{words}"):
        pictures.decode({"bytes": content, "path": None}, kind.shape, "shard, row 7")


CELLS = {
    "floats": pa.array([(L / 255).tolist()] * 3),
    "integers": pa.array([L.astype(int).tolist()] * 3),
    "flat": pa.array([L.flatten().tolist()] * 3),
    "text": pa.array(["a picture"] * 3),
    "numbers": pa.array([1.5, 2.5, 3.5]),
    "nothing": pa.array([None, None, None], pa.null()),
    "only a path": pa.array([{"bytes": None, "path": "a.png"}] * 3),
    "text as bytes": pa.array([{"bytes": "a picture", "path": None}] * 3),
    "another struct": pa.array([{"pixels": [1, 2]}] * 3),
}


@pytest.mark.parametrize("cells", CELLS)
def test_a_column_of_what_is_no_coded_image_is_refused(cells, tmp_path):
    """Lists of numbers have no range that could be known: 0..1, 0..255, -1..1."""
    pq.write_table(pa.table({"image": CELLS[cells], "label": [1, 2, 3]}), tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match="row 0: wanted an image as the bytes of a file"):
        parquet(tmp_path, "train", GREY)


def test_bytes_without_a_struct_are_a_coded_image(tmp_path):
    table = pa.table({"image": pa.array([coded(Image.fromarray(L))] * 2), "label": [1, 2]})
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    pixels, labels = parquet(tmp_path, "train", GREY)
    assert np.array_equal(pixels[1, ..., 0], L) and labels.tolist() == [1, 2]


LABELS = {
    "floats": pa.array([1.0, 2.0]), "missing": pa.array([1, None]), "text": pa.array(["1", "2"]),
    "lists": pa.array([[1], [2]]), "truth": pa.array([True, False]), "beyond": pa.array([1, 10]),
    "far beyond": pa.array([1, 2**64 - 1], pa.uint64()), "negative": pa.array([-1, 2]),
    "words": pa.array(["cat", "dog"]).dictionary_encode(), "dates": pa.array([1, 2], pa.timestamp("s")),
}  # fmt: skip


@pytest.mark.parametrize("labels", LABELS)
def test_labels_that_are_no_classes_are_refused(labels, tmp_path):
    images = pa.array([{"bytes": coded(Image.fromarray(L)), "path": None}] * 2)
    pq.write_table(pa.table({"image": images, "label": LABELS[labels]}), tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"label"):
        parquet(tmp_path, "train", GREY)


def test_two_columns_of_one_name_are_refused(tmp_path):
    images = pa.array([{"bytes": coded(Image.fromarray(L)), "path": None}] * 2)
    table = pa.Table.from_arrays([images, images, pa.array([1, 2])], names=["image", "image", "label"])
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"Multiple matches|has columns image, image, label"):
        parquet(tmp_path, "train", GREY)


def test_an_empty_shard_is_refused_in_words(tmp_path):
    frame = pd.DataFrame({"image": pd.Series([], dtype=object), "label": pd.Series([], dtype="int64")})
    frame.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match="holds no image"):
        parquet(tmp_path, "train", GREY)
