"""Only plain files are read: what waits for ever or never ends is a sentence, for every reader of the suite."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hand_made import eval_record, frame, run_record
from shards import parquet, write_shards

from bench.ground.config import UserError, read_toml
from bench.ground.files import read_json
from bench.ground.plain import read_plain
from bench.ledger import adversarial
from bench.ledger.evals import read_eval
from bench.ledger.folder import Results
from bench.ledger.runs import RunRecord, read_run
from bench.regression.reference import read_reference
from bench.subjects import data
from bench.subjects.chosen import choose_images
from bench.subjects.weights import read_weights
from bench.tables.report import _published

RUN, EVAL = "at-dots-cnn-s0-12345678.best", "cw-n3-12345678"


@pytest.fixture(autouse=True)
def ten_seconds() -> Iterator[None]:
    """A test that hangs fails."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def sparse(path: Path) -> None:
    """A terabyte that takes no room on the disk."""
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)  # a socket's path is short
        one.bind(path.name)


def shard(path: Path) -> object:
    write_shards(path.parent, "mnist", "train", 1, image="image")
    place = path.parent / "train-00000-of-00001.parquet"
    place.unlink()
    path.rename(place)
    return parquet(path.parent, "train", data.DATASETS["mnist"])


def torchvision(path: Path) -> object:
    place = path.parent / "cifar-10-batches-py"
    place.mkdir()
    path.rename(place / "data_batch_1")
    return data.load("cifar10", path.parent)


def record(path: Path) -> object:
    results = Results(path.parent)
    results.run(RUN).parent.mkdir(parents=True)
    path.rename(results.run(RUN))
    return read_run(results, RUN)


def evaluation(path: Path) -> object:
    results = Results(path.parent)
    results.eval(RUN, EVAL).parent.mkdir(parents=True)
    path.rename(results.eval(RUN, EVAL))
    return read_eval(results, RUN, EVAL)


def kept(path: Path) -> object:
    results, head = Results(path.parent), eval_record(RUN, EVAL, frame([True]))
    results.adversarial(RUN, EVAL).parent.mkdir(parents=True)
    path.rename(results.adversarial(RUN, EVAL))
    return adversarial.read(results, replace(head, adversarial_sha256="0" * 64))


READERS: dict[str, Callable[[Path], object]] = {
    "toml": read_toml,
    "json": lambda path: read_json(path, RunRecord),
    "run record": record,
    "eval record": evaluation,
    "kept images": kept,
    "weights.pt": read_weights,
    "weights.safetensors": lambda path: read_weights(path.rename(path.with_suffix(".safetensors"))),
    "shard": shard,
    "torchvision": torchvision,
    "indices": lambda path: choose_images(data.load(), None, path),
    "reference": lambda path: read_reference(path, "tiny-dots"),
    "published": _published,
}


@pytest.mark.parametrize("make", [fifo, endless, folder, sparse, unix_socket], ids=lambda make: make.__name__)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_plain_file_is_a_sentence(reader, make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "given"
    make(path)
    with pytest.raises(UserError, match=r"pipe|device|[Ff]older|[Dd]irectory|larger than|plain file"):
        READERS[reader](path)


def test_a_plain_file_is_read_whole_also_through_a_link(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    assert read_plain(tmp_path / "link") == read_plain(tmp_path / "file", most=3) == b"abc"
    with pytest.raises(OSError, match="larger than the 2 bytes"):
        read_plain(tmp_path / "file", most=2)
    assert run_record(RUN).run_id == RUN
