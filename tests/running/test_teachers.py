"""Frozen teachers: closed forms, who gets a gradient, whose change changes which id, trained once and shared."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from methods import INNER, Y, bce, ce, cohort, kl, logits
from oracles import small_cnn

from bench.commands.cli import main
from bench.ground.config import UserError
from bench.ground.progress import Progress
from bench.ledger.folder import Results
from bench.ledger.runs import list_runs, read_run
from bench.running.run import TableRun
from bench.running.table import Options
from bench.running.train import Training
from bench.subjects import data
from bench.subjects.catalog import Catalog
from trainers.ard import ARD
from trainers.at import AT
from trainers.contract import Cohort
from trainers.dd import DD
from trainers.mat import MAT
from trainers.mat_offline import MATOffline
from trainers.natural import Natural

LN3 = math.log(3)
SHORT = ("*-digits.schedule.epochs=1", "*-digits.inner.steps=1", "*-digits.schedule.validation_steps=1")


# --- losses --------------------------------------------------------------------------------------------------------


def test_ard_by_hand_with_temperature():
    """T = 2: student (3/4, 1/4), teacher (1/4, 3/4), KL = ln 3 / 2; clean student at T = 1 (9/10, 1/10), label 1."""
    student = torch.tensor([[2 * LN3, 0.0]], dtype=torch.float64, requires_grad=True)
    clean = torch.tensor([[2 * LN3, 0.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[0.0, 2 * LN3]], dtype=torch.float64)
    loss = ARD(INNER, alpha=0.9, temperature=2.0).loss(student, teacher, clean, torch.tensor([1]))
    assert loss.item() == pytest.approx(0.9 * 4 * LN3 / 2 + 0.1 * math.log(10))
    to_student, to_clean = torch.autograd.grad(loss, (student, clean))
    assert to_student[0].tolist() == pytest.approx([0.9 * 2 * (3 / 4 - 1 / 4), -0.9 * 2 * (3 / 4 - 1 / 4)])
    assert to_clean[0].tolist() == pytest.approx([0.1 * 9 / 10, -0.1 * 9 / 10])


def test_ards_reduction_by_classes_and_its_limit_of_logit_matching():
    """T^2 KL -> |centred difference|^2 / (2 K) for large T."""
    student, teacher = logits(0), logits(1)
    batch = ARD(INNER).loss(student, teacher, None, Y)
    assert torch.allclose(ARD(INNER, reduction="mean").loss(student, teacher, None, Y), batch / 4)
    apart = student - teacher
    apart = apart - apart.mean(1, keepdim=True)
    assert ARD(INNER, temperature=1e3).loss(student, teacher, None, Y).item() == pytest.approx(
        (apart.square().sum(1) / (2 * 4)).mean().item(), rel=1e-2
    )


def test_dd_by_hand_and_that_its_gradient_does_not_shrink_with_the_temperature():
    """T = 2: student (3/4, 1/4), teacher (1/4, 3/4): -2 (ln(3/4) / 4 + 3 ln(1/4) / 4); gradient p - q."""
    student = torch.tensor([[2 * LN3, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = DD(INNER, temperature=2.0).loss(student, torch.tensor([[0.0, 2 * LN3]], dtype=torch.float64))
    assert loss.item() == pytest.approx(-2 * (math.log(3 / 4) / 4 + 3 * math.log(1 / 4) / 4))
    (grad,) = torch.autograd.grad(loss, student)
    assert grad[0].tolist() == pytest.approx([1 / 2, -1 / 2])


def test_the_first_stage_of_dd_is_natural_training_at_that_temperature():
    group, x, y = cohort(1)
    out = group.networks[0](x).detach()
    (hot,), (plain,) = (Natural(INNER, temperature=t).batch_loss(group, x, y) for t in (20.0, 1.0))
    assert torch.allclose(hot, 20 * ce(out / 20, y).mean()) and torch.equal(
        plain, Natural(INNER).batch_loss(group, x, y)[0]
    )
    assert torch.allclose(Natural(INNER, loss="bce").batch_loss(group, x, y)[0], bce(out, y).mean())


def test_mat_offline_is_equation_4_of_one_network_with_a_constant_teacher():
    adversarial, teacher = logits(0), logits(1).requires_grad_(True)
    loss = MATOffline(INNER).loss(adversarial, teacher, Y)
    assert torch.allclose(loss, 0.4 * bce(adversarial, Y).mean() + 0.6 * kl(teacher, adversarial).mean())
    assert torch.allclose(loss, MAT(INNER).loss(0, adversarial, [adversarial, teacher], Y))
    alone = MATOffline(INNER, alpha=0.0).batch_loss(*cohort(1))[0]
    assert torch.allclose(alone, AT(INNER, loss="bce").batch_loss(*cohort(1))[0])


@pytest.mark.parametrize("trainer", [ARD(INNER), ARD(INNER, alpha=0.5), DD(INNER), MATOffline(INNER)])
def test_the_student_learns_and_the_teacher_only_speaks(trainer):
    """It sees the clean image in evaluation mode, gets no gradient, and its passes are counted."""
    teacher = torch.nn.Sequential(small_cnn(1, 4, 99), torch.nn.BatchNorm1d(4)).train()
    group, x, y = cohort(1)
    group = Cohort(group.networks, teachers=[teacher])
    seen = []
    teacher.register_forward_hook(lambda module, given, out: seen.append((given[0], module.training, out)))
    before = teacher[1].running_mean.clone()
    group.noise = cohort(1)[0].noise
    (loss,) = trainer.batch_loss(group, x, y)
    ((image, training, out),) = seen
    assert torch.equal(image, x) and not training and not out.requires_grad and teacher.training
    assert torch.equal(teacher[1].running_mean, before)
    grads = torch.autograd.grad(loss, list(teacher.parameters()), retain_graph=True, allow_unused=True)
    assert all(g is None for g in grads)
    assert all(g.norm() > 0 for g in torch.autograd.grad(loss, list(group.networks[0].parameters())))
    attacked = 0 if isinstance(trainer, DD) else INNER.steps
    clean = isinstance(trainer, ARD) and trainer.alpha < 1
    assert group.forward_passes == len(x) * (attacked + 1 + 1 + clean)


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        (ARD(INNER, alpha=0.9, temperature=2.0), lambda s, a, t, y: 0.9 * 4 * kl(t / 2, a / 2) + 0.1 * ce(s, y)),
        (DD(INNER, temperature=2.0), lambda s, a, t, y: -2 * ((t / 2).softmax(1) * (s / 2).softmax(1).log()).sum(1)),
        (MATOffline(INNER, inner_loss="ce"), lambda s, a, t, y: 0.4 * bce(a, y) + 0.6 * kl(t, a)),
    ],
)
def test_a_batch_is_the_formula_on_the_right_images(trainer, expected):
    """s: student on x, a: student on x', t: teacher on x. x' climbs the cross-entropy of the student's labels."""
    from attacks.losses import cross_entropy

    group, x, y = cohort(1)
    x_adv = group.attack(0, x, y, INNER, cross_entropy)
    (loss,) = trainer.batch_loss(group, x, y)
    student, teacher = group.networks[0], group.teachers[0]
    assert torch.allclose(loss, expected(student(x), student(x_adv), teacher(x), y).mean(), atol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ARD(INNER, alpha=1.5), "alpha = 1.5"),
        (lambda: ARD(INNER, temperature=0.0), "temperature = 0"),
        (lambda: DD(INNER, temperature=-1.0), "temperature = -1"),
        (lambda: Natural(INNER, temperature=0.0), "temperature = 0"),
        (lambda: MATOffline(INNER, alpha=-0.5), "alpha = -0.5"),
    ],
)
def test_settings_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# --- identity ------------------------------------------------------------------------------------------------------


def training(name, *assignments, file=None, arch="cnn-small", seed=0):
    recipe = Catalog(file, assignments).recipe(name)
    return Training(recipe, data.load("digits", None), arch, seed, torch.device("cpu"))


def test_the_teachers_change_changes_the_students_id_and_no_other():
    before, hot = training("ard-digits"), training("ard-digits", "trades-digits.beta=5.0")
    assert before.training_id != hot.training_id and before.teacher[1] != hot.teacher[1]
    assert training("at-digits").training_id == training("at-digits", "trades-digits.beta=5.0").training_id
    other = training("ard-digits", "ard-digits.teacher=at-digits")
    assert other.training_id != before.training_id and other.teacher[1] == f"{training('at-digits').training_id}.best"
    assert training("ard-digits", seed=1).teacher[1] == f"{training('trades-digits', seed=1).training_id}.best"


def test_the_teacher_may_be_any_member_and_have_an_architecture_of_its_own():
    member = training("ard-digits", "ard-digits.teacher=mat-digits", "ard-digits.teacher_member=1")
    assert member.teacher[1] == f"{training('mat-digits').training_id}.h2-best"
    large = training("ard-digits", "ard-digits.teacher_arch=resnet8")
    assert large.teacher[1] == f"{training('trades-digits', arch='resnet8').training_id}.best"
    assert large.training_id != training("ard-digits").training_id and large.archs == ("cnn-small",)


def test_a_cohort_of_several_architectures_has_another_id_and_networks():
    change = "mat-digits.archs=['cnn-small','resnet8']"
    mixed = training("mat-digits", change)
    assert mixed.training_id.startswith("mat-digits-cnn-small-resnet8-s0-")
    assert mixed.training_id == training("mat-digits", change, arch="cnn-a").training_id
    first, second = mixed.networks()
    assert type(first) is not type(second) and len(mixed.run_ids) == 4


def test_a_student_does_not_start_where_its_teacher_did():
    student = training("mat-offline-digits")
    (begun,), (taught,) = student.networks(), student.teacher[0].networks()
    (_, second) = training("mat-digits").networks()
    assert not torch.equal(next(begun.parameters()), next(taught.parameters()))
    assert torch.equal(next(begun.parameters()), next(second.parameters())), "as the second network of a cohort"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("ard-digits.teacher=ard-digits", "is its own teacher"),
        ("ard-digits.teacher=trade-digits", "did you mean 'trades-digits'"),
        ("ard-digits.teacher=''", "learns from a frozen teacher"),
        ("ard-digits.teacher_member=1", "teacher_member = 1, but 'trades-digits' trains 1"),
        ("ard-digits.teacher_arch=resnet81", "did you mean 'resnet8'"),
        ("ard-digits.archs=['cnn-small','resnet8']", "archs names 2 networks, but it trains 1"),
        ("ard-digits.archs=['cnn-smal']", "did you mean 'cnn-small'"),
        ("ard-digits.teacher=3", "teacher = 3 does not fit"),
    ],
)
def test_teachers_and_architectures_that_do_not_fit_are_a_sentence(assignment, message):
    with pytest.raises(UserError, match=message):
        Catalog(None, (assignment,)).recipe("ard-digits")
    with pytest.raises(UserError, match="its method learns from none"):
        Catalog(None, ("at-digits.teacher=trades-digits",)).recipe("at-digits")


# --- in a table ----------------------------------------------------------------------------------------------------

SPEC = """
title = "Students of one teacher"
source = "ours"
reference = ""
rows = [{ label = "ARD", method = "ard" }, { label = "offline", method = "mat-offline" }]
columns = [{ label = "Clean", attack = "clean" }]
[[settings]]
profile = "digits"
dataset = "digits"
arch = "cnn-small"
datasets = ["digits"]
archs = ["*"]
"""
SHARED = (*SHORT, "ard-digits.teacher=lc-at-digits")


def table(folder: Path, assignments=SHARED):
    spec = folder / "students.toml"
    spec.write_text(SPEC)
    return TableRun(str(spec), Options(Results(folder), images=10, assignments=assignments))


def test_a_missing_teacher_is_trained_once_and_first_and_is_in_the_record(tmp_path):
    job = table(tmp_path)
    (teacher,) = set(job.plan.teachers.values())
    lines = [line.split()[1] for line in job.describe() if line.startswith("  train")]
    assert lines[0] == teacher.removesuffix(".best") and len(lines) == 3
    assert set(job.plan.teachers) == set(lines[1:]), "both students name it in the plan"
    summary = job.execute(Progress(quiet=True))
    assert (summary.trained, summary.attacked, summary.failures) == (3, 2, [])
    for run_id in {cell.run_id for cell in job.plan.cells}:
        record = read_run(job.results, run_id)
        assert record.teacher.run_id == teacher
        assert record.teacher.weights_sha256 == read_run(job.results, teacher).weights_sha256
    assert read_run(job.results, teacher).teacher is None
    assert not [line for line in table(tmp_path).describe() if "train " in line]


@pytest.mark.slow
def test_a_teacher_that_is_gone_is_trained_again_only_where_a_student_is_missing(tmp_path):
    job = table(tmp_path)
    job.execute(Progress(quiet=True))
    (teacher,) = set(job.plan.teachers.values())
    job.results.run(teacher).unlink()
    assert not [line for line in table(tmp_path).describe() if "train " in line]
    job.results.run(job.plan.cells[0].run_id).unlink()
    again = [line.split()[1] for line in table(tmp_path).describe() if "train " in line]
    assert again == [teacher.removesuffix(".best"), job.plan.cells[0].training_id]


def test_students_of_a_teacher_that_failed_are_errors_with_that_reason(tmp_path):
    summary = table(tmp_path, (*SHARED, "lc-at-digits.schedule.lr=1e30")).execute(Progress(quiet=True))
    assert summary.trained == 0 and len(summary.failures) == 3
    assert "the loss became" in summary.failures[0]
    assert all("its teacher at-digits-" in failure for failure in summary.failures[1:])


@pytest.mark.slow
def test_the_train_command_trains_the_teacher_first_and_a_mixed_cohort(tmp_path, capsys):
    settings = [part for one in SHORT for part in ("--set", one)]
    assert main(["train", "dd-digits", *settings, "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split()[0].startswith("dd-digits-cnn-small-s0-")
    assert {run.split("-")[0] for run in list_runs(Results(tmp_path))} == {"dd", "natural"}
    mixed = ["--set", "mat-digits.archs=['cnn-small','resnet8']"]
    assert main(["train", "mat-digits", *settings, *mixed, "--results", str(tmp_path)]) == 0
    runs = capsys.readouterr().out.split()
    assert [read_run(Results(tmp_path), run).arch for run in runs] == ["cnn-small", "resnet8"] * 2
    assert main(["attack", runs[1], "fgsm-digits", "--images", "5", "--results", str(tmp_path)]) == 0


def test_table_1_is_the_papers(capsys):
    """Teacher, student, form of distillation, several perturbations: MAT (arXiv:2112.05005v1), Table 1."""
    assert main(["list", "table1"]) == 0
    rows = {line[:28].strip(): line[28:].split() for line in capsys.readouterr().out.splitlines()}
    assert rows["dd"] == ["natural", "natural", "offline", "no"]
    assert rows["ard"] == ["robust", "robust", "offline", "no"]
    assert rows["saad"] == ["robust", "robust", "offline", "no"]
    assert rows["adr"] == ["robust", "robust", "online", "no"], "its own average"
    assert not {"ikl", "e-at", "ramp"} & set(rows)
    assert rows["act h1"] == ["natural", "robust", "online", "no"]
    assert rows["mat h1"] == ["robust", "robust", "online", "no"]
    assert rows["mat-avg h1"] == ["robust", "robust", "online", "yes"], "the generalist"
    assert rows["mat-natural-offline"] == ["natural", "robust", "offline", "no"] and "at" not in rows
    assert not [row for row in rows if row.startswith("at-")], "networks of an ensemble know nothing of each other"
