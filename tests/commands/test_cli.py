"""The commands, in process: what they do, print and exit with; a failure is never a number."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from attacks.pgd import PGD
from bench.commands.cli import main
from bench.commands.options import complain
from bench.ledger.folder import Results
from bench.ledger.plan import list_plans
from bench.ledger.runs import list_runs
from bench.running import train
from bench.running.recipe import train_recipe
from bench.running.table import Options
from bench.subjects import data, models, registry
from bench.subjects.catalog import Catalog
from trainers.at import AT
from trainers.validation import Split

ROOT = Path(__file__).parents[2]
QUICK = ["--images", "30", "--set", "*-digits.schedule.epochs=1", "--set", "*-digits.inner.steps=2"]
QUICK += [part for name in ("pgd-100", "cw", "fog", "gabor", "elastic") for part in ("--set", f"{name}-digits.steps=3")]


def bench(capsys, *arguments):
    """(exit code, standard output, standard error) of a command."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One small table2, made once; tests work on copies."""
    results = tmp_path_factory.mktemp("table2") / "results"
    assert main(["run", "table2", *QUICK, "--results", str(results)]) == 0
    return results


@pytest.fixture
def results(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "results"))


def test_the_table_has_every_cell_n_and_intervals(results, capsys):
    frame = pd.read_csv(results / "tables" / "table2-digits.csv")
    assert len(frame) == 5 * 7 and (frame["n"] == 30).all() and frame["accuracy_percent"].between(0, 100).all()
    assert (frame["low_percent"] <= frame["accuracy_percent"]).all()
    code, out, _ = bench(capsys, "report", "table2", "--results", results)
    assert code == 0 and "MAT-h2" in out and "95 %" in out and "Linf 0.15" in out and "n = 30" in out


def test_a_second_run_does_nothing(results, capsys):
    before = {
        path: path.stat().st_mtime_ns for path in results.rglob("*") if path.suffix in (".parquet", ".safetensors")
    }
    code, out, _ = bench(capsys, "run", "table2", *QUICK, "--results", results)
    assert code == 0 and "trained 0, attacked 0, kept 35" in out
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_one_changed_attack_reruns_only_its_column(results, capsys):
    changed = [*QUICK, "--set", "pgd-100-digits.steps=4"]
    code, out, _ = bench(capsys, "run", "table2", *changed, "--results", results)
    assert code == 0 and "trained 0, attacked 5, kept 30" in out


def test_a_dry_run_says_what_there_is_to_do_and_does_nothing(results, capsys):
    code, out, _ = bench(capsys, "run", "table2", *QUICK, "--seeds", "0,1", "--results", results, "--dry-run")
    assert code == 0 and "4 trainings and 35 attacks to do; about" in out, "seed 0 says how long they take"
    assert "n = 30 images: a 95 % interval over images will be at most 33.7 points wide" in out
    assert all("-s0-" in run for run in list_runs(Results(results)))


def test_fast_leaves_out_the_slow_columns_and_the_title_says_which(tmp_path, capsys):
    code, out, _ = bench(capsys, "run", "table5", "--fast", "--images", "5", "--results", tmp_path, "--dry-run")
    assert code == 0 and "(fast: without Boundary, Pointwise-L2, C&W, Pointwise-L1)" in out
    assert "boundary-digits" not in out and "deepfool-digits" in out and "estimated)" in out
    assert bench(capsys, "run", "table2", "--fast", "--results", tmp_path)[0] == 2


def test_a_column_is_added_and_the_table_of_the_file_stays(results, capsys):
    before = {path: path.read_bytes() for path in results.glob("tables/table2-digits.*")}
    code, out, _ = bench(capsys, "run", "table2", *QUICK, "--also", "pgd-20-digits", "--results", results)
    assert code == 0 and "trained 0, attacked 5, kept 35" in out and "(also pgd-20)" in out
    frame = pd.read_csv(results / "tables" / "table2-digits-also-pgd-20.csv")
    assert list(frame["column"].unique())[-1] == "pgd-20" and len(frame) == 40
    assert before and before == {path: path.read_bytes() for path in results.glob("tables/table2-digits.*")}


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("pgd-100", "has pgd-100 already, as column 'PGD-100'"),
        ("PGD-100", "has PGD-100 already, as column 'PGD-100'"),
        ("stron", "unknown attack 'stron-digits'; did you mean 'strong-digits'"),
    ],
)
def test_a_column_that_is_there_or_of_no_attack_is_refused(attack, message, tmp_path, capsys):
    code, _, err = bench(capsys, "run", "table2", "--also", attack, "--results", tmp_path, "--dry-run")
    assert code == 2 and message in err


@pytest.mark.slow
def test_the_last_epochs_are_a_table_of_their_own_and_train_nothing_again(results, capsys):
    code, out, _ = bench(capsys, "run", "table2", *QUICK, "--last", "--results", results)
    assert code == 0 and "trained 0, attacked 35, kept 0" in out and "(last epochs)" in out
    (path,) = results.glob("tables/table2-digits-last.csv")
    assert all(run.endswith("last") for run in pd.read_csv(path)["run_ids"])


def test_a_report_can_take_another_row_as_the_baseline(results, capsys):
    assert "below AT on the same images" in bench(capsys, "report", "table2", "--results", results)[1]
    code, out, _ = bench(capsys, "report", "table2", "--baseline", "TRADES", "--results", results)
    assert code == 0 and "below TRADES on the same images" in out and "below AT on" not in out
    code, _, told = bench(capsys, "report", "table2", "--baseline", "TRADE", "--results", results)
    assert code == 2 and "row of table2-digits" in told and "did you mean 'TRADES'" in told


def test_a_run_says_at_once_which_recipes_it_takes(tmp_path, capsys):
    given = ("run", "table2", "--results", tmp_path, "--dry-run")
    assert "recipes of profile 'digits'. Digits are 8x8 grey images" in bench(capsys, *given)[1]


def test_a_cell_that_crashes_is_an_error_and_the_others_are_finished(results, capsys, monkeypatch):
    for path in results.glob("evals/at-*/pgd-100*"):
        path.unlink()
    for path in results.glob("evals/at-*/fog*"):
        path.unlink()
    whole = PGD.__call__

    def crash(self, target, x, y, noise):
        raise RuntimeError("out of memory") if self.steps > 1 else None

    monkeypatch.setattr(PGD, "__call__", crash)
    code, out, err = bench(capsys, "run", "table2", *QUICK, "--results", results)
    assert code == 1 and "AT / PGD-100: RuntimeError: out of memory" in err and "attacked 1, kept 33" in out
    row = next(line for line in out.splitlines() if line.startswith("AT "))
    assert "error" in row
    frame = pd.read_csv(results / "tables" / "table2-digits.csv")
    broken = frame[(frame["row"] == "AT") & (frame["column"] == "PGD-100")].iloc[0]
    assert pd.isna(broken["accuracy_percent"]) and "out of memory" in broken["error"]
    assert bench(capsys, "check", "table2", "--results", results)[0] in (1, 2)
    monkeypatch.setattr(PGD, "__call__", whole)
    code, out, _ = bench(capsys, "run", "table2", *QUICK, "--results", results)
    assert code == 0 and "attacked 1, kept 34" in out and not list(results.rglob("*.error.json"))


@pytest.mark.slow
def test_a_training_that_diverges_is_an_error_row(tmp_path, capsys):
    arguments = ["run", "table2", *QUICK, "--set", "at-digits.schedule.lr=1e30", "--results", tmp_path]
    code, out, err = bench(capsys, *arguments)
    assert code == 1 and "the loss became" in err and "trained 3, attacked 28" in out
    assert next(line for line in out.splitlines() if line.startswith("AT ")).count("error") == 7


def test_weights_that_were_altered_are_refused(results, capsys):
    path = next(results.glob("runs/at-*/best.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    run_id = f"{path.parent.name}.best"
    code, _, err = bench(capsys, "attack", run_id, "pgd-20-digits", "--results", results)
    assert code == 2 and "truncated or altered" in err


def test_attack_on_a_registered_run_writes_a_record_and_prints_what_people_look_for(results, capsys):
    run_id = next(run for run in list_runs(Results(results)) if run.endswith(".best"))
    code, out, _ = bench(
        capsys, "attack", run_id, "pgd-20-digits", "--images", "40", "--eps", "1/10", "--results", results
    )
    assert code == 0 and "robust accuracy after pgd-20-digits: " in out and "max Linf perturbation: 0.1" in out
    assert list((results / "evals" / run_id).glob("pgd-20-digits-n40-*.parquet"))


def test_steps_in_l1_that_are_too_wide_for_small_images_are_told_with_what_is_stronger(results, capsys):
    run_id = next(run for run in list_runs(Results(results)) if run.startswith("at-"))
    l1 = ("--norm", "L1", "--eps", "1.25")
    given = ("attack", run_id, "pgd-20-digits", *l1, "--images", "200", "--results", results)
    _, wide, _ = bench(capsys, *given)
    told = "go to 5 to 20 of the 64 values of an image, too many to be strong; try --set pgd-20-digits.l1_pixels=[1,4]"
    assert told in wide
    _, narrow, _ = bench(capsys, *given, "--set", "pgd-20-digits.l1_pixels=[1,4]")
    assert "values of an image" not in narrow
    fallen = [int(re.search(r"(\d+) of the \d+ images that were right fall", out)[1]) for out in (wide, narrow)]
    assert fallen[0] + 20 < fallen[1]
    own = ("run", "table2", "--results", results, "--dry-run", "--set", "pgd-100-digits.threat.norm=L1")
    assert "pgd-100-digits: its steps in L1 go to 5 to 20 of the 64" in bench(capsys, *own)[1]


def test_attack_on_a_users_own_model(tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "my_model", raising=False)  # another test's
    (tmp_path / "my_model.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def good():\n    torch.manual_seed(0)\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "def soft():\n    return nn.Sequential(good(), nn.Softmax(1))\n"
        "def few():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    state = torch.random.get_rng_state()
    code, out, _ = bench(capsys, "attack", "my_model:good", "fgsm-digits", "--results", tmp_path)
    assert code == 0 and "clean accuracy" in out and torch.equal(state, torch.random.get_rng_state())
    for factory, message in (("soft", "probabilities"), ("few", "9 classes"), ("gone", "no attribute")):
        code, _, err = bench(capsys, "attack", f"my_model:{factory}", "fgsm-digits", "--results", tmp_path)
        assert code == 2 and err.startswith(f"bench: running the code of my_model:{factory}\n")
        assert message in err and len(err.splitlines()) == 2


@pytest.mark.slow
def test_a_checkpoint_that_test_images_chose_is_no_number(tmp_path, capsys, monkeypatch):
    """The bug itself: the training is handed the test images as validation images."""

    def leaked(images, device, in_bytes=False):
        images = digits.test if images.sha256 == digits.validation.sha256 else images
        return Split(images.x, images.y, images.ids)

    digits = data.load("digits")
    monkeypatch.setattr(train, "_split", leaked)
    code, _, err = bench(capsys, "run", "table2", *QUICK, "--results", tmp_path)
    assert "error: 35 of 35 cells have no number: AT / Clean, seed 0: its checkpoint was chosen with" in err
    frame = pd.read_csv(tmp_path / "tables" / "table2-digits.csv")
    assert code == 1 and frame["accuracy_percent"].isna().all()
    assert frame["error"].str.contains("chosen with other images than the validation images").all()


def test_train_registers_and_says_the_run_ids(tmp_path, capsys):
    code, out, _ = bench(capsys, "train", "mat-digits", *QUICK[2:6], "--results", tmp_path)
    assert code == 0 and sorted(out.split()) == list_runs(Results(tmp_path)) and len(out.split()) == 4


@pytest.mark.parametrize("name, arch", [("at-quick", "cnn-a"), ("at-paper-wrn", "wrn-34-10"), ("at-paper", "resnet18")])
def test_a_recipe_is_trained_on_the_network_that_its_profile_is_made_for(name, arch, tmp_path, monkeypatch):
    """On digits by another name, which are enough to see it."""
    digits = data.load("digits")
    monkeypatch.setattr(data, "load", lambda *given: replace(digits, name="cifar10"))
    monkeypatch.setattr(train.Training, "to_do", lambda self, results: [])
    (run_id, *_) = train_recipe(name, Options(Results(tmp_path), dataset="cifar10"))
    assert run_id.startswith(f"at-cifar10-{arch}-s0-")


def test_a_damaged_checkpoint_is_a_sentence(tmp_path, capsys):
    digits, recipe = data.load("digits"), Catalog().recipe("at-digits")
    made = train.Training(recipe, digits, "cnn-small", 0, torch.device("cpu"))
    path = Results(tmp_path).training(made.training_id) / "checkpoint.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half of a file")
    code, _, err = bench(capsys, "train", "at-digits", "--results", tmp_path)
    assert code == 1 and f"training at-digits failed: {path} is damaged; delete it" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.slow
def test_an_ensemble_is_registered_beside_its_networks_and_attacked_as_one(tmp_path, capsys):
    (tmp_path / "t.toml").write_text(
        'title = "t"\nsource = "s"\nreference = ""\n'
        'rows = [{ label = "h1", method = "at-ensemble" },\n'
        '{ label = "both", method = "at-ensemble", ensemble = true }]\n'
        'columns = [{ label = "FGSM", attack = "fgsm" }]\n'
        '[[settings]]\nprofile = "digits"\ndataset = "digits"\narch = "cnn-small"\n'
        'datasets = ["digits"]\narchs = ["*"]\n'
    )
    command = ["run", tmp_path / "t.toml", *QUICK[:6], "--results", tmp_path / "r"]
    code, out, err = bench(capsys, *command)
    assert code == 0 and "trained 1, attacked 2" in out, err
    results = Results(tmp_path / "r")
    ids = {run_id.rpartition(".")[2]: run_id for run_id in list_runs(results)}
    assert sorted(ids) == [f"{who}-{which}" for who in ("all", "h1", "h2") for which in ("best", "last")]
    x = data.load("digits").test.x[:30]
    one, two, both = (registry.load(results, ids[f"{who}-best"])[0](x) for who in ("h1", "h2", "all"))
    assert torch.allclose(both.exp(), (one.softmax(1) + two.softmax(1)) / 2, atol=1e-6)
    assert registry.load(results, ids["all-best"])[1].arch == "cnn-small+cnn-small"
    code, out, _ = bench(capsys, "report", tmp_path / "elsewhere" / "t.toml", "--results", results.root)
    assert code == 0 and "both" in out and list_plans(results) == ["t-digits"], "the name of a file, wherever it lies"
    (tmp_path / "t.toml").write_text((tmp_path / "t.toml").read_text().replace("at-ensemble", "mat"))
    code, _, err = bench(capsys, *command)
    assert code == 2 and "row 'both' is an ensemble, but 'mat' makes none" in err


def test_train_and_attack_fail_with_code_1_and_a_sentence(results, tmp_path, capsys, monkeypatch):
    lr = ["--set", "at-digits.schedule.lr=1e30"]
    code, _, err = bench(capsys, "train", "at-digits", *QUICK[2:6], *lr, "--results", tmp_path)
    assert code == 1 and "the loss became" in err and len(err.strip().splitlines()) == 1
    monkeypatch.setattr(PGD, "__call__", lambda self, target, x, y, noise: x + 1)
    run_id = list_runs(Results(results))[0]
    code, _, err = bench(capsys, "attack", run_id, "pgd-20-digits", "--results", results)
    assert code == 1 and "left its threat model" in err and len(err.strip().splitlines()) == 1


def test_a_training_that_crashes_keeps_its_traceback_until_it_works(tmp_path, capsys, monkeypatch):
    command = ["train", "at-digits", *QUICK[2:6], "--results", tmp_path]
    with monkeypatch.context() as broken:
        broken.setattr(AT, "batch_loss", lambda self, *given: 1 / 0)
        code, _, err = bench(capsys, *command)
    (path,) = tmp_path.glob("runs/*/error.json")
    assert code == 1 and "ZeroDivisionError: division by zero" in err and str(path) in err
    assert len(err.strip().splitlines()) == 1 and "<lambda>" in path.read_text()
    assert bench(capsys, *command)[0] == 0 and not path.exists()


@pytest.mark.parametrize("what", ["tables", "recipes", "attacks", "trainers", "table1", "datasets", "models", "runs"])
def test_lists(what, results, capsys):
    code, out, _ = bench(capsys, "list", what, "--results", results)
    assert code == 0 and out.strip()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "tabel2"], "did you mean 'table2'"),
        (["run", "table2", "--dataset", "cifar11"], "did you mean 'cifar10'"),
        (["run", "table2", "--arch", "resnet19"], "did you mean 'resnet18'"),
        (["run", "table2", "--set", "pgd-100-digits.stepz=3"], "unknown key 'stepz'; did you mean"),
        (["run", "table2", "--set", "pgd-101-digits.steps=3"], "did you mean 'pgd-100-digits'"),
        (["run", "table2", "--set", "at-digits.inner.eps=8"], "8/255"),
        (["run", "table2", "--set", "nonsense"], "NAME.KEY=VALUE|NAME.key"),
        (["run", "table2", "--images", "9999"], "there are 450"),
        (["run", "table2", "--seeds", "0;1"], "--seeds 0,1,2"),
        (["run", "table2", "--device", "cuda:7"], "--device cpu"),
        (["run", "table2", "--recipes", "missing.toml"], "missing.toml"),
        (["run", "table2", "--dataset", "cifar10", "--data-dir", "nowhere"], "does not exist"),
        (["run", "table2", "--bogus"], "bogus"),
        (["train", "at-digit"], "did you mean 'at-digits'"),
        (["train", "mat-paper"], "say what 'mat-paper' is to be trained on, as in --dataset cifar10; known: .*mnist"),
        (["attack", "weights.pt", "pgd-20"], "--arch"),
        (["attack", "no-such-run", "pgd-20"], "no registered run"),
        (["attack", "weights.pt", "pgd-20", "--arch", "cnn-a"], "cannot read weights"),
        (["attack", "a:b", "pgd-20", "--eps", "8"], "8/255|No module"),
        (["attack", "a:b", "pgd-20", "--mean", "0.5"], "--std"),
        (["attack", "a:b", "pgd-20", "--eps", "eight"], "not a number"),
        (["list", "table"], "did you mean 'tables'"),
        (["report", "table2"], "bench run table2"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = bench(capsys, *arguments)
    assert code == 2
    assert re.search(message, err), err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err


def test_results_that_cannot_be_written_are_a_sentence(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    code, _, err = bench(capsys, "run", "table2", *QUICK, "--results", blocked / "results")
    assert code == 2 and "cannot write" in err


def test_a_report_replaces_nothing_but_files(results, tmp_path, capsys):
    """Least of all /dev/null; and a link stays one."""
    pipe, target, link = tmp_path / "pipe", tmp_path / "target.md", tmp_path / "link.md"
    os.mkfifo(pipe)
    code, _, err = bench(capsys, "report", "--results", results, "--out", pipe)
    assert code == 2 and "is no plain file" in err and pipe.is_fifo()
    target.write_text("old")
    link.symlink_to(target)
    assert bench(capsys, "report", "--results", results, "--out", link)[0] == 0
    assert link.is_symlink() and "MAT-h2" in target.read_text()


def test_a_file_beside_the_plans_that_is_none_is_named(results, capsys):
    copy = results / "plans" / "table2-digits (1).json"
    copy.write_bytes((results / "plans" / "table2-digits.json").read_bytes())
    code, _, err = bench(capsys, "report", "--results", results)
    assert code == 2 and str(copy) in err and "no name of a plan" in err
    shutil.copy(results / "plans" / "table2-digits.json", results / "plans" / "curve-digits (1).json")
    copy.unlink()
    assert bench(capsys, "report", "table2", "--results", results)[0] == 0, "it is not asked for"


def test_a_setting_of_what_is_not_used_is_refused(results, capsys):
    """pgd-100 is in the suite, but the digits' column is pgd-100-digits: nothing would change."""
    code, _, err = bench(capsys, "run", "table2", "--set", "pgd-100.steps=200", "--dry-run", "--results", results)
    assert code == 2 and "did you mean 'pgd-100-digits'" in err
    command = ["attack", list_runs(Results(results))[0], "fgsm-digits", "--set", "pgd-*-digits.steps=7"]
    code, _, err = bench(capsys, *command, "--images", 3, "--results", results)
    assert code == 2 and "pgd-*-digits" in err and "known: fgsm-digits" in err


def test_a_run_and_a_data_set_that_do_not_fit_are_refused(results, capsys, monkeypatch):
    run_id, whole = list_runs(Results(results))[0], data.load("digits")
    wide = {
        part: replace(getattr(whole, part), pixels=whole.test.x.expand(-1, 3, -1, -1)) for part in ("train", "test")
    }
    monkeypatch.setattr(data, "load", lambda name, *how: replace(whole, name=name, **wide))
    for command in (["attack", run_id, "clean"], ["diagnose", run_id]):
        code, _, err = bench(capsys, *command, "--dataset", "mnist", "--results", results)
        assert code == 2 and "takes images (1, 8, 8) of 10 classes; mnist has (3, 8, 8) of 10" in err


def test_options_of_a_model_of_ones_own_do_not_hinder_the_run_it_is_attacked_from(
    results, tmp_path, capsys, monkeypatch
):
    """--arch, --mean and --std are the weights file's, also where the run is attacked from the file."""
    run_id, weights = list_runs(Results(results))[0], tmp_path / "w.pt"
    torch.save(models.create("resnet8", (1, 8, 8), 10, seed=0).state_dict(), weights)
    options = ["--arch", "resnet8", "--mean", "0.5", "--std", "0.5", "--images", 2, "--results", results]
    for model, source in ((weights, run_id), (run_id, weights)):
        code, _, err = bench(capsys, "attack", model, "pgd-100-last-digits", "--source", source, *options)
        assert code == 0, err
    code, _, err = bench(capsys, "attack", run_id, "pgd-100-last-digits", "--source", run_id, *options)
    assert code == 2 and "leave --arch out" in err


def test_a_model_is_tried_where_it_will_run(tmp_path, capsys, monkeypatch):
    """On the device of the command: a network of a GPU fails on an image of the processor."""
    (tmp_path / "gpu.py").write_text(
        "import torch\n"
        "class Model(torch.nn.Module):\n"
        "    place = 'cpu'\n"
        "    def to(self, device):\n        self.place = 'moved'\n        return self\n"
        "    def forward(self, x):\n"
        "        assert self.place == 'moved', 'on the processor'\n        return x.flatten(1)[:, :10]\n"
        "def make():\n    return Model()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, _, err = bench(capsys, "attack", "gpu:make", "clean", "--images", 2, "--results", tmp_path)
    assert code == 0, err


def test_a_complaint_is_one_line_of_bounded_length(capsys):
    code, _, err = bench(capsys, "run", "table2", "--dataset", "x" * 9000)
    assert code == 2 and len(err) < 1600 and err.startswith("bench: unknown dataset 'xxx") and "known: " in err
    assert complain("of another package:\n  Tried it\n") == 2
    assert capsys.readouterr().err == "bench: of another package: Tried it\n"


def test_a_record_that_cannot_be_read_hides_no_other_run(results, capsys):
    first, *others = list_runs(Results(results))
    Results(results).run(first).write_text("{")
    (results / "runs" / ".hidden").mkdir()
    (results / "runs" / ".hidden" / "best.json").write_text("{}")
    code, out, _ = bench(capsys, "list", "runs", "--results", results)
    assert code == 0 and len(out.splitlines()) == 1 + len(others)
    assert re.search(rf"^{first}  .*is no whole JSON", out, re.M)
    assert all(re.search(rf"^{run}  validation clean [\d.]+%, robust [\d.]+%", out, re.M) for run in others)


def test_a_table_without_a_figure_says_so(results, capsys):
    _, _, err = bench(capsys, "report", "table2", "--figures", "--results", results)
    assert "table2-digits has no figure" in err


def test_an_error_of_ours_is_no_full_output(monkeypatch):
    """A mistake in the code has its traceback, which says where it is."""

    def broken(*given):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("bench.commands.listing.LISTS", {"runs": broken})
    with pytest.raises(BlockingIOError):
        main(["list", "runs"])


def test_what_cannot_be_recorded_is_not_attacked(results, tmp_path, capsys, monkeypatch):
    run_id = list_runs(Results(results))[0]
    evals = results / "evals" / run_id
    shutil.rmtree(evals)
    evals.write_text("in the way")
    monkeypatch.setattr("bench.running.attack.evaluate_audited", lambda *given, **more: pytest.fail("hours were spent"))
    code, _, err = bench(capsys, "attack", run_id, "fgsm-digits", "--results", results)
    assert code == 2 and "cannot make" in err


def test_the_worst_of_many_attacks_has_a_record(results, tmp_path, capsys):
    """Their names together are longer than a file name may be."""
    names, own = ["a" * 120, "b" * 120], tmp_path / "own.toml"
    own.write_text(
        "".join(f"[attacks.{one}]\nattack = 'fgsm'\nthreat = {{ norm = 'Linf', eps = 0.1 }}\n" for one in names)
    )
    command = ["attack", list_runs(Results(results))[0], *names, "--recipes", own, "--images", 2, "--results", results]
    code, out, err = bench(capsys, *command)
    assert code == 0, err
    assert Path(out.splitlines()[-1].removeprefix("record: ")).is_file()


def test_report_needs_no_torch(results):
    code = "import sys; from bench.commands.cli import main; "
    code += "c = main(sys.argv[1:]); sys.exit(c or ('torch' in sys.modules))"
    for style in ("markdown", "csv", "latex", "html"):
        command = [sys.executable, "-c", code, "report", "table2", "--format", style, "--results", str(results)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "MAT-h1" in done.stdout


def test_the_plan_names_the_exact_ids(results):
    plan = json.loads((results / "plans" / "table2-digits.json").read_text())
    for cell in plan["cells"]:
        assert (results / "evals" / cell["run_id"] / f"{cell['eval_id']}.parquet").exists()
