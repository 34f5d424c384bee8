"""Laws of bench.judge.verify: what was recorded comes out again, and what was altered is found, image by image."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from attacks.norms import distance
from bench.commands.cli import main
from bench.judge import verify
from bench.ledger import adversarial
from bench.ledger.evals import EvalRecord, read_eval, write_eval
from bench.ledger.folder import Results
from bench.ledger.histories import read_history
from bench.ledger.plan import read_plan
from bench.ledger.runs import list_runs, read_run
from bench.subjects import data

TRAIN = ["--set", "at-digits.schedule.epochs=2", "--set", "at-digits.inner.steps=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network trained for a moment, and records of five kinds; tests work on copies."""
    root = tmp_path_factory.mktemp("verify") / "results"
    where = ["--results", str(root)]
    assert main(["train", "at-digits", *TRAIN, *where]) == 0
    run_id = list_runs(Results(root))[0]
    for attacks in (["clean"], ["fgsm-digits"], ["ddn-digits"], ["fgsm-digits", "pgd-20-digits"]):
        assert main(["attack", run_id, *attacks, "--images", "40", *where]) == 0
    assert main(["attack", run_id, "pgd-20-digits", "--images", "40", "--keep-adversarial", *where]) == 0
    return root


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Results:
    return Results(Path(shutil.copytree(finished, tmp_path / "results")))


def bench(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def read(results: Results, attack: str) -> EvalRecord:
    (path,) = results.eval(list_runs(results)[0], "x").parent.glob(f"{attack}-n40-*.parquet")
    return read_eval(results, path.parent.name, path.stem)


def altered(results: Results, attack: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> EvalRecord:
    record = read(results, attack)
    changed = replace(record, images=change(record.images.copy()))
    write_eval(results, changed)
    return changed


def test_every_record_of_a_run_comes_out_again(results: Results, capsys: pytest.CaptureFixture[str]):
    run_id = list_runs(results)[0]
    code, out, _ = bench(capsys, "verify", run_id, "--results", results.root, "--all")
    assert code == 0 and len(out.splitlines()) == 5 and out.count("all agree") == 5
    fallen = int(adversarial.fooled(read(results, "pgd-20-digits").images).sum())
    assert 0 < fallen < 40 and f"40 of 40 images, {fallen} kept and {40 - fallen} made again" in out
    code, out, _ = bench(capsys, "verify", run_id, "--results", results.root, "--images", "7")
    assert code == 0 and out.count(": 7 of 40 images, ") == 5


def flip(images: pd.DataFrame) -> pd.DataFrame:
    """The first image that is robust is said to be fooled, without a contradiction in the record."""
    place = int(images["robust"].to_numpy().argmax())
    images.loc[place, "adversarial_prediction"] = (images["label"][place] + 1) % 10
    images.loc[place, "robust"] = False
    return images


def test_a_flipped_verdict_is_found_by_its_image(results: Results, capsys: pytest.CaptureFixture[str]):
    before = read(results, "fgsm-digits").images
    record = altered(results, "fgsm-digits", flip)
    image = record.images["image"][int(before["robust"].to_numpy().argmax())]
    code, out, _ = bench(capsys, "verify", record.run_id, "--results", results.root, "--all")
    assert code == 1 and f"  mismatch: image {image}: adversarial prediction" in out and out.count("mismatch:") == 1
    found = [verify.verify(results, record.run_id, record.eval_id, images=10, seed=seed) for seed in range(8)]
    assert {bool(one.mismatches) for one in found} == {True, False}, "a sample sees what is in it"


@pytest.mark.parametrize("column", ["clean_prediction", "l2"])
def test_an_altered_prediction_or_distance_is_found(results: Results, column: str):
    def change(images: pd.DataFrame) -> pd.DataFrame:
        place = int(images["robust"].to_numpy().argmax())
        if column == "l2":
            images.loc[place, "l2"] += 1e-3
        else:
            images.loc[place, ["clean_prediction", "robust"]] = [(images["label"][place] + 1) % 10, False]
        return images

    record = altered(results, "ddn-digits", change)
    found = verify.verify(results, record.run_id, record.eval_id, images=None)
    assert len(found.mismatches) == 1
    assert ("L2 distance" if column == "l2" else "clean prediction") in found.mismatches[0]


@pytest.mark.parametrize("change", [{"seed": 1}, {"settings": {"eps": 0.2}}, {"images_sha256": "0" * 64}])
def test_a_record_that_is_not_what_its_id_says_is_refused(
    results: Results, change: dict, capsys: pytest.CaptureFixture[str]
):
    record = read(results, "fgsm-digits")
    settings = record.settings | {"threat": {"norm": "Linf", "eps": 0.2}} if "settings" in change else record.settings
    write_eval(results, replace(record, **(change | {"settings": settings})))
    code, _, err = bench(capsys, "verify", record.run_id, "--results", results.root)
    assert code == 2 and ("hash to" in err or "images are not those of digits" in err) and len(err.splitlines()) == 1


@pytest.mark.parametrize("attack", ["clean", "fgsm-digits"])
def test_another_label_is_found(results: Results, attack: str):
    """A wrong answer that the record calls right, without a contradiction in the record."""

    def change(images: pd.DataFrame) -> pd.DataFrame:
        wrong = (images["adversarial_prediction"] != images["label"]).to_numpy()
        place = int(wrong.argmax())
        told = images.loc[place, "adversarial_prediction"] if wrong.any() else (images.loc[place, "label"] + 1) % 10
        about = ["label", "clean_prediction", "adversarial_prediction", "robust"]
        images.loc[place, about] = [told, told, told, True]
        return images

    record = altered(results, attack, change)
    found = verify.verify(results, record.run_id, record.eval_id, images=None)
    assert len(found.mismatches) == 1 and "the image is of class" in found.mismatches[0]


@pytest.mark.parametrize(
    ("attack", "eps"), [("fgsm-digits", 0.2), ("ddn-digits", 0.05), ("clean", 0.1), ("fgsm-*-20-digits", 0.2)]
)
def test_another_radius_is_refused(results: Results, attack: str, eps: float, capsys: pytest.CaptureFixture[str]):
    """The radius beside the settings is what turns distances into verdicts, and no id is hashed of it."""
    record = read(results, attack)
    images = record.images.copy()
    far = images["linf" if record.norm == "Linf" else "l2"] > eps * (1 + 1e-5)
    right = images["clean_prediction"] == images["label"]
    stands = images["adversarial_prediction"] == images["label"]
    images["robust"] = right & (stands | far) if attack != "clean" else right
    norm = "Linf" if attack == "clean" else record.norm
    write_eval(results, replace(record, eps=eps, norm=norm, images=images))
    code, out, err = bench(capsys, "verify", record.run_id, "--results", results.root)
    assert code == 2 and f"is judged within {norm} {eps:g}, and its attack is one within" in err
    assert out.count("all agree") == 4, "the other records are replayed all the same"


def test_a_mismatch_outweighs_what_cannot_be_replayed(results: Results, capsys: pytest.CaptureFixture[str]):
    record = altered(results, "fgsm-digits", flip)
    write_eval(results, replace(read(results, "clean"), weights_sha256="0" * 64))
    code, out, err = bench(capsys, "verify", record.run_id, "--results", results.root, "--all")
    assert code == 1 and "mismatch: image" in out and "other weights" in err and out.count("all agree") == 3


def test_other_weights_are_refused(results: Results, capsys: pytest.CaptureFixture[str]):
    record = read(results, "clean")
    write_eval(results, replace(record, weights_sha256="0" * 64))
    code, _, err = bench(capsys, "verify", record.run_id, "--results", results.root)
    assert code == 2 and "other weights" in err


def test_kept_images_are_those_that_fool_and_are_what_is_judged(results: Results):
    record = read(results, "pgd-20-digits")
    kept = adversarial.read(results, record)
    fooled = record.images[adversarial.fooled(record.images)].set_index("image")
    assert set(kept) == set(fooled.index)
    grey = {number: torch.full_like(torch.from_numpy(image), 0.5) for number, image in kept.items()}
    table = record.images.assign(robust=record.images["robust"])
    stack = torch.stack([grey.get(n, torch.zeros(1, 8, 8)) for n in table["image"]])
    digest = adversarial.keep(results, record.run_id, record.eval_id, table, stack.numpy())
    write_eval(results, replace(record, adversarial_sha256=digest))
    found = verify.verify(results, record.run_id, record.eval_id, images=None)
    assert len(found.mismatches) == len(kept) and all("distance" in one for one in found.mismatches)


@pytest.mark.slow
def test_kept_images_that_were_altered_lost_or_are_others_are_told(
    results: Results, capsys: pytest.CaptureFixture[str]
):
    record = read(results, "pgd-20-digits")
    path = results.adversarial(record.run_id, record.eval_id)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    code, _, err = bench(capsys, "verify", record.run_id, "--results", results.root)
    assert code == 2 and "truncated or altered" in err
    path.unlink()
    assert "No such file" in bench(capsys, "verify", record.run_id, "--results", results.root)[2]
    images = record.images.assign(adversarial_prediction=record.images["label"])
    digest = adversarial.keep(results, record.run_id, record.eval_id, images, torch.zeros(40, 1, 8, 8).numpy())
    write_eval(results, replace(record, adversarial_sha256=digest))
    fallen = verify.verify(results, record.run_id, record.eval_id)
    assert fallen.kept == 0 and not fallen.mismatches, "an archive of none leaves all to be made again"


def test_an_image_outside_the_box_is_a_mismatch(results: Results):
    record = read(results, "pgd-20-digits")
    stack = torch.full((40, 1, 8, 8), 1.0 + 1e-6)
    digest = adversarial.keep(results, record.run_id, record.eval_id, record.images, stack.numpy())
    write_eval(results, replace(record, adversarial_sha256=digest))
    found = verify.verify(results, record.run_id, record.eval_id, images=None)
    assert found.mismatches and all("leaves [0, 1]" in one for one in found.mismatches)


@pytest.mark.slow
def test_a_kept_image_outside_every_ball_of_its_attack_is_a_mismatch(results: Results):
    """Another image of the class that was predicted, distances and all: only the balls of MSD tell."""
    run_id = list_runs(results)[0]
    arguments = ["msd-digits", "--images", "40", "--keep-adversarial", "--results", str(results.root)]
    assert main(["attack", run_id, *arguments]) == 0
    record = read(results, "msd-digits")
    assert not verify.verify(results, record.run_id, record.eval_id).mismatches
    table, kept, x = record.images.copy(), adversarial.read(results, record), data.load("digits").test.head(40).x
    right = table["clean_prediction"] == table["label"]
    row, other = next(
        (row, int(same[0]))
        for row in np.flatnonzero(adversarial.fooled(table))
        if len(same := np.flatnonzero(right & (table["label"] == table["adversarial_prediction"][row])))
    )
    x_adv = torch.stack(
        [torch.from_numpy(kept[number]) if number in kept else x[place] for place, number in enumerate(table["image"])]
    )
    x_adv[row] = x[other]
    for norm in ("Linf", "L2", "L1", "L0"):
        table.loc[row, norm.lower()] = float(distance(norm, x[row, None], x[other, None]))
    digest = adversarial.keep(results, record.run_id, record.eval_id, table, x_adv.numpy())
    write_eval(results, replace(record, images=table, adversarial_sha256=digest))
    found = verify.verify(results, record.run_id, record.eval_id, images=None)
    assert found.mismatches == [f"image {table['image'][row]}: the adversarial image is outside the threat model"]


def test_a_nearly_equal_logit_is_within_rounding_and_no_mismatch(results: Results, monkeypatch: pytest.MonkeyPatch):
    record = altered(results, "clean", flip_clean)
    image = int(record.images["image"][0])
    assert verify.verify(results, record.run_id, record.eval_id, images=None).mismatches
    monkeypatch.setattr(verify, "ROUNDING", 1e3)
    found = verify.verify(results, record.run_id, record.eval_id, images=None)
    assert found.mismatches == [] and found.rounding == [image] and f"1 within rounding ({image})" in found.lines[0]


def flip_clean(images: pd.DataFrame) -> pd.DataFrame:
    other = (images["clean_prediction"][0] + 1) % 10
    images.loc[0, ["clean_prediction", "adversarial_prediction", "robust"]] = [other, other, False]
    images.loc[0, "robust"] = bool(images["label"][0] == other)
    return images


def test_an_attack_that_rounding_sends_another_way_is_made_again_with_the_others(
    results: Results, monkeypatch: pytest.MonkeyPatch
):
    """As if an image came out otherwise alone: with all images together it agrees, and is no mismatch."""
    record, whole = read(results, "fgsm-digits"), verify._Replay._make
    sample = np.sort(np.random.default_rng(0).choice(40, 20, replace=False))
    monkeypatch.setattr(
        verify._Replay, "_make", lambda self, places: whole(self, places) * (1.0 if len(places) == 40 else 0.5)
    )
    found = verify.verify(results, record.run_id, record.eval_id)
    assert found.mismatches == [] and set(found.rounding) <= set(record.images["image"][sample]) and found.rounding


def test_what_is_no_run_and_no_table_is_a_sentence(results: Results, capsys: pytest.CaptureFixture[str]):
    code, _, err = bench(capsys, "verify", "table9", "--results", results.root)
    assert code == 2 and "no registered run and no planned table" in err
    code, _, err = bench(capsys, "verify", list_runs(results)[1], "--results", results.root)
    assert code == 2 and "has no eval record" in err


@pytest.mark.slow
def test_a_table_keeps_what_it_is_told_to_and_is_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "t.toml").write_text(
        'title = "t"\nsource = "s"\nreference = ""\nrows = [{ label = "AT", method = "at" }]\n'
        'columns = [{ label = "Clean", attack = "clean" }, { label = "FGSM", attack = "fgsm" },\n'
        '{ label = "from natural", attack = "fgsm", source = "natural" }]\n'
        '[[settings]]\nprofile = "digits"\ndataset = "digits"\narch = "cnn-small"\n'
        'datasets = ["digits"]\narchs = ["*"]\n'
    )
    command = ["run", tmp_path / "t.toml", "--images", "30", *TRAIN, "--results", tmp_path / "r"]
    assert bench(capsys, *command)[0] == 0
    assert not list(tmp_path.rglob("*.npz"))
    (name,) = (path.stem for path in (tmp_path / "r" / "plans").glob("*.json"))
    code, out, _ = bench(capsys, "verify", name, "--all", "--results", tmp_path / "r")
    assert code == 0 and out.count("30 of 30 images, 0 kept and 30 made again") == 3, "also the transferred ones"
    code, out, _ = bench(capsys, *command, "--keep-adversarial")
    assert code == 0 and "attacked 2, kept 1" in out and len(list(tmp_path.rglob("*.npz"))) == 2
    assert "attacked 0, kept 3" in bench(capsys, *command, "--keep-adversarial")[1]
    _check_originals(Results(tmp_path / "r"), name)
    _check_history(Results(tmp_path / "r"), name)
    code, out, _ = bench(capsys, "verify", name, "--results", tmp_path / "r")
    assert code == 0 and out.count("20 of 30 images") == 3


def _check_originals(folder: Results, name: str) -> None:
    """Beside each kept image lies the test image that it was made of."""
    cells = [cell for cell in read_plan(folder, name).cells if cell.column == "FGSM"]
    record = read_eval(folder, cells[0].run_id, cells[0].eval_id)
    test = data.load("digits").test
    pairs, x = adversarial.read_pairs(folder, record), dict(zip(test.ids.tolist(), test.x, strict=True))
    far = record.images.set_index("image")["linf"]
    assert pairs, "FGSM fools somebody"
    for image, pair in pairs.items():
        assert (pair.x == x[image].numpy()).all()
        assert abs(pair.x_adv - pair.x).max() == pytest.approx(far[image], abs=1e-6)


def _check_history(folder: Results, name: str) -> None:
    """The epochs of the training lie beside its records, and say of the best one what its record says."""
    run = read_run(folder, read_plan(folder, name).cells[0].run_id)
    history = read_history(folder, run.training_id)
    assert history is not None and len(history.epochs) == run.settings["schedule"]["epochs"]
    best = history.epochs[run.epoch - 1]
    assert run.validation == {"clean": best.clean[run.member], "robust": best.robust[run.member]}
