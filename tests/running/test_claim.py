"""Anybody's adversarial images, judged on small networks whose answers are known: what falls, what lies outside, and
whether a claim holds.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from attacks.contract import ThreatModel
from attacks.noise import Noise
from attacks.pgd import PGD
from attacks.target import Target
from bench.commands.cli import main
from bench.ledger.evals import read_eval
from bench.ledger.folder import Results
from bench.subjects import data, models

EPS, COUNT = 0.1, 40
BALL = ["--norm", "Linf", "--eps", str(EPS)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained for a moment, so that it is right about most digits, and PGD's images of the first 40."""
    at = tmp_path_factory.mktemp("claims")
    loaded = data.load("digits")
    network = models.create("cnn-a", (1, 8, 8), 10, seed=0).train()
    optimizer = torch.optim.Adam(network.parameters(), 0.003)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(loaded.train.x), loaded.train.y).backward()
        optimizer.step()
    save_file(network.eval().state_dict(), at / "net.safetensors")
    images = loaded.test.head(COUNT)
    attack = PGD(ThreatModel("Linf", EPS), 10, 0.025)
    x_adv = attack(Target(network), images.x, images.y, Noise(0, images.ids))
    np.save(at / "pgd.npy", x_adv.numpy())
    torch.save(network(images.x).argmax(1) == images.y, at / "right.pt")
    torch.save((network(x_adv).argmax(1) == images.y), at / "held.pt")
    return at


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def verify(capsys: pytest.CaptureFixture, file: str, *words: str) -> tuple[int, str]:
    """(exit code, what was said)."""
    command = ["verify", "--adversarial", file, "--model", "net.safetensors", "--arch", "cnn-a"]
    capsys.readouterr()
    code = main([*command, "--dataset", "digits", *words])
    said = capsys.readouterr()
    return code, said.out + said.err


def expected(at: Path, spared: tuple[int, ...] = ()) -> float:
    """Robust accuracy in percent, computed here; those that are spared are judged as they are."""
    right, held = torch.load(at / "right.pt"), torch.load(at / "held.pt")
    held[list(spared)] = True
    return round(100 * float((right & held).double().mean()), 2)


def fallen(at: Path, count: int) -> tuple[int, ...]:
    """Images that PGD breaks, by their place."""
    right, held = torch.load(at / "right.pt"), torch.load(at / "held.pt")
    return tuple((right & ~held).nonzero().flatten()[:count].tolist())


def robust(said: str) -> float:
    match = re.search(r"robust accuracy: ([\d.]+)%", said)
    assert match, said
    return float(match.group(1))


def saved(kind: str) -> str:
    """PGD's images in another layout and format -> the file's name."""
    x = np.load("pgd.npy")
    if kind == "npz":
        np.savez("k.npz", x_adv=x.transpose(0, 2, 3, 1))
    elif kind == "npz of any name":
        np.savez_compressed("k.npz", result=x.astype(np.float64), y=np.arange(len(x)))
    elif kind == "safetensors":
        save_file({"adv": torch.from_numpy(x)}, "k.safetensors")
    elif kind == "tensor":
        torch.save(torch.from_numpy(x), "k.pt")
    elif kind == "AutoAttack's":
        torch.save({"adv_complete": torch.from_numpy(x)}, "k.pth")
    elif kind == "without channels":
        np.save("k.npy", x[:, 0])
    return next(name for name in ("k.npz", "k.safetensors", "k.pt", "k.pth", "k.npy", "pgd.npy") if Path(name).exists())


@pytest.mark.parametrize(
    "kind", ["npy", "npz", "npz of any name", "safetensors", "tensor", "AutoAttack's", "without channels"]
)
def test_images_in_any_layout_and_format_are_judged_the_same(here, capsys, kind):
    for old in here.glob("k.*"):
        old.unlink()
    code, said = verify(capsys, saved(kind), *BALL)
    assert code == 0 and robust(said) == expected(here) < 80, said
    assert f"{COUNT} adversarial images, judged within Linf" in said and "farthest: Linf 0.1" in said
    assert "outside" not in said and "claim" not in said


def test_bytes_are_divided_and_what_rounding_pushes_out_is_outside(here, capsys):
    x = data.load("digits").test.head(COUNT).x.numpy()
    np.save("bytes.npy", np.rint(255 * x).astype(np.uint8))
    code, said = verify(capsys, "bytes.npy", *BALL)
    assert code == 0 and "outside" not in said
    code, said = verify(capsys, "bytes.npy", "--norm", "Linf", "--eps", "1e-4")
    assert code == 0 and "leave Linf 0.0001, and count as not attacked" in said


def test_what_lies_outside_is_counted_and_named_and_never_clipped(here, capsys):
    """Each of these five would fool, were it clipped: its own adversarial image lies inside."""
    x, test = np.load("pgd.npy"), data.load("digits").test
    five = a, b, c, d, e = fallen(here, 5)
    x[a, 0, 0, 0] = -0.01
    x[b, 0, 0, 0] = np.nan
    x[c, 0, 0, 0] = 1.5
    x[d] = test.x[d].numpy() + 1.01 * EPS * np.sign(0.5 - test.x[d].numpy())
    x[e, 0, 0, 0] = np.inf
    np.save("out.npy", x)
    code, said = verify(capsys, "out.npy", *BALL)
    assert code == 0 and robust(said) == expected(here, five) > expected(here)
    box = ", ".join(str(int(test.ids[one])) for one in (a, b, c, e))
    assert f"outside: 4 leave [0, 1], or hold NaN, and count as not attacked: images {box}" in said
    assert f"outside: 1 leave Linf 0.1, and count as not attacked: images {int(test.ids[d])}" in said


@pytest.mark.parametrize(
    ("off", "code", "words"),
    [(0.0, 0, "holds"), (8.0, 0, "holds"), (30.0, 1, "less than claimed"), (-30.0, 1, "so they do not show it")],
)
def test_a_claim_holds_inside_the_interval(here, capsys, off, code, words):
    claim = expected(here) + off
    assert 0 < claim < 100
    found, said = verify(capsys, "pgd.npy", *BALL, "--claim", str(claim))
    assert found == code and words in said.split("claim: ")[1].splitlines()[0], said


def test_images_are_chosen_in_order_by_count_or_by_number(here, capsys):
    test = data.load("digits").test
    x = np.load("pgd.npy")
    _, said = verify(capsys, "pgd.npy", *BALL, "--images", "10")
    right, held = torch.load("right.pt"), torch.load("held.pt")
    assert robust(said) == round(100 * float((right & held)[:10].double().mean()), 2)
    order = [7, 3, 30]
    np.save("some.npy", x[order])
    Path("numbers.txt").write_text("\n".join(map(str, order)))
    code, said = verify(capsys, "some.npy", *BALL, "--indices", "numbers.txt")
    assert code == 0 and f"{len(order)} adversarial images" in said and "outside" not in said
    whole = test.x.numpy().copy()
    whole[:COUNT] = x
    np.save("whole.npy", whole)
    assert verify(capsys, "whole.npy", *BALL, "--indices", "numbers.txt")[1].splitlines()[1:] == said.splitlines()[1:]


def test_what_an_attack_kept_is_taken_as_it_is_and_a_record_is_written_where_results_are_named(here, capsys):
    model = ["net.safetensors", "--arch", "cnn-a", "--dataset", "digits", "--results", "kept"]
    attack = ["attack", model[0], "fgsm-digits", *model[1:], "--images", "30", "--keep-adversarial"]
    assert main(attack) == 0
    accuracy = float(re.search(r"robust accuracy after fgsm-digits: ([\d.]+)%", capsys.readouterr().out).group(1))
    (file,) = Path("kept").glob("evals/*/*.npz")
    radius = ["--norm", "Linf", "--eps", "0.15", "--images", "30"]
    code, said = verify(capsys, str(file), *radius, "--claim", str(accuracy), "--results", "again")
    assert code == 0 and robust(said) == accuracy and "images are judged as they are" in said
    (path,) = Path("again").glob("evals/*/given-*.parquet")
    record = read_eval(Results(Path("again")), path.parent.name, path.stem)
    assert 100 * record.images["robust"].mean() == pytest.approx(accuracy, abs=0.01) and record.eps == 0.15
    assert len(record.settings["file_sha256"]) == 64 and record.settings["outside"] == 0
    verify(capsys, str(file), *radius)
    assert not Path("results").exists(), "without --results nothing is written"
    code, said = verify(capsys, str(file), *BALL, "--images", "2")
    assert code == 2 and "say which were attacked with --images or --indices" in said


@pytest.mark.parametrize(
    ("make", "words", "message"),
    [
        (lambda x: np.save("bad.npy", 255 * x), BALL, "from 0 to 255, and [0, 1] is wanted; divide them by 255"),
        (lambda x: np.save("bad.npy", 4 * x - 2), BALL, "and [0, 1] is wanted; undo the normalisation"),
        (lambda x: np.save("bad.npy", x.repeat(2, 2)), BALL, "images are (1, 16, 8), and those of digits (1, 8, 8)"),
        (lambda x: np.save("bad.npy", x.reshape(len(x), -1)), BALL, "save the adversarial images as x_adv"),
        (lambda x: np.save("bad.npy", x.repeat(20, 0)), BALL, "holds 800 images; digits has 450 test images"),
        (lambda x: np.save("bad.npy", x[:0]), BALL, "there is no image"),
        (lambda x: np.save("bad.npy", x), [*BALL, "--images", "41"], "--images 41: bad.npy holds 40 images"),
        (lambda x: np.save("bad.npy", x), BALL[:2], "--adversarial needs --eps, as in --eps 8/255"),
        (lambda x: np.save("bad.npy", x), ["--norm", "Linf", "--eps", "8"], "did you mean 8/255?"),
        (lambda x: np.save("bad.npy", x), [*BALL, "--claim", "562"], "--claim 562 is no robust accuracy in percent"),
        (lambda x: np.save("bad.npy", x), [*BALL, "--all"], "and --all is about records; leave one out"),
        (lambda x: np.save("bad.npy", x), [*BALL, "table2"], "and 'table2' is about records; leave one out"),
        (lambda x: Path("bad.npy").write_bytes(b"x"), BALL, "bad.npy is no whole .npy file"),
        (lambda x: np.save("bad.npy", np.array([{}])), BALL, "holds Python objects"),
        (lambda x: Path("bad.npy").mkdir(), BALL, "is no plain file, but a folder"),
        (lambda x: None, BALL, "cannot read adversarial images bad.npy: No such file"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(here, capsys, make, words, message):
    if Path("bad.npy").is_dir():
        Path("bad.npy").rmdir()
    Path("bad.npy").unlink(missing_ok=True)
    make(data.load("digits").test.head(COUNT).x.numpy())
    code, said = verify(capsys, "bad.npy", *words)
    assert code == 2 and len(said.splitlines()) == 1 and message in said, said


class Trap:
    """Its pickle leaves a trace when it is read."""

    def __reduce__(self):
        return (Path.touch, (Path("sprung"),))


def test_a_torch_file_never_runs_code(here, capsys):
    torch.save({"x_adv": torch.zeros(4, 1, 8, 8), "more": Trap()}, "trap.pt")
    code, said = verify(capsys, "trap.pt", *BALL)
    assert code == 2 and "holds Python objects, which run code when loaded" in said and not Path("sprung").exists()


def test_originals_of_other_data_are_refused(here, capsys):
    x, test = np.load("pgd.npy"), data.load("digits").test
    np.savez("kept.npz", image=test.ids[:COUNT].numpy(), x_adv=x, x=test.x[1 : COUNT + 1].numpy())
    code, said = verify(capsys, "kept.npz", *BALL)
    assert code == 2 and "is not that of the data set" in said


def test_records_know_their_model_themselves(here, capsys):
    assert main(["verify", "table2", "--model", "net.safetensors"]) == 2
    assert "--model goes with --adversarial" in capsys.readouterr().err
    assert main(["verify"]) == 2 and "say what is to be verified" in capsys.readouterr().err
