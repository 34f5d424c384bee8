"""Short loans of a device: a training that travels between them, parts of data sets, and one table at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from shards import write_shards
from tiny import SCHEDULE, train

from bench.ground.config import UserError
from bench.ledger.folder import Results
from bench.ledger.runs import list_runs, read_run
from bench.running.train import Training
from bench.subjects import data, registry
from bench.subjects.catalog import Catalog
from benchmarks.gpu import compact, images, measure, parcel, pieces, sizes, steps, training
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.compact import ALL, LADDER, Bits, grow, shrink
from benchmarks.gpu.training import Loan
from trainers.checkpoint import Checkpoint
from trainers.validation import Split

LIBRARIES = ("foolbox", "torchattacks", "pyautoattack")
SHORT = (
    "at-digits.schedule.epochs=3", "at-digits.schedule.batch_size=128", "at-digits.inner.steps=1",
    "at-digits.schedule.validation_steps=1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def tensors_of_tiny_networks_are_large(monkeypatch):
    monkeypatch.setattr(compact, "SMALL", 50)


# --- a checkpoint made small ---------------------------------------------------------------------------------------


def checkpoint(tmp_path: Path, method: str, stop: int, **settings: object) -> dict:
    """What the loop wrote after `stop` batches of a training with three an epoch; where it ends, the epoch is whole."""
    path, left = tmp_path / f"{method}-{stop}.pt", [stop]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0 and stop % 3:
            raise KeyboardInterrupt

    def epoch_done(report: object) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt

    watch = {"on_step": count, "on_epoch": epoch_done}
    with pytest.raises(KeyboardInterrupt):
        train(method, replace(SCHEDULE, **settings), checkpoint=path, identity="a", minutes=0, **watch)
    return Checkpoint(path, "a", 0).read()


def tensors(value: object, path: str = "") -> dict[str, torch.Tensor]:
    """Every tensor in it, by its place."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {name: found for key, part in parts for name, found in tensors(part, f"{path}/{key}").items()}


@pytest.mark.parametrize(("method", "stop", "settings"), [("mat", 6, {}), ("at", 7, {}), ("at", 6, {"ema": 0.9})])
def test_where_every_bit_fits_every_bit_comes_back(tmp_path: Path, method: str, stop: int, settings: dict):
    """At an epoch's end and within one; there the last epoch is left out, which is replaced before it is looked at."""
    content = checkpoint(tmp_path, method, stop, **settings)
    blob, bits = shrink(content, 1 << 24)
    back = grow(blob)
    assert bits == Bits() and "exactly" in bits.words
    before, after = tensors(content), tensors(back)
    assert bool(content["partial"]["batches"]) == bool(stop % 3)
    if content["partial"]["batches"]:
        assert not any("/last/" in name for name in after)
        before = {name: value for name, value in before.items() if "/last/" not in name}
    assert any("/best/" in name and value.numel() >= compact.SMALL for name, value in before.items())
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert {key: back[key] for key in ("history", "run_as")} == {key: content[key] for key in ("history", "run_as")}


@pytest.mark.parametrize("bits", LADDER)
def test_what_is_rounded_is_off_by_no_more_than_is_said(tmp_path: Path, bits: Bits):
    content = checkpoint(tmp_path, "mat", 7, ema=0.9)
    parts = compact._Parts(content)
    back = tensors(grow(compact._saved(parts.made(bits))))
    allowed = {"networks": bits.weights, "optimizers": bits.momenta, "averages": bits.best, "best": bits.best}
    rounded = set()
    for name, value in tensors(content).items():
        kind = name.split("/")[1]
        if kind not in allowed or not value.is_floating_point():
            continue
        off = (back[name] - value).abs() / value.abs().clamp_min(1e-30)
        assert off.max() <= 2.0 ** -(allowed[kind] + 1) if value.numel() >= compact.SMALL else off.max() == 0
        rounded |= {kind} if off.max() else set()
    assert rounded == {kind for kind, kept in allowed.items() if kept < ALL}


def test_values_that_are_no_numbers_come_back_as_they_were():
    odd = torch.tensor([float("inf"), float("-inf"), 0.0, -0.0, 1e-42, -1.0]).repeat(compact.SMALL)
    back = compact._unpacked(compact._packed({"w": odd}, 7))["w"]
    assert torch.equal(back[:4].view(torch.int32), odd[:4].view(torch.int32)) and back[5] == -1


def test_the_most_exact_that_fits_is_taken_and_what_never_fits_is_a_sentence(tmp_path: Path):
    content = checkpoint(tmp_path, "mat", 6)
    parts = compact._Parts(content)
    room = {bits: parts.size(bits) for bits in LADDER}
    assert room[LADDER[0]] > room[Bits(23, 7, 7)] > room[Bits(7, 3, 7)] > room[LADDER[-1]]
    exact = len(shrink(content, 1 << 24)[0])
    blob, bits = shrink(content, exact - 1)
    assert bits == LADDER[1] and len(blob) < exact and "momenta in bfloat16" in bits.words
    with pytest.raises(UserError, match=r"takes \d+\.\d MiB at the coarsest, and 0\.0 MiB may travel"):
        shrink(content, 1000)


# --- pieces --------------------------------------------------------------------------------------------------------


def test_pieces_are_the_whole_again_and_a_bad_or_missing_one_is_a_sentence(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 100)
    pieces.cut(tmp_path, "state", b"older", {})
    blob = bytes(range(256))
    manifest = pieces.cut(tmp_path, "state", blob, {"more": 1})
    assert pieces.joined(manifest) == blob and pieces.manifest_of(manifest)["more"] == 1
    found = sorted(tmp_path.glob("*.bin"))
    assert [path.stat().st_size for path in found] == [100, 100, 56], "the older one is gone"
    found[1].write_bytes(b"x" * 100)
    with pytest.raises(UserError, match=f"{found[1].name} is not what"):
        pieces.joined(manifest)
    found[1].unlink()
    with pytest.raises(UserError, match=f"needs {found[1].name}, which is not beside it"):
        pieces.joined(manifest)
    manifest.write_text("{}")
    with pytest.raises(UserError, match="is no manifest of pieces"):
        pieces.manifest_of(manifest)


# --- a training from loan to loan ----------------------------------------------------------------------------------


def loan(tmp_path: Path, recipe: str = "at-digits", **given: object) -> Loan:
    """On digits, in short epochs of 9 batches; each loan has results of its own, as on a bare machine."""
    number = len(list(tmp_path.glob("results-*")))
    settings = {
        "state": tmp_path / "state",
        "dataset": "digits",
        "arch": "cnn-small",
        "assignments": SHORT,
        "reserve": 0.0,
        "device": "cpu",
    }
    results = Results(tmp_path / f"results-{number}")
    results.root.mkdir()
    return Loan(recipe, results=results, seconds=1e6, **settings | given)


def lines(folder: Path) -> list[dict]:
    """Of every epoch, without what the clock says."""
    kept = ("epoch", "loss", "clean", "robust", "single_step", "forward_passes")
    return [
        {key: line[key] for key in kept} for line in map(json.loads, (folder / "epochs.jsonl").read_text().splitlines())
    ]


def trained_at_once(tmp_path: Path, recipe: str, assignments: tuple[str, ...]) -> tuple[Results, list[str]]:
    """What `bench train` makes of the same."""
    results, one = Results(tmp_path / "whole"), Catalog(assignments=assignments).recipe(recipe)
    whole = Training(one, data.load("digits"), "cnn-small", 0, torch.device("cpu"))
    with training.Progress(quiet=True) as progress:
        whole.run(results, progress)
    return results, whole.run_ids


@pytest.mark.parametrize("recipe", ["at-digits", pytest.param("mat-digits", marks=pytest.mark.slow)])
def test_three_short_loans_are_one_long_training_to_the_bit(tmp_path: Path, recipe: str):
    own = (*(one.replace("at-digits", recipe) for one in SHORT), f"{recipe}.schedule.ema=0.9")
    whole, ids = trained_at_once(tmp_path, recipe, own)
    for batches, over in ((13, False), (4, False), (0, True)):  # within an epoch, and at the end of one
        assert training.train(loan(tmp_path, recipe, assignments=own, batches=batches), Clock(1e6)) is over
    loans = json.loads((tmp_path / "state" / "state.json").read_text())["loans"]
    assert [one["progress"] for one in loans] == [[1, 5], [2, 0], [3, 0]]
    assert len(list((tmp_path / "state").iterdir())) <= 8
    last = Results(tmp_path / "results-2")
    for run_id in ids:
        ours, theirs = read_run(last, run_id), read_run(whole, run_id)
        assert (ours.weights_sha256, ours.validation, ours.epoch) == (
            theirs.weights_sha256, theirs.validation, theirs.epoch,
        )  # fmt: skip
        assert ours.run_as == theirs.run_as == "", "nothing was rounded, so there is nothing to say"
    assert [line["epoch"] for line in lines(tmp_path / "state")] == [1, 2, 3]


@pytest.mark.slow
def test_what_is_rounded_between_loans_is_as_close_as_said_and_said_in_the_records(tmp_path: Path, capsys):
    whole = loan(tmp_path, batches=13)
    training.train(whole, Clock(1e6))
    path = next(whole.results.root.rglob("checkpoint.pt"))
    exact = Checkpoint(path, path.parent.name, 0).read()
    room = compact._Parts(exact).size(Bits(7, 3, 7)) + 40_000
    for _ in range(2):  # the second time from a state that is rounded, but on the machine where the exact one lies
        training.train(replace(whole, most=room, batches=1), Clock(1e6))
    manifest = json.loads((tmp_path / "state" / "state.json").read_text())
    assert [one["resumed"].partition(",")[0] for one in manifest["loans"]] == [
        "from the beginning", *2 * ["from the checkpoint in the results folder"],
    ]  # fmt: skip
    assert manifest["kept"]["weights"] < 23
    exact = Checkpoint(path, path.parent.name, 0).read()
    back = grow(pieces.joined(tmp_path / "state" / "state.json"))
    for name, value in exact["networks"][0].items():
        assert torch.allclose(back["networks"][0][name], value, rtol=2.0 ** -(manifest["kept"]["weights"] + 1), atol=0)
    last = loan(tmp_path)
    assert training.train(last, Clock(1e6))
    record = read_run(last.results, list_runs(last.results)[0])
    assert record.run_as == f"stopped and went on 1 times {manifest['resumes']}"
    assert record.epoch in (1, 2, 3) and registry.load(last.results, record.run_id)[1] == record
    assert f"from there it goes on {manifest['resumes']}" in capsys.readouterr().out


def test_a_loan_ends_before_its_last_second_and_says_how_to_go_on(tmp_path: Path, capsys):
    ticks = iter(range(10_000))
    clock = Clock(100, now=lambda: float(next(ticks)))  # a second passes whenever it is looked at
    one = loan(tmp_path, reserve=80.0)
    assert not training.train(one, clock)
    assert 75 < clock.left <= 80, "a batch or two after only the reserve was left"
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("go on: benchmarks/gpu.sh train at-digits --arch cnn-small --dataset digits --state")
    command = said[-1].split("gpu.sh ")[1].split()
    command[command.index("--seconds") + 1] = "1000"
    assert main([*command, "--device", "cpu"]) == 0 and "finished" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"5 of 1000000 s are left, and 40 are kept for the checkpoint"):
        training.train(loan(tmp_path, state=tmp_path / "new", reserve=40.0), Clock(5))


def test_a_state_of_another_training_and_a_teacher_that_is_not_there_are_sentences(tmp_path: Path):
    training.train(loan(tmp_path, batches=2), Clock(1e6))
    with pytest.raises(UserError, match="is the state of another training, at-digits-cnn-small-s0"):
        training.train(loan(tmp_path, seed=1), Clock(1e6))
    with pytest.raises(UserError, match="ard-digits learns from trades-digits, which is not in"):
        training.train(loan(tmp_path, "ard-digits", state=tmp_path / "ard", assignments=()), Clock(1e6))


def test_networks_travel_in_parts_and_are_registered_elsewhere(tmp_path: Path, monkeypatch):
    one = loan(tmp_path)
    training.train(one, Clock(1e6))
    monkeypatch.setattr(pieces, "PIECE", 200_000)
    (name,) = {run.rpartition(".")[0] for run in list_runs(one.results)}
    said = [parcel.carry(one.results, name, tmp_path / f"part-{part}", part)[0] for part in (1, 2)]
    assert "part 1 of 2" in said[0] and "join" in said[1]
    there, folders = Results(tmp_path / "there"), (tmp_path / "part-1", tmp_path / "part-2")
    with pytest.raises(UserError, match="bring all of its pieces"):
        parcel.join(folders[:1], there)
    parcel.join(folders, there)
    for run in list_runs(one.results):
        assert registry.load(there, run)[1] == read_run(one.results, run)
    there.run(f"{name}.best").write_text("another")
    with pytest.raises(UserError, match="is there already, and is another"):
        parcel.join(folders, there)
    with pytest.raises(UserError, match=r"--part 3: .* has parts 1 to 2"):
        parcel.carry(one.results, name, tmp_path, 3)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.json", "runs/../../x.json", "runs"])
def test_what_would_lie_outside_of_the_results_is_refused(name):
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE if name == "runs" else tarfile.REGTYPE
    with pytest.raises(UserError, match="is no file inside a results folder"):
        parcel._inside(member, Path("manifest.json"))


# --- a part of a data set ------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two training shards and a test shard of 15 random images each."""
    for split, count in (("train", 2), ("test", 1)):
        write_shards(tmp_path / "data" / "cifar10", "cifar10", split, count, seed=5 * count)
    return tmp_path / "data"


@pytest.mark.filterwarnings("ignore")
def test_one_shard_is_used_where_only_it_arrived_and_everything_says_so(shards: Path, tmp_path: Path, capsys):
    whole, nothing = images.load("cifar10", shards)
    assert nothing == "" and len(whole.train) + len(whole.validation) == 30
    everything = torch.cat([whole.train.x, whole.validation.x])
    first = (shards / "cifar10" / "train-00000-of-00002.parquet").rename(shards / "kept")
    part, missing = images.load("cifar10", shards)
    assert missing == "1 of 2 train shards; so 15 training and 15 test images" and missing in part.source
    second = everything[torch.cat([whole.train.ids, whole.validation.ids]) >= 15]
    ours = torch.cat([part.train.x, part.validation.x])
    assert sorted(x.sum().item() for x in ours) == sorted(x.sum().item() for x in second), "the second shard's"
    quick = ("at-quick.schedule.epochs=1", "at-quick.inner.steps=1")
    one = loan(tmp_path, "at-quick", dataset="cifar10", data=shards, arch="cnn-a", assignments=quick)
    assert training.train(one, Clock(1e6)) and f"data: {missing}" in capsys.readouterr().out
    assert {read_run(one.results, run).run_as for run in list_runs(one.results)} == {missing}
    first.unlink()
    (shards / "cifar10" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match="holds no test"):
        images.load("cifar10", shards)


@pytest.mark.filterwarnings("ignore")
def test_loads_put_together_are_the_data_set(shards: Path, tmp_path: Path):
    loads = images.pack("cifar10", shards, tmp_path / "loads")
    assert len(loads) == 2 and all(len(list(load.iterdir())) == 2 for load in loads)
    one = images.load("cifar10", loads[0])
    assert (len(one[0].test), one[1]) == (
        8,
        "1 of 2 train shards; 1 of 2 test shards; so 15 training and 8 test images",
    )
    for path in loads[1].iterdir():
        path.rename(loads[0] / path.name)
    both, whole = images.load("cifar10", loads[0])[0], images.load("cifar10", shards)[0]
    assert (both.train.sha256, both.test.sha256) == (whole.train.sha256, whole.test.sha256)


# --- the measurement -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_measurement_needs_no_library_and_no_compiler_and_prints_one_table(shards: Path, tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({LIBRARIES}))\n")
    environment = os.environ | {
        "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path), "CXX": "/nonexistent",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    }  # fmt: skip
    script = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"
    command = [str(script), "measure", "--size", "tiny", "--data", str(shards), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    table = (tmp_path / "out" / "table.md").read_text()
    assert table in done.stdout and done.stdout.count("| what ") == 1
    found = [json.loads(line) for line in (tmp_path / "out" / "figures.jsonl").read_text().splitlines()]
    assert all(line["device"].startswith("cpu") and line["torch"] and line["date"] for line in found)
    by = {(line["section"].partition(",")[0], line["row"]): line for line in found}
    has_bf16 = ("ceiling", "bf16 matrix product") in by
    product = by["ceiling", "bf16 matrix product" if has_bf16 else "float32 matrix product"]
    assert by["ceiling", "copy"]["bytes_per_second"] and product["operations_per_second"]
    for name in ("AT, none", "AT, channels last", "AT, not compiled", "TRADES, not compiled"):
        assert by["s an epoch", name]["seconds_per_epoch"] > 0 and 0 < by["s an epoch", name]["share_of_product"]
    for row in (by["s an epoch", "AT, bf16"], by["PGD-2", "ours, bf16 gradients"]):
        assert "seconds_per_epoch" in row or "seconds" in row if has_bf16 else "slower than float32" in row["note"]
    assert by["s an epoch", "AT, compiled"]["note"].startswith("no compiler here")
    assert by["s an epoch", "AT, all, CUDA graphs"]["note"] == "only on a GPU"
    for library in ("foolbox", "torchattacks"):
        assert by["PGD-2", library]["value"] == "not installed"
    assert by["PGD-2", "ours, compiled"]["note"].startswith("no compiler here")
    assert 0 <= by["PGD-2", "ours"]["robust_accuracy"] <= 1 and by["AutoAttack", "ours"]["seconds"] > 0


def test_cuda_graphs_are_asked_for_while_code_is_compiled_and_those_left_out_are_counted(monkeypatch):
    """On a CPU they are only asked for; what inductor leaves out is in its counter, and then in the row's note."""
    photos = Split(torch.zeros(16, 3, 32, 32, dtype=torch.uint8), torch.arange(16) % 10, torch.arange(16))
    contender = steps.Contender("at", "cnn-a", 8, 1, photos, steps.Levers(graphs=True), torch.device("cpu"))
    asked = []

    def seconds(self: steps.Contender, epoch: int) -> float:
        asked.append(torch._inductor.config.triton.cudagraphs)
        torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] += 3
        return 1.0

    monkeypatch.setattr(steps.Contender, "_seconds", seconds)
    contender.warm_up()
    contender.take_turn()
    assert asked == [True, False] and contender.note == ", 3 passes left out of the CUDA graphs"
    assert len(contender.run.train.x) == 16 and contender.turns == [1.0]


def test_operations_are_those_of_the_passes():
    """AT with K steps: K forward and backward to the image, one of each to the weights; a convolution by hand."""
    network_a = steps._forward("cnn-a")
    by_hand = 2 * (16 * 16 * 16 * 3 * 16 + 8 * 8 * 32 * 16 * 16 + 2048 * 100 + 1000)
    assert network_a == by_hand
    assert steps.operations("at", "cnn-a", 10) == network_a * (2 * 10 + 3)
    assert steps.operations("mat", "cnn-a", 10) == network_a * 2 * (2 * 10 + 3 * 2)


def measurement(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, slower: str = ""
) -> tuple[measure.Measurement, measure.Log]:
    """On a CPU without a compiler whose bf16 is slower than float32 for that reason, or has none to be so."""
    monkeypatch.setattr(measure.ceilings, "why_not_bf16", lambda device: slower)
    monkeypatch.setattr(measure, "no_compiler", lambda device: "none here")
    log = measure.Log(tmp_path / "out", {"device": "cpu"})
    dataset, cpu = images.load("cifar10", shards)[0], torch.device("cpu")
    return measure.Measurement(log, Clock(1e6), sizes.SIZES["tiny"], dataset, cpu), log


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("slower", ["", "bf16 is 9 times slower than float32 here"])
def test_where_bf16_is_slower_float32_is_the_ceiling_and_what_all_levers_are(
    tmp_path: Path, shards: Path, monkeypatch, slower: str
):
    one, log = measurement(tmp_path, shards, monkeypatch, slower)
    one.run(("levers", "epochs", "attacks"))
    found = [json.loads(line) for line in log.path.read_text().splitlines()]
    kind = "float32" if slower else "bf16"
    assert [line["row"] for line in found if line["section"] == "ceiling"] == ["copy", f"{kind} matrix product"]
    mixed = [line for line in found if "bf16" in line["row"] and line["section"] != "ceiling"]
    assert len(mixed) == 5, "a lever, and two ways of two attacks"
    uncompiled = [line for line in mixed if "compiled" not in line["row"]]
    assert all((line["note"] == slower) if slower else line["value"] != "-" for line in uncompiled)
    trained = [line for line in found if line["row"].endswith(", not compiled")]
    assert len(trained) == 3 and all(line["bf16"] is not bool(slower) and not line["compiled"] for line in trained)


def test_the_faster_product_says_whether_there_is_bf16(monkeypatch):
    rates = {torch.bfloat16: [2.0], torch.float32: [6.0]}
    monkeypatch.setattr(measure.ceilings, "multiplied", lambda device, side, dtype: rates[dtype])
    assert measure.ceilings.why_not_bf16(torch.device("cpu")) == "bf16 is 3 times slower than float32 here"
    rates[torch.bfloat16] = [7.0]
    assert measure.ceilings.why_not_bf16(torch.device("cpu")) == ""


@pytest.mark.filterwarnings("ignore")
def test_a_row_that_fails_is_a_row_and_the_others_are_measured(tmp_path: Path, shards: Path, monkeypatch):
    one, log = measurement(tmp_path, shards, monkeypatch)
    take_turn = steps.Contender.take_turn

    def fails_in_bf16(self: steps.Contender) -> None:
        if self.levers.bf16:
            raise RuntimeError("no such\ninstruction")
        take_turn(self)

    monkeypatch.setattr(steps.Contender, "take_turn", fails_in_bf16)
    one.run(("levers",))
    notes = {row: (value, note) for _, row, value, note in log.rows}
    assert notes["AT, bf16"] == ("-", "failed: RuntimeError: no such instruction") and log.failed
    assert float(notes["AT, channels last"][0]) > 0


@pytest.mark.filterwarnings("ignore")
def test_when_the_time_is_up_what_was_measured_is_told(tmp_path: Path, shards: Path, monkeypatch):
    one, log = measurement(tmp_path, shards, monkeypatch)
    one.size = replace(one.size, turns=1000)
    take_turn, left = steps.Contender.take_turn, [7]

    def ends(self: steps.Contender) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise measure.TimeIsUp
        take_turn(self)

    monkeypatch.setattr(steps.Contender, "take_turn", ends)
    one.run(("levers",))
    assert log.rows[-1][3] == "the time was up" and not log.failed
    told = {row: value for _, row, value, _ in log.rows}
    assert all(float(told[name]) > 0 for name in ("AT, none", "AT, channels last", "AT, bf16"))
    clock = Clock(measure.END + 0.2)
    with measure._ended_by(clock):
        while clock.left > -1:
            pass
    assert clock.left > measure.END - 5, "the alarm came before the end"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("measure --out {0}/o --data {0}/nowhere", "data folder {0}/nowhere does not exist"),
        ("measure --out {0}/o --only epoch", "--only 'epoch' is no section; known: levers, epochs, attacks"),
        ("measure --out {0}/o --then at-paper-short", "needs a folder for its state: --state"),
        ("train at-papershort --state {0}/s --dataset digits", "unknown recipe 'at-papershort'"),
        ("join {0}", "no manifest is there"),
        ("pack --to {0}/l --data {0}", "holds no train-*-of-*.parquet and test-*-of-*.parquet of cifar10"),
        ("carry nothing --to {0}/c --results {0}", "unknown run or training in {0} 'nothing'"),
    ],
)
def test_a_mistake_in_the_command_is_one_sentence(tmp_path: Path, capsys, command: str, words: str):
    assert main(command.format(tmp_path).split()) == 2
    said = capsys.readouterr().err
    assert words.format(tmp_path) in said and said.count("\n") == 1
