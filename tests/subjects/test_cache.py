"""Decoded images are made once and are never others than the files'; a bad cache costs time and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import own_sets as own
import pytest
from own_sets import X, Y

from bench.ground.config import UserError
from bench.ground.files import cache_folder
from bench.subjects import own_data
from bench.subjects.own_data import Reading
from bench.subjects.pictures import Coded

ROOT = Path(__file__).parents[2]
CHW, ALL = X.transpose(0, 3, 1, 2), np.arange(60)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def folder(tmp_path):
    return own.pictures(tmp_path / "it")


def pixels(path: Path):
    (found,) = own_data.read(path, Reading()).pixels.values()
    return found


def entry(place: Path) -> Path:
    (found,) = place.glob("*.npy")
    return found


@pytest.fixture
def decoded(monkeypatch):
    """How many images were decoded, in turns."""
    turns, read = [], Coded.read
    monkeypatch.setattr(Coded, "read", lambda self, rows: turns.append(len(rows)) or read(self, rows))
    return turns


def test_images_are_decoded_once_and_few_without_the_others(folder, place, decoded):
    assert np.array_equal(pixels(folder).read(ALL[7:3:-2]), CHW[7:3:-2]) and decoded == [2]
    assert not list(place.glob("*.npy")), "two of sixty are not worth it"
    for _ in range(3):
        assert np.array_equal(pixels(folder).read(ALL), CHW)
    assert decoded == [2, 60]
    assert np.array_equal(pixels(folder).read(ALL[7:3:-2]), CHW[7:3:-2]) and decoded == [2, 60]


def flip(content: bytes) -> bytes:
    return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]


DAMAGE = {
    "a bit": flip,
    "the last byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "cut": lambda content: content[:4000],
    "longer": lambda content: content + b"0",
    "empty": lambda content: b"",
    "something else": lambda content: b"hello" * 4000,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_noticed_and_made_again(damage, folder, place, decoded, capsys):
    pixels(folder).read(ALL)
    whole = entry(place).read_bytes()
    entry(place).write_bytes(DAMAGE[damage](whole))
    assert np.array_equal(pixels(folder).read(ALL), CHW) and decoded == [60, 60]
    assert entry(place).read_bytes() == whole and "is damaged; it is made again" in capsys.readouterr().err


def test_damaged_notes_are_found_again(folder, place):
    pixels(folder)
    (note,) = place.glob("*.json")
    whole = note.read_bytes()
    for damaged in (b"", whole.replace(b"12", b"13"), b"\xff\xfe", whole[:-1]):
        note.write_bytes(damaged)
        assert pixels(folder).shape == (60, 3, 12, 10) and note.read_bytes() == whole


def test_an_entry_is_whole_or_absent(tmp_path, place):
    folder = own.pictures(tmp_path / "it", form="BMP")
    path = folder / "cat" / "059.bmp"
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(UserError, match=r"059\.bmp: the image cannot be decoded"):
        pixels(folder).read(ALL)
    assert {one.suffix for one in place.iterdir()} <= {".json"}


def test_changed_files_are_another_entry_also_of_the_same_size_and_time(folder, place):
    pixels(folder).read(ALL)
    one, two = folder / "ape" / "000.png", folder / "ape" / "001.png"
    for path, content in ((one, two.read_bytes()), (two, one.read_bytes())):
        seen = path.stat()
        path.write_bytes(content)
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert np.array_equal(pixels(folder).read(ALL)[:2], CHW[[1, 0]])
    assert len(list(place.glob("*.npy"))) == 2


def test_files_that_change_while_they_are_read_are_no_entry(folder, place, monkeypatch):
    """Otherwise the images of one content would be kept under the name of another, for good."""
    found, read = pixels(folder), Coded.read

    def changing(self, rows):
        (folder / "ape" / "000.png").write_bytes(own.coded(X[1]))
        return read(self, rows)

    monkeypatch.setattr(Coded, "read", changing)
    with pytest.raises(UserError, match="changed while they were read; give the command again"):
        found.read(ALL)
    assert not list(place.glob("*.npy"))


def test_an_entry_may_be_deleted_while_it_is_used(folder, place, decoded):
    found = pixels(folder)
    found.read(ALL)
    entry(place).unlink()
    assert np.array_equal(found.read(ALL[5:9]), CHW[5:9])
    assert np.array_equal(pixels(folder).read(ALL), CHW) and decoded == [60, 60]


def test_without_a_folder_to_write_in_it_works_and_is_told_once(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        found = pixels(folder)
        assert np.array_equal(found.read(ALL), CHW) and np.array_equal(found.read(ALL[3:5]), CHW[3:5])
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith("bench: no cache of decoded images (cannot write")
    assert "Not a directory); name a folder for it with BENCH_CACHE" in told[0]


READ = """
import sys, time, zlib
from pathlib import Path
import numpy as np
from bench.subjects import own_data
from bench.subjects.pictures import Coded
turns, read = [], Coded.read
Coded.read = lambda self, rows: time.sleep(2) or turns.append(len(rows)) or read(self, rows)
(found,) = own_data.read(Path(sys.argv[1]), own_data.Reading()).pixels.values()
content = found.read(np.arange(60))
assert "torch" not in sys.modules
print(zlib.crc32(np.ascontiguousarray(content)), sum(turns))
"""


def test_two_processes_make_it_once(folder, place):
    command = [sys.executable, "-c", READ, str(folder)]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate()[0].split() for process in started]
    assert {checksum for checksum, _ in told} == {told[0][0]} and sorted(turns for _, turns in told) == ["0", "60"]
    assert len(list(place.glob("*.npy"))) == 1 and not list(place.glob("*.lock"))


def test_compressed_and_resized_arrays_are_kept_and_others_stay_where_they_lie(tmp_path, place):
    for path in (own.npz(tmp_path / "a.npz", x=X, y=Y), own.saved(tmp_path / "b", x=X, y=Y)):
        pixels(path).read(ALL)
    assert not list(place.glob("*.npy"))
    pixels(own.npz(tmp_path / "c.npz", np.savez_compressed, x=X, y=Y)).read(ALL)
    assert len(list(place.glob("*.npy"))) == 1


def test_the_folder_follows_the_rules_of_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("BENCH_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "bench"
    for no_choice in ("", "relative"):  # which the rules have ignored
        monkeypatch.setenv("XDG_CACHE_HOME", no_choice)
        assert cache_folder() == tmp_path / ".cache" / "bench"
