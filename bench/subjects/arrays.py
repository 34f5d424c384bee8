"""Arrays in .npz, .npy and .safetensors files: which are images and which labels, and how the images are meant.

Nothing is loaded to be looked at: a .npy, a .safetensors and what is not compressed in a .npz stay where they lie.
Arrays of Python objects are refused, as reading them runs code.
"""

from __future__ import annotations

import json
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from bench.ground.config import UserError, first_line
from bench.subjects.pictures import Fit, Unfit
from bench.subjects.pixels import Changed, Held, Pixels, Stored, blocks, open_plain, row_bytes

PARTS = {"train": "train", "training": "train", "val": "validation", "valid": "validation",
         "validation": "validation", "dev": "validation", "test": "test", "testing": "test"}  # fmt: skip
IMAGE = ("x", "image", "images", "img", "imgs", "data", "pixels", "inputs")
LABEL = ("y", "label", "labels", "target", "targets", "classes", "class", "fine_label")
SAFETENSORS = {"U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8",
               "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "?"}  # fmt: skip
BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError,
          SyntaxError, tokenize.TokenError, struct.error, RuntimeError)  # fmt: skip
BYTE_LIKE = 16  # above it floats are bytes, and not normalised images
ONLY = "--columns image=NAME,label=NAME says which are meant"


@dataclass(frozen=True)
class Packed:
    """An array that is compressed in a .npz: read from its beginning, a block at a time."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str = "C"

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows. Raises UserError."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        last = int(rows.max()) if len(rows) else -1
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
            _header(file, f"{self.path}, {self.member}")
            for block in blocks(last + 1, row_bytes(self)):
                content = _exactly(file, len(block) * row_bytes(self), self.path)
                wanted = (rows >= block[0]) & (rows <= block[-1])
                array = np.frombuffer(content, self.dtype).reshape(len(block), *self.shape[1:])
                out[wanted] = array[rows[wanted] - block[0]]
        return out


Array = Stored | Packed | Held


def read_file(path: Path) -> dict[str, Array]:
    """The arrays of one file by name; of a .npy by the file's. Raises UserError."""
    try:
        if path.suffix == ".npz":
            return _npz(path)
        return {path.stem: _npy(path)} if path.suffix == ".npy" else _safetensors(path)
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(f"{path} is no whole {path.suffix} file ({first_line(error)})") from error


def _npy(path: Path) -> Array:
    with open_plain(path) as file:
        shape, dtype, order = _header(file, str(path))
        return Stored(open_plain(path), file.tell(), shape, dtype, order)


def _npz(path: Path) -> dict[str, Array]:
    found: dict[str, Array] = {}
    with open_plain(path) as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                shape, dtype, order = _header(member, f"{path}, {info.filename}")
                begin = member.tell()
            name = info.filename.removesuffix(".npy")
            if info.compress_type == zipfile.ZIP_STORED:
                found[name] = Stored(open_plain(path), _data_of(file, info) + begin, shape, dtype, order)
            elif order == "F":
                raise UserError(f"{path}: {name} is compressed in Fortran's order; save it in C's order")
            else:
                found[name] = Packed(path, info.filename, shape, dtype)
    return found


def _data_of(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member of a zip begin: behind a header of its own, with a name and an extra field."""
    file.seek(info.header_offset + 26)
    return info.header_offset + 30 + sum(np.frombuffer(file.read(4), "<u2").tolist())


def _safetensors(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError, safe_open

    open_plain(path).close()
    try:
        with safe_open(path, "numpy"):  # it checks the whole header
            pass
    except SafetensorError as error:
        raise UserError(f"{path} is no whole .safetensors file ({error})") from error
    with open_plain(path) as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(size))
    header.pop("__metadata__", None)
    for name, one in header.items():
        if one["dtype"] not in SAFETENSORS:
            raise UserError(f"{path}: {name} is {one['dtype']}; save it as uint8 or float32")
    return {
        name: Stored(open_plain(path), 8 + size + one["data_offsets"][0], tuple(one["shape"]),
                     np.dtype(SAFETENSORS[one["dtype"]]))
        for name, one in header.items()
    }  # fmt: skip


def _header(file: Any, where: str) -> tuple[tuple[int, ...], np.dtype[Any], str]:
    """Shape, type and order of a .npy; the file then stands at its data. Raises UserError, ValueError."""
    version = np.lib.format.read_magic(file)
    read: Callable[..., Any] = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise UserError(f"{where} holds Python objects, and reading them would run code; save plain numbers")
    return shape, dtype, "F" if fortran else "C"


def _exactly(file: Any, count: int, path: Path) -> bytes:
    try:
        content = file.read(count)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no whole .npz file ({first_line(error)})") from error
    if len(content) != count:
        raise UserError(f"{path} is no whole .npz file (it ends early)")
    return bytes(content)


class Pair(NamedTuple):
    """Images and labels of one part, as they are stored."""

    images: Array
    labels: Array


def pairs(arrays: dict[str, Array], where: str, image: str | None, label: str | None) -> dict[str, Pair]:
    """Which arrays belong together: part ("" where nothing says which) -> pair. image, label: as --columns has them.

    Names such as x and y, images and labels, X_test and y_test, train_images and train_labels. Raises UserError.
    """
    if image is not None and label is not None:
        missing = [name for name in (image, label) if name not in arrays]
        if missing:
            raise UserError(f"{where} has no {' and no '.join(missing)}; it holds {_listed(arrays)}")
        return {"": Pair(arrays[image], arrays[label])}
    found: dict[tuple[str, str], list[str]] = {}
    for name in arrays:
        found.setdefault(meaning(name, image, label), []).append(name)
    parts = sorted({part for kind, part in found if kind == "image"})
    made: dict[str, Pair] = {}
    for part in parts:
        images, labels = found["image", part], found.get(("label", part), [])
        if len(images) != 1 or len(labels) != 1:
            made.clear()
            break
        made[part] = Pair(arrays[images[0]], arrays[labels[0]])
    if not made and len(alone := _by_shape(arrays)) == 1 and image is None and label is None:
        return {"": alone[0]}
    if not made or ("" in made and len(made) > 1):
        raise UserError(f"{where} holds {_listed(arrays)}; which are the images and which their labels? {ONLY}")
    return made


def meaning(name: str, image: str | None = None, label: str | None = None) -> tuple[str, str]:
    """ "X_test" -> ("image", "test"), "labels" -> ("label", ""), "threshold" -> ("", ""). image, label: names that are
    known to be of those.
    """
    if name in (image, label):
        return ("image" if name == image else "label"), ""
    words = [word for word in re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])", name) if word]
    part = [PARTS[word.lower()] for word in words if word.lower() in PARTS]
    rest = "_".join(word.lower() for word in words if word.lower() not in PARTS)
    kinds = [kind for kind, names, given in (("image", IMAGE, image), ("label", LABEL, label))
             if rest in names and given is None]  # fmt: skip
    return (kinds or [""])[0], (part or [""])[0] if len(part) < 2 else "?"


def _by_shape(arrays: dict[str, Array]) -> list[Pair]:
    """Of two arrays of unknown names the one with images, and the one with as many labels."""
    if len(arrays) != 2:
        return []
    labels, images = sorted(arrays.values(), key=lambda one: len(one.shape))
    fits = len(images.shape) >= 3 > len(labels.shape) >= 1 and images.shape[0] == labels.shape[0]
    return [Pair(images, labels)] if fits else []


def _listed(arrays: dict[str, Array]) -> str:
    shown = [f"{name} {list(one.shape)} {one.dtype}" for name, one in list(arrays.items())[:8]]
    return ", ".join(shown) + (f" and {len(arrays) - 8} more" if len(arrays) > 8 else "") if arrays else "no array"


def whole(array: Array) -> np.ndarray:
    """All of it: labels."""
    return array.read(np.arange(array.shape[0])) if array.shape else np.empty(0)


def images(array: Array, where: str) -> Changed:
    """Images [N, H, W], [N, H, W, C] or [N, C, H, W] of any type -> the same [N, C, H, W]. Raises UserError for
    another shape, and for one that may be read in two ways.
    """
    shape = array.shape
    if array.dtype.kind not in "biuf":
        raise UserError(f"{where}: images are {array.dtype}; save them as uint8, 0 to 255, or as floats in [0, 1]")
    if len(shape) == 3:
        return Changed(array, (shape[0], 1, shape[1], shape[2]), array.dtype, lambda x: x[:, None])
    first, last = (len(shape) == 4 and shape[at] in (1, 3) for at in (1, 3))
    if first and last:
        raise UserError(
            f"{where}: images of shape {list(shape)} have their channels first or last, both would fit; save them "
            "as pictures"
        )
    if first:
        n, c, h, w = shape
        return Changed(array, (n, c, h, w), array.dtype, lambda x: x)
    if last:
        n, h, w, c = shape
        return Changed(array, (n, c, h, w), array.dtype, lambda x: x.transpose(0, 3, 1, 2))
    raise UserError(
        f"{where}: images of shape {list(shape)} are not [N, H, W, C] or [N, C, H, W] with 1 or 3 channels, nor "
        "[N, H, W]; alpha and flat rows of pixels are not known"
    )


def reach(pixels: Pixels, told: Callable[[int], None]) -> list[float]:
    """[smallest, largest] of all pixels; NaN where one is no number."""
    low, high = np.inf, -np.inf
    for rows in blocks(pixels.shape[0], row_bytes(pixels)):
        block = pixels.read(rows)
        low, high = float(np.minimum(low, block.min())), float(np.maximum(high, block.max()))
        told(int(rows[-1]) + 1)
    return [low, high]


def as_images(pixels: Changed, found: list[float], where: str) -> Changed:
    """Pixels of any type -> uint8, or float32 in [0, 1]. found: what `reach` says of them. Raises UserError where their
    range is another, or says that they are too.
    """
    low, high = found
    told = f"{where}: images are {pixels.dtype} from {low:g} to {high:g}"
    if pixels.dtype.kind == "f":
        if not np.isfinite([low, high]).all():
            raise UserError(f"{where}: images hold NaN or infinity; they must be in [0, 1]")
        if 0 <= low and BYTE_LIKE < high <= 255:
            raise UserError(f"{told}, and [0, 1] is wanted; save bytes as uint8, or divide them by 255")
        if -1 <= low < 0 and high <= 1:
            raise UserError(f"{told}, and [0, 1] is wanted; if they are normalised to [-1, 1], save x / 2 + 0.5")
        if low < 0 or high > 1:
            raise UserError(f"{told}, and [0, 1] is wanted; keep normalisation inside the model")
        if high <= 1.01 / 255:
            raise UserError(f"{told}, all but black; were they divided by 255 twice?")
        return Changed(pixels, pixels.shape, np.dtype(np.float32), lambda x: x.astype(np.float32))
    if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize == 2:
        raise UserError(f"{told}; save them as uint8, 0 to 255, or as floats in [0, 1]")
    if not 0 <= low <= high <= 255 or high <= 1:
        raise UserError(f"{told}; whole numbers are wanted from 0 to 255, and floats in [0, 1]")
    return Changed(pixels, pixels.shape, np.dtype(np.uint8), lambda x: x.astype(np.uint8))


def fitted(pixels: Pixels, fit: Fit, where: str) -> Pixels:
    """Resized and cropped. Raises UserError."""
    n, c, h, w = pixels.shape
    try:
        height, width = fit.outcome(h, w)
    except Unfit as error:
        raise UserError(f"{where}: an image {error}") from error
    if fit == Fit():
        return pixels

    def change(x: np.ndarray) -> np.ndarray:
        return np.stack([fit.apply(image).transpose(2, 0, 1) for image in x.transpose(0, 2, 3, 1)])

    return Changed(pixels, (n, c, height, width), pixels.dtype, change)
