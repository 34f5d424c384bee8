"""Records and archives that somebody wrote by hand, under a right seal: a sentence from each command."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.commands.cli import main
from bench.ground.files import SEAL, _digest
from bench.ledger import adversarial
from bench.ledger.evals import EvalRecord, read_eval, write_eval
from bench.ledger.folder import Results
from bench.ledger.runs import list_runs

TRAIN = ["--set", "at-digits.schedule.epochs=1", "--set", "at-digits.inner.steps=1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "results"
    assert main(["train", "at-digits", *TRAIN, "--results", str(root)]) == 0
    run_id = list_runs(Results(root))[0]
    assert main(["attack", run_id, "fgsm-digits", "--images", "20", "--keep-adversarial", "--results", str(root)]) == 0
    return root


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Results:
    return Results(Path(shutil.copytree(finished, tmp_path / "results")))


# --- run records ------------------------------------------------------------------------------------------------------

LIES: list[dict[str, object]] = [
    *({"image_shape": shape} for shape in ([1, -8, 8], [1, 8], [-1, 1024], [10**6] * 3, [0, 8, 8], [], [1, 8, 8, 1])),
    *({"image_shape": shape} for shape in ([2**40, 1, 1], [10**30, 8, 8], [60000, 60000, 1], [3, 32, 32], [1, 8, 9])),
    *({"classes": classes} for classes in (0, -1, 1, 10**9, 10**30, 11)),
    *({"member": member} for member in (-1, 10**30)),
    *({"epoch": epoch} for epoch in (-1, 10**30)),
    *({"seed": seed} for seed in (10**30, -(10**30))),
    *({"arch": arch} for arch in ("", "+", "cnn-small+", "resnet18", "cnn-small+cnn-small", "a" * 10**5)),
    {"dataset": "cifar11"},
    {"cost": {"seconds": -1.0}},
]


@pytest.mark.parametrize("command", ["attack", "diagnose", "verify"])
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: "".join(str(lie)[:40]))
def test_a_run_record_that_cannot_be_true_is_a_sentence(results: Results, command: str, lie, capsys):
    run_id = list_runs(results)[0]
    path = results.run(run_id)
    content = json.loads(path.read_text())
    del content[SEAL]
    content |= {name: content[name] | value if isinstance(value, dict) else value for name, value in lie.items()}
    path.write_text(json.dumps(content | {SEAL: _digest(content)}))
    words = [command, run_id, *(["fgsm-digits"] if command == "attack" else []), "--results", str(results.root)]
    words += ["--images", "5", *(["--eps", "0.1"] if command == "diagnose" else [])]
    capsys.readouterr()
    code, told = main(words), capsys.readouterr().err.splitlines()
    if lie == {"dataset": "cifar11"} and command == "verify":
        assert code == 0, "its own record says on which images it was attacked"
        return
    assert code == 2 and told[-1].startswith("bench: ") and len(told[-1]) < 1600, told


# --- archives of kept images ------------------------------------------------------------------------------------------


def read(results: Results) -> EvalRecord:
    (path,) = results.eval(list_runs(results)[0], "x").parent.glob("fgsm-digits-*.parquet")
    return read_eval(results, path.parent.name, path.stem)


def savez(compressed: bool = True, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def lying(dtype: str, shape: str, body: bytes = b"") -> bytes:
    """An array whose header says what it likes."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}"
    header += " " * (63 - (len(header) + 10) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + body


def bomb(count: int) -> bytes:
    """Gigabytes of zeros in megabytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x_adv.npy", "w") as member:
        member.write(lying("<f4", f"({count * 65536}, 1, 8, 8)"))
        for _ in range(count):
            member.write(bytes(1 << 24))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", npy(np.arange(3)))
    return file.getvalue()


def truncated_member(i: np.ndarray, x: np.ndarray) -> bytes:
    content = bytearray(savez(image=i, x_adv=x))
    place = content.find(b"x_adv.npy") + 60
    content[place : place + 40] = bytes(40)
    return bytes(content)


ARCHIVES: dict[str, Callable[[np.ndarray, np.ndarray], bytes]] = {
    "another size": lambda i, x: savez(image=i, x_adv=np.zeros((len(i), 1, 9, 9), np.float32)),
    "more channels": lambda i, x: savez(image=i, x_adv=x.repeat(3, 1)),
    "flat": lambda i, x: savez(image=i, x_adv=x.reshape(len(x), -1)),
    "fewer images": lambda i, x: savez(image=i, x_adv=x[1:]),
    "one image": lambda i, x: savez(image=i, x_adv=x[0]),
    "text": lambda i, x: savez(image=i, x_adv=np.full(x.shape, "a")),
    "text for numbers": lambda i, x: savez(image=i.astype(str), x_adv=x),
    "float64": lambda i, x: savez(image=i, x_adv=x.astype(np.float64)),
    "bytes": lambda i, x: savez(image=i, x_adv=(255 * x).astype(np.uint8)),
    "complex": lambda i, x: savez(image=i, x_adv=x.astype(np.complex64)),
    "dates": lambda i, x: savez(image=i.astype("datetime64[s]"), x_adv=x),
    "fields": lambda i, x: savez(image=i, x_adv=x.view([("a", "<f4")])),
    "big-endian": lambda i, x: savez(image=i, x_adv=x.astype(">f4")),
    "scalars": lambda i, x: savez(image=np.int64(3), x_adv=np.float32(0.5)),
    "ids as a column": lambda i, x: savez(image=i[:, None], x_adv=x),
    "ids as floats": lambda i, x: savez(image=i.astype(float), x_adv=x),
    "ids twice": lambda i, x: savez(image=np.full_like(i, i[0]), x_adv=x),
    "objects": lambda i, x: savez(image=i, x_adv=np.array([{}] * len(x), dtype=object)),
    "names": lambda i, x: savez(images=i, x=x),
    "originals of another size": lambda i, x: savez(image=i, x_adv=x, x=np.zeros((len(i), 1, 9, 9), np.float32)),
    "fewer originals": lambda i, x: savez(image=i, x_adv=x, x=x[1:]),
    "originals as bytes": lambda i, x: savez(image=i, x_adv=x, x=(255 * x).astype(np.uint8)),
    "more": lambda i, x: savez(image=i, x_adv=x, more=x),
    "nothing": lambda i, x: savez(),
    "a bare array": lambda i, x: npy(x),
    "no archive": lambda i, x: b"no archive",
    "empty": lambda i, x: b"",
    "a header of terabytes": lambda i, x: zipped(image=npy(i), x_adv=lying("<f4", "(1099511627776, 1, 8, 8)")),
    "a header below nothing": lambda i, x: zipped(image=npy(i), x_adv=lying("<f4", f"(-{len(i)}, 1, 8, 8)")),
    "a header that is no tuple": lambda i, x: zipped(image=npy(i), x_adv=lying("<f4", "{}")),
    "a header that overflows": lambda i, x: zipped(image=npy(i), x_adv=lying("<f4", f"({2**62}, 4, 1, 1)")),
    "a long header": lambda i, x: zipped(image=npy(i), x_adv=lying("<f4", "(1, " + " " * 60000 + "1, 8, 8)")),
    "a body cut off": lambda i, x: zipped(image=npy(i), x_adv=npy(x)[:-5]),
    "a damaged member": truncated_member,
    "a bomb": lambda i, x: bomb(20),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_of_anything_else_is_a_sentence(results: Results, name: str, capsys):
    record = read(results)
    kept = adversarial.read(results, record)
    content = ARCHIVES[name](np.array(list(kept)), np.stack(list(kept.values())))
    results.adversarial(record.run_id, record.eval_id).write_bytes(content)
    write_eval(results, replace(record, adversarial_sha256=hashlib.sha256(content).hexdigest()))
    capsys.readouterr()
    code, told = main(["verify", record.run_id, "--results", str(results.root), "--all"]), capsys.readouterr().err
    assert code == 2 and len(told.splitlines()) == 1 and ".npz: " in told, told


def test_an_archive_that_is_not_compressed_or_lies_columns_first_is_read(results: Results):
    record = read(results)
    kept = adversarial.read(results, record)
    stack = np.asfortranarray(np.stack(list(kept.values())))
    content = savez(compressed=False, image=np.array(list(kept)), x_adv=stack)
    results.adversarial(record.run_id, record.eval_id).write_bytes(content)
    found = adversarial.read(
        results, replace(record, adversarial_sha256=hashlib.sha256(content).hexdigest()), (1, 8, 8)
    )
    assert found.keys() == kept.keys() and all(np.array_equal(found[n], kept[n]) for n in kept)
