"""A picture as a file codes it -> [H, W, C] bytes, upright; what would lose a part of it without a word is refused."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bench.ground.config import UserError, first_line
from bench.subjects.pixels import BLOCK, Shape, blocks

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # others may run programs, or hide how deep their colours are
MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX")  # of Pillow: 8 bits or fewer, and colours that are RGB
GREY = ("1", "L", "LA")
DEEP = re.compile(r";(12|16|32|64)[BLNSF]|;32\b")  # Pillow's name of a file's own depth, which it may cut to 8 bits
ORIENTATION, ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # EXIF
AT_ONCE = 4096  # pictures whose headers are read at once
LARGEST = 1 << 26  # pixels of one picture: a small file may unpack to gigabytes


@dataclass(frozen=True)
class Fit:
    """How pictures of any size become images of one. size: the shorter side becomes so long (bilinear with
    antialiasing, as torchvision's Resize does with a picture); crop: then the middle square of so many pixels.
    """

    size: int | None = None
    crop: int | None = None

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after --size."""
        if self.size is None:
            return height, width
        short, long = sorted((height, width))
        other = int(self.size * long / short)
        return (self.size, other) if height <= width else (other, self.size)

    def outcome(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the image that comes of a picture. Raises Unfit where the crop is larger."""
        height, width = self.resized(height, width)
        if self.crop is None:
            return height, width
        if self.crop > min(height, width):
            raise Unfit(f"is {width}x{height}, smaller than the crop of {self.crop}; give a larger --size")
        return self.crop, self.crop

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """[H, W, C] uint8 or float32 -> the same type."""
        from PIL import Image

        height, width = self.resized(*pixels.shape[:2])
        if (height, width) != pixels.shape[:2]:
            planes = [Image.fromarray(np.ascontiguousarray(pixels[..., c])) for c in range(pixels.shape[2])]
            resized = [plane.resize((width, height), Image.Resampling.BILINEAR) for plane in planes]
            pixels = np.stack([np.asarray(plane) for plane in resized], 2)
            pixels = pixels.clip(0, 1) if pixels.dtype.kind == "f" else pixels  # rounding may leave [0, 1]
        if self.crop is not None:
            top, left = round((height - self.crop) / 2), round((width - self.crop) / 2)
            pixels = pixels[top : top + self.crop, left : left + self.crop]
        return pixels

    @property
    def words(self) -> str:
        """For the source of a data set; "" where nothing is done."""
        resized = "" if self.size is None else f", shorter side resized to {self.size} (bilinear, antialiased)"
        return resized + ("" if self.crop is None else f", middle {self.crop}x{self.crop} cropped")


AS_IT_IS, BYTES = Fit(), np.dtype(np.uint8)


class Unfit(Exception):
    """A picture that is another one than any [H, W, C] of bytes says."""


class Cell(NamedTuple):
    """One picture that is not read yet. at: its position among those asked for. get: the bytes of its file, alone or
    as {"bytes": ...}. where: for messages.
    """

    at: int
    get: Callable[[], Any]
    where: str


@dataclass(frozen=True)
class Coded:
    """Pictures in their files, decoded when they are read. cells: gives those of some rows."""

    shape: Shape
    cells: Callable[[np.ndarray], Iterable[Cell]]
    fit: Fit = AS_IT_IS
    dtype: np.dtype[Any] = BYTES

    def read(self, rows: np.ndarray) -> np.ndarray:
        """As `Pixels.read`; on all cores, as Pillow lets others work while it decodes."""
        _, c, h, w = self.shape
        out = np.empty((len(rows), h, w, c), dtype=np.uint8)

        def work(cell: Cell) -> None:
            out[cell.at] = decode(cell.get(), (c, h, w), cell.where, self.fit)

        with ThreadPoolExecutor() as pool:
            list(pool.map(work, self.cells(rows)))
        return out.transpose(0, 3, 1, 2)


def decode(cell: Any, shape: tuple[int, int, int], where: str, fit: Fit = AS_IT_IS) -> np.ndarray:
    """The bytes of a picture's file, alone or as {"bytes": ...} -> [H, W, C] uint8 of `shape`, (C, H, W). Raises
    UserError.
    """
    return _opened(cell, where, lambda image: _pixels(image, shape, fit))


class Album(NamedTuple):
    """Pictures of one part of a data set, not yet read. cells: those of some rows."""

    size: int
    cells: Callable[[np.ndarray], Iterable[Cell]]


def survey(albums: Iterable[Album], fit: Fit, told: Callable[[int], None]) -> tuple[int, int, int]:
    """The (C, H, W) that all these pictures can be read as: grey if all are, else in colour. Only their headers are
    read. told: is called with how many are done. Raises UserError for pictures that come out in several sizes.
    """
    first: tuple[str, tuple[int, int]] | None = None
    channels, done = 1, 0

    def look(cell: Cell) -> tuple[str, tuple[tuple[int, int], bool]]:
        return cell.where, _opened(cell.get(), cell.where, lambda image: _header(image, fit))

    with ThreadPoolExecutor() as pool:
        for album in albums:
            for rows in blocks(album.size, BLOCK // AT_ONCE):
                for where, (size, grey) in pool.map(look, album.cells(rows)):
                    first = first or (where, size)
                    channels = channels if grey else 3
                    if size != first[1]:
                        raise UserError(_two_sizes(*first, where, size, fit))
                told(done := done + len(rows))
    assert first is not None, "there is a picture"
    return channels, *first[1]


def _two_sizes(where: str, size: tuple[int, int], other: str, other_size: tuple[int, int], fit: Fit) -> str:
    """Sizes are (height, width)."""
    after = f" after --size {fit.size}" if fit.size else ""
    return (
        f"{where} is {size[1]}x{size[0]} and {other} is {other_size[1]}x{other_size[0]}{after}; images must be of one "
        "size: give --size N (the shorter side) and --crop N (the middle square)"
    )


def _opened(cell: Any, where: str, use: Callable[[Any], Any]) -> Any:
    from PIL import Image, UnidentifiedImageError

    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        raise UserError(
            f"{where}: wanted an image as the bytes of a file, such as a PNG, in a column of bytes or of "
            f"{{bytes, path}}; got {content!r:.60}"
        )
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return use(image)
    except Unfit as error:
        raise UserError(f"{where}: the image {error}") from error
    except UnidentifiedImageError as error:  # whose own words name a place in memory
        raise UserError(f"{where}: the image cannot be decoded (it is none of {', '.join(FORMATS)})") from error
    except Exception as error:  # a damaged image breaks its reader anywhere
        raise UserError(f"{where}: the image cannot be decoded ({first_line(error)})") from error


def _header(image: Any, fit: Fit) -> tuple[tuple[int, int], bool]:
    """(height, width) that it will have, and whether it is grey."""
    width, height = image.size
    if image.getexif().get(ORIENTATION) in ON_ITS_SIDE:
        width, height = height, width
    return fit.outcome(height, width), image.mode in GREY


def _pixels(image: Any, shape: tuple[int, int, int], fit: Fit) -> np.ndarray:
    """A PIL image that is not yet decoded -> [H, W, C] uint8, upright. Raises Unfit for what would lose a part of the
    picture without a word: depth, transparency, colours, frames.
    """
    from PIL import ImageOps

    channels, height, width = shape
    if fit == AS_IT_IS and set(image.size) != {width, height}:  # before it is decoded: it may unpack to gigabytes
        raise Unfit(f"is {image.size[0]}x{image.size[1]}, not {width}x{height}")
    if image.size[0] * image.size[1] > LARGEST:
        raise Unfit(f"is {image.size[0]}x{image.size[1]}, more than {LARGEST} pixels")
    if (frames := getattr(image, "n_frames", 1)) != 1:
        raise Unfit(f"has {frames} frames, and one is wanted")
    if image.mode.startswith(("I", "F")) or any(DEEP.search(str(tile)) for tile in image.tile):
        raise Unfit(f"has more than 8 bits a channel (mode {image.mode}); save it with 8 bits, 0 to 255")
    if image.mode not in MODES:
        raise Unfit(f"is in {image.mode}, whose colours depend on a profile; save it as RGB")
    upright = ImageOps.exif_transpose(image)  # as the Hugging Face hub's own reader does
    if upright.has_transparency_data and np.asarray(upright.convert("RGBA"))[..., 3].min() < 255:
        raise Unfit("is transparent in places, where its colour is that of an unknown background")
    pixels = np.asarray(upright.convert("RGB"))
    if channels == 1 and not (pixels == pixels[..., :1]).all():
        raise Unfit("has colours, and the data set is grey")
    fitted = fit.apply(pixels[..., :channels])
    if fitted.shape[:2] != (height, width):
        raise Unfit(f"is {fitted.shape[1]}x{fitted.shape[0]}, not {width}x{height}")
    return fitted
