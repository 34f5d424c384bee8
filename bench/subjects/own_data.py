"""A data set of one's own, by its path: folders of pictures, arrays, Parquet, what `datasets` saved -> parts of it.

Its name is that of the file or folder, and a hash of the bytes of its files and of how they are read: two folders of
one name are two data sets, and a record says which it is of. Nothing of it is run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.ground import terminal
from bench.ground.config import UserError
from bench.ground.plain import check_plain, read_plain
from bench.ground.progress import Told
from bench.ledger.ids import slug
from bench.subjects import arrays, cache, columns
from bench.subjects.arrays import PARTS
from bench.subjects.labels import Labelled, read_labels
from bench.subjects.pictures import Album, Cell, Coded, Fit, survey
from bench.subjects.pixels import Files, Held, Pixels

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ARRAYS = (".npz", ".npy", ".safetensors")
NAME_SHOWN = 40  # letters of a file's name in that of its data set
KNOWN = (
    "a folder with one sub-folder of pictures a class (also within train/ and test/), .npz, .npy with labels beside, "
    ".safetensors, .parquet, or what Hugging Face's datasets saved to disk"
)


@dataclass(frozen=True)
class Reading:
    """How a data set of one's own is read. image, label: which columns or arrays; None are those of the usual names.
    size, crop: see `Fit`. classes: how many there are, where labels do not show all.
    """

    image: str | None = None
    label: str | None = None
    size: int | None = None
    crop: int | None = None
    classes: int | None = None

    @property
    def fit(self) -> Fit:
        return Fit(self.size, self.crop)

    @property
    def told(self) -> dict[str, str | int]:
        """What was asked for."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def options(self) -> list[str]:
        """The options that asked for it."""
        return list(dict.fromkeys("columns" if name in ("image", "label") else name for name in self.told))


class Own(NamedTuple):
    """A data set as it was found. pixels, labels.y: by part, of train, validation and test; "" is the only one."""

    name: str
    source: str
    pixels: dict[str, Pixels]
    labels: Labelled


class _Found(NamedTuple):
    """A source, looked through but not read: its files, labels by part, and what makes pixels of the files. names: of
    the classes, where they are known.
    """

    files: Files
    what: str
    labels: Callable[[], dict[str, np.ndarray]]
    pixels: Callable[[Files], dict[str, Pixels]]
    names: tuple[str, ...] = ()


def read(path: Path, reading: Reading) -> Own:
    """The data set that lies there. Raises UserError, which says what was found and what is wanted."""
    found = _look(path, reading)
    name = f"{slug(path.resolve().stem)[:NAME_SHOWN].strip('-_')}-{cache.key(found.files.sha256, reading.told)[:8]}"
    labels = read_labels(found.labels(), str(path), reading.classes, found.names)
    pixels = found.pixels(found.files)
    for part, one in pixels.items():
        if one.shape[0] != len(labels.y[part]):
            raise UserError(f"{path}: {part or 'it'} holds {one.shape[0]} images and {len(labels.y[part])} labels")
    return Own(name, f"{found.what} {path}{reading.fit.words}", pixels, labels)


def of_arrays(name: str, what: str, parts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Own:
    """The data set of that name whose images and labels somebody's code made: part -> (images, labels), by the same
    rules as in files. Raises UserError.
    """
    strange = [part for part in parts if part.lower() not in PARTS]
    if strange or not parts:
        raise UserError(f"{what}: its parts are {', '.join(parts) or 'none'}; known are {', '.join(sorted(PARTS))}")
    given = {PARTS[part.lower()]: pair for part, pair in parts.items()}
    labels = read_labels({part: y for part, (_, y) in given.items()}, what)
    pixels: dict[str, Pixels] = {}
    for part, (x, _) in given.items():
        raw = arrays.images(Held(x), f"{what}, {part}")
        pixels[part] = arrays.as_images(raw, arrays.reach(raw, lambda count: None), f"{what}, {part}")
        if len(x) != len(labels.y[part]):
            raise UserError(f"{what}: {part} holds {len(x)} images and {len(labels.y[part])} labels")
    return Own(name, what, pixels, labels)


def _look(path: Path, reading: Reading) -> _Found:
    if path.is_dir():
        return _look_in(path, reading)
    if path.suffix in ARRAYS:
        return _arrays(path, reading)
    try:
        check_plain(path)
    except OSError as error:
        raise UserError(f"data set {path}: {error.strerror or error}") from error
    if path.suffix != ".parquet":
        raise UserError(f"{path}: data of a kind that is not known; known are {KNOWN}")
    return _columns({"": [path]}, columns.parquet, path, "Parquet file", reading)


def _look_in(folder: Path, reading: Reading) -> _Found:
    """A folder, by what lies in it."""
    for place in (folder, folder / "data"):
        if any(place.glob("*.parquet")):
            return _columns(columns.parquet_files(place), columns.parquet, folder, "Parquet files in", reading)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _columns(columns.arrow_files(folder), columns.arrow, folder, "Arrow files in", reading)
    if any(folder.glob("*.npy")):
        return _arrays(folder, reading)
    return _pictures(folder, reading)


def _pictures(folder: Path, reading: Reading) -> _Found:
    """Sub-folders with pictures, in parts where the sub-folders are called so."""
    if reading.image or reading.label:
        raise UserError(f"{folder} is a folder of pictures, which has no columns; leave --columns out")
    inside = _folders(folder)
    parts = {name: folder / name for name in inside if name.lower() in PARTS}
    if parts and len(parts) == len(inside):
        given = {PARTS[name.lower()]: place for name, place in parts.items()}
        if len(given) < len(parts):
            raise UserError(f"{folder} holds {', '.join(parts)}, of which two say the same; name one of them")
    else:
        given = {"": folder}
    names = sorted({name for place in given.values() for name in _folders(place)})
    files = {part: _files(place, names) for part, place in given.items()}
    if not names or not all(files.values()):
        raise UserError(f"{folder}: no picture was found in sub-folders (one a class); known are {KNOWN}")
    if all(name.isdigit() for name in names) and sorted(names, key=int) != names:
        terminal.warn(f"{folder}: classes are in the order of the text of their folders: {', '.join(names[:12])}, ...")
    number = {name: at for at, name in enumerate(names)}
    paths = {part: [path for _, path in each] for part, each in files.items()}

    def labels() -> dict[str, np.ndarray]:
        return {part: np.array([number[name] for name, _ in each]) for part, each in files.items()}

    def cells(within: list[Path], rows: np.ndarray) -> Iterator[Cell]:
        for at, row in enumerate(rows.tolist()):
            yield Cell(at, partial(_content, within[row]), str(within[row]))

    albums = {part: Album(len(within), partial(cells, within)) for part, within in paths.items()}
    every = [path for within in paths.values() for path in within]
    return _Found(
        Files(every, folder), "pictures in", labels, partial(_coded, albums, reading, str(folder)), tuple(names)
    )


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(one.name for one in entries if one.is_dir() and not one.name.startswith("."))


def _files(folder: Path, names: list[str]) -> list[tuple[str, Path]]:
    """Every picture with its class, in the order of the text of their paths."""
    told, found = Told(f"looking through {folder}", len(names)), []
    for at, name in enumerate(names):
        for place, inner, files in os.walk(folder / name):
            inner.sort()
            pictures = [one for one in sorted(files) if one.lower().endswith(PICTURES) and not one.startswith(".")]
            found += [(name, Path(place, one)) for one in pictures]
        told.at(at)
    return found


def _content(path: Path) -> bytes:
    try:
        return read_plain(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def _coded(albums: Mapping[str, Album], reading: Reading, where: str, files: Files) -> dict[str, Pixels]:
    """Pictures that are decoded when asked for, and kept."""
    total = sum(album.size for album in albums.values())

    def look() -> list[int]:
        return list(survey(albums.values(), reading.fit, Told(f"looking at the pictures of {where}", total).at))

    c, h, w = cache.remembered(cache.key(files.sha256, reading.told), look)
    return {
        part: cache.Kept(
            Coded((album.size, c, h, w), album.cells, reading.fit), files, (part, reading.told), f"pictures of {where}"
        )
        for part, album in albums.items()
    }


def _columns(
    files: Mapping[str, list[Path]],
    reader: Callable[[list[Path]], columns.Columns],
    path: Path,
    what: str,
    reading: Reading,
) -> _Found:
    """Parquet or Arrow files."""
    tables = {part: reader(paths) for part, paths in files.items()}
    schema = next(iter(tables.values())).schema
    chosen = {part: columns.choose(one.schema, str(path), reading.image, reading.label) for part, one in tables.items()}
    (image, label), *others = dict.fromkeys(chosen.values())
    if others:
        raise UserError(f"{path}: its parts have other columns ({label}, {others[0][1]}); name them with --columns")
    names = next(iter(tables.values())).names(label)
    albums = {part: Album(len(one), partial(one.cells, image)) for part, one in tables.items()}
    every = [one for paths in files.values() for one in paths]
    assert schema is not None
    return _Found(
        Files(every, path),
        what,
        lambda: {part: one.labels(label) for part, one in tables.items()},
        partial(_coded, albums, reading, str(path)),
        names,
    )


def _arrays(path: Path, reading: Reading) -> _Found:
    """One file of arrays, a folder of .npy, or a .npy with its labels beside."""
    files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
    image, label = reading.image, reading.label
    if path.suffix == ".npy":
        files, image, label = [path, _labels_of(path, label)], path.stem, label or _labels_of(path, label).stem
    content = {name: one for file in files for name, one in arrays.read_file(file).items()}
    found = arrays.pairs(content, str(path), image, label)

    def pixels(files: Files) -> dict[str, Pixels]:
        return {part: _array(pair, path, part, files, reading) for part, pair in found.items()}

    return _Found(
        Files(files, path),
        "arrays in",
        lambda: {part: arrays.whole(pair.labels) for part, pair in found.items()},
        pixels,
    )


def _array(pair: arrays.Pair, path: Path, part: str, files: Files, reading: Reading) -> Pixels:
    """The images of one part; those that take time to read are kept."""
    where = f"{path}, {part}" if part else str(path)
    raw = arrays.images(pair.images, where)
    told = Told(f"reading images of {where}", raw.shape[0])
    how = (part, reading.told)
    found = cache.remembered(cache.key(files.sha256, *how), lambda: arrays.reach(raw, told.at))
    made = arrays.fitted(arrays.as_images(raw, found, where), reading.fit, where)
    slow = isinstance(pair.images, arrays.Packed) or reading.fit != Fit()
    return cache.Kept(made, files, how, f"images of {where}") if slow else made


def _labels_of(path: Path, label: str | None) -> Path:
    """The .npy with the labels of this one: of the same part. Raises UserError."""
    if label is not None:
        return path.with_name(f"{label}.npy")
    part = arrays.meaning(path.stem)[1]
    beside = {one: arrays.meaning(one.stem) for one in sorted(path.parent.glob("*.npy"))}
    fits = [one for one, meant in beside.items() if meant == ("label", part)]
    if len(fits) != 1:
        raise UserError(
            f"{path} is an array of images, and of files with labels beside it there are {len(fits)}, not one: save "
            "them as labels.npy or y.npy there, or name the file with --columns label=NAME"
        )
    return fits[0]
