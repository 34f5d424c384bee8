"""Adapters: libraries are imported late, see no more than they should, and what they break is put back or an error."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from attacking import run
from oracles import Linear, saturated_images, small_cnn
from torch import nn

from attacks.adapters import LibraryError, library
from attacks.adapters.autoattack import PyAutoAttack
from attacks.adapters.foolbox import Foolbox
from attacks.adapters.torchattacks import TorchAttacks
from attacks.contract import ThreatModel
from attacks.decision import fooled
from attacks.model import ModelError
from attacks.noise import Noise
from attacks.norms import distance
from attacks.target import Target, _Counted
from bench.ground.config import build
from bench.judge.evaluate import AttackError, check_contract, evaluate
from bench.subjects.catalog import Catalog
from bench.subjects.data import Images
from bench.subjects.fingerprint import fingerprint

LINF, L2, L1 = ThreatModel("Linf", 0.05), ThreatModel("L2", 0.5), ThreatModel("L1", 6.0)
EACH = [
    pytest.param(Foolbox(LINF, "LinfPGD", {"steps": 5}), id="foolbox"),
    pytest.param(TorchAttacks(LINF, "PGD", {"steps": 5}), id="torchattacks"),
    pytest.param(PyAutoAttack(LINF), id="pyautoattack"),
]


@pytest.fixture(autouse=True)
def _short(short_autoattack):
    """The whole file."""


def problem(count=6, model=None, size=12):
    model = small_cnn() if model is None else model
    x = saturated_images(count, (3, size, size), 3)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def constant():
    """Class 0 whatever the image, with a gradient of zero."""
    return Linear(torch.zeros(4, 3 * 12 * 12), torch.tensor([1.0, 0, 0, 0])).eval()


# --- building ---------------------------------------------------------------------------------------------------------


def test_importing_attacks_imports_no_library():
    code = "import attacks, sys; sys.exit(any(m in sys.modules for m in ('foolbox', 'torchattacks', 'pyautoattack')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Foolbox(L2, "l2deepfool"), r"foolbox .* did you mean 'L2DeepFoolAttack'\? It has \d\d that do"),
        (lambda: Foolbox(L2, "zzz"), r"no attack 'zzz' that runs here\. It has \d\d"),
        (lambda: Foolbox(LINF, "GenAttack"), "no attack 'GenAttack'"),
        (lambda: TorchAttacks(LINF, "MIFGSMM"), r"did you mean 'MIFGSM'\? It has 36 that do"),
        (lambda: Foolbox(LINF, "LinfPGD", {"step": 3}), r"no setting 'step' .* steps"),
        (lambda: Foolbox(L2, "L2DeepFoolAttack", {"distance": "L2"}), "no setting 'distance'"),
        (lambda: TorchAttacks(LINF, "PGD", {"eps": 0.3}), r"no setting 'eps' .* alpha, steps, random_start"),
        (lambda: Foolbox(L2, "VirtualAdversarialAttack"), "missing 1 required positional argument: 'steps'"),
        (lambda: Foolbox(L2, "LinfPGD"), "works in Linf, not in L2"),
        (lambda: Foolbox(ThreatModel("own", 1), "L2DeepFoolAttack"), "not in own"),
        (lambda: TorchAttacks(LINF, "PGDL2"), "works in L2, not in Linf"),
        (lambda: TorchAttacks(L1, "FAB"), "works in Linf, L2, not in L1"),
        (lambda: PyAutoAttack(ThreatModel("L0", 3)), "AutoAttack works in"),
        (lambda: Foolbox(LINF, "LinfPGD", batch=0), "batch"),
        (lambda: TorchAttacks(LINF, "PGD", batch=0), "batch"),
        (lambda: PyAutoAttack(LINF, batch=0), "batch"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_built(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "attack, closest",
    [
        (Foolbox(L2, "L2DeepFoolAttack"), True),
        (Foolbox(L2, "HopSkipJumpAttack"), True),
        (Foolbox(L1, "InversionAttack"), True),
        (Foolbox(L2, "L2PGD"), False),
        (Foolbox(ThreatModel("own", 0), "SpatialAttack"), False),
        (TorchAttacks(L2, "CW"), True),
        (TorchAttacks(ThreatModel("L0", 3), "OnePixel"), True),
        (TorchAttacks(LINF, "PIFGSM"), False),
        (TorchAttacks(L2, "FAB"), False),
        (PyAutoAttack(LINF), False),
    ],
)
def test_closest_is_what_the_library_minimises(attack, closest):
    assert attack.closest is closest


def test_the_norms_of_torchattacks_are_those_it_documents():
    attacks = library("torchattacks")
    bounded = 0
    for name in ("Linf", "L2"):
        for kind in attacks.__all__:
            try:
                attack = TorchAttacks(ThreatModel(name, 0.1), kind)
            except ValueError:
                continue
            if not attack.closest:
                bounded += 1
                measures = next(line for line in getattr(attacks, kind).__doc__.splitlines() if "Distance" in line)
                assert name in measures, kind
    assert bounded == 32


def test_settings_come_from_toml_and_may_be_fractions():
    table = {"threat": {"norm": "Linf", "eps": "8/255"}, "name": "LinfPGD"}
    settings = {"abs_stepsize": "2/255", "steps": 3, "random_start": False}
    attack = build(Foolbox, table | {"settings": settings}, "it")
    assert attack.settings == settings
    model, x, y = problem()
    same = Foolbox(attack.threat, "LinfPGD", settings | {"abs_stepsize": 2 / 255})
    assert torch.equal(run(attack, model, x, y), run(same, model, x, y))
    assert (run(attack, model, x, y) - x).abs().max() == pytest.approx(6 / 255, abs=1e-6)


@pytest.mark.parametrize("name", ["hopskipjump", "ead", "autoattack-pyautoattack", "autoattack-pyautoattack-digits"])
def test_the_suite_builds(name):
    attack, resolved = Catalog().attack(name)
    assert attack.batch == 1 and resolved["settings"]["batch"] == 1


# --- what a library may not touch -------------------------------------------------------------------------------------


def global_state():
    return torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate(), sys.gettrace()


def trace(frame, event, argument):
    return None


def break_in_the_middle(monkeypatch):
    """A library fails at its third pass: not within the model, whose own failures are a ModelError."""
    whole, passes = _Counted.forward, []

    def forward(self, x):
        passes.append(x)
        if len(passes) == 3:
            raise ZeroDivisionError("by hand")
        return whole(self, x)

    monkeypatch.setattr(_Counted, "forward", forward)


@pytest.mark.parametrize("attack", EACH)
@pytest.mark.parametrize("broken", [False, True])
def test_global_random_states_and_tracing_are_put_back_even_after_a_crash(attack, broken, monkeypatch):
    model, x, y = problem()
    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        before = global_state()
        if broken:
            break_in_the_middle(monkeypatch)
            with pytest.raises(LibraryError):
                run(attack, model, x, y)
        else:
            run(attack, model, x, y)
        after = global_state()
    finally:
        sys.settrace(previous)
    assert after == before and before[-1] is trace


@pytest.mark.parametrize("attack", EACH)
def test_results_come_from_the_noise_and_not_from_the_global_state(attack):
    model, x, y = problem()
    torch.manual_seed(1)
    first = run(attack, model, x, y)
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(first, run(attack, model, x, y))
    assert not torch.equal(first, run(attack, model, x, y, ids=torch.arange(len(x)) + 100))


@pytest.mark.parametrize(
    "attack", [*EACH, TorchAttacks(LINF, "FAB"), PyAutoAttack(LINF, "plus"), Foolbox(L2, "L2DeepFoolAttack")]
)
def test_a_network_with_batch_norm_is_what_it_was(attack):
    """Mode, running statistics, and no gradient of any weight (FAB calls backward())."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)).eval()
    model, x, y = problem(model=net)
    before = fingerprint(model)
    run(attack, model, x, y)
    assert fingerprint(model) == before
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_images_that_are_not_contiguous_are_attacked_like_the_others():
    model, x, y = problem(3, size=16)  # Square in L2 cannot cut 12 rows
    strided = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not strided.is_contiguous()
    for attack in (
        TorchAttacks(L2, "PGDL2", {"steps": 5}),
        TorchAttacks(L2, "FAB", {"steps": 5}),
        TorchAttacks(ThreatModel("L0", 60), "SparseFool", {"steps": 2}),
        PyAutoAttack(L2),
        PyAutoAttack(L1),
        Foolbox(L2, "L2PGD"),
    ):
        assert torch.equal(run(attack, model, x, y), run(attack, model, strided, y)), attack
        assert torch.equal(x, strided)


def test_nothing_is_printed(capfd):
    model, x, y = problem(2)
    for attack in (TorchAttacks(LINF, "PGD"), Foolbox(LINF, "LinfPGD"), PyAutoAttack(LINF)):
        run(attack, model, x, y)
    assert capfd.readouterr() == ("", "")


# --- pyautoattack's checks --------------------------------------------------------------------------------------------


class Dynamic(nn.Module):
    """A defence that computes a gradient at test time."""

    def __init__(self):
        super().__init__()
        self.inner = small_cnn()

    def forward(self, x):
        with torch.enable_grad():
            variable = x.detach().requires_grad_(True)
            torch.autograd.grad(self.inner(variable).sum(), variable)
        return self.inner(x)


def test_a_dynamic_defence_is_reported_once_and_does_not_condemn_the_next_model(caplog):
    model, x, y = problem(4)
    with caplog.at_level(logging.WARNING, logger="auto-attack"):
        run(PyAutoAttack(LINF), Dynamic().eval(), x, y)
        assert sum("dynamic defense" in record.getMessage() for record in caplog.records) == 1
        caplog.clear()
        run(PyAutoAttack(LINF), model, x, y)
        assert not any("dynamic defense" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_autoattack_runs_with_few_classes(version, classes):
    """At the small radius every image reaches every attack of the ensemble."""
    model, x, y = problem(3, small_cnn(classes=classes))
    for eps, stand in ((0.001, 3), (0.4, 0)):
        attack = PyAutoAttack(ThreatModel("Linf", eps), version)
        x_adv = run(attack, model, x, y)
        check_contract("it", attack, x, x_adv)
        assert (model(x_adv).argmax(1) == y).sum() == stand


def test_torchattacks_is_told_the_number_of_classes():
    """With its own 10 it looks for classes that are not there."""
    model, x, y = problem(3, small_cnn(classes=5))
    x_adv = run(TorchAttacks(ThreatModel("Linf", 0.001), "APGDT", {"steps": 2}), model, x, y)
    assert ThreatModel("Linf", 0.001).contains(x, x_adv).all()


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", EACH)
def test_a_crash_is_an_error_that_names_library_attack_image_and_reason(attack, monkeypatch):
    model, x, y = problem()
    break_in_the_middle(monkeypatch)
    with pytest.raises(LibraryError, match=r"(LinfPGD|PGD|AutoAttack) failed on image 40: ZeroDivisionError: by hand"):
        run(attack, model, x[:1], y[:1], ids=torch.tensor([40]))


def test_a_model_that_returns_no_logits_is_the_models_fault():
    _, x, y = problem()
    with pytest.raises(ModelError, match="logits"):
        run(Foolbox(LINF, "LinfPGD"), nn.Conv2d(3, 4, 3).eval(), x, y)


@pytest.mark.parametrize(
    "returned, message",
    [
        (lambda x: x * torch.nan, "PGD returned NaN or infinity on 1 of 1 images"),
        (lambda x: x + torch.inf, "PGD returned NaN or infinity"),
        (lambda x: x[:, :1], "PGD returned .* for"),
        (lambda x: None, "PGD returned NoneType"),
    ],
)
def test_what_is_no_image_is_an_error_and_not_a_clean_image(monkeypatch, returned, message):
    model, x, y = problem()
    monkeypatch.setattr(library("torchattacks").PGD, "forward", lambda self, images, labels: returned(images))
    with pytest.raises(LibraryError, match=message):
        run(TorchAttacks(LINF, "PGD"), model, x, y)


def test_nan_of_a_minimal_norm_attack_is_an_image_not_found(monkeypatch):
    model, x, y = problem()
    monkeypatch.setattr(library("torchattacks").CW, "forward", lambda self, images, labels: images * torch.nan)
    assert torch.equal(run(TorchAttacks(L2, "CW"), model, x, y), x)


def test_values_beyond_0_and_1_are_cut_off_and_other_violations_are_left_to_the_judge(monkeypatch):
    model, x, y = problem()
    monkeypatch.setattr(library("torchattacks").PGD, "forward", lambda self, images, labels: images + 0.2)
    attack = TorchAttacks(LINF, "PGD")
    x_adv = run(attack, model, x, y)
    assert torch.equal(x_adv, (x + 0.2).clamp(0, 1))
    with pytest.raises(AttackError, match="left its threat model"):
        check_contract("it", attack, x, x_adv)


@pytest.mark.parametrize(
    "attack",
    [
        Foolbox(L1, "EADAttack", {"steps": 2, "binary_search_steps": 1}),
        Foolbox(L2, "L2CarliniWagnerAttack", {"steps": 2, "binary_search_steps": 1}),
        Foolbox(L2, "HopSkipJumpAttack", {"steps": 1}),
        Foolbox(L2, "BoundaryAttack", {"steps": 1}),
        Foolbox(ThreatModel("L0", 9), "PointwiseAttack"),
        TorchAttacks(L2, "CW", {"steps": 2}),
    ],
)
def test_a_minimal_norm_attack_that_finds_nothing_returns_the_image(attack):
    """foolbox returns black images or raises."""
    model, x, y = problem(2, constant())
    assert torch.equal(run(attack, model, x, y), x)


def test_one_image_without_a_start_does_not_stop_the_others():
    """Noise fools the light image and never the dark one; foolbox raises for both when they share a batch."""

    class Light(nn.Module):
        def forward(self, x):
            light = x.mean((1, 2, 3))
            return torch.stack([0.9 - light, light - 0.9], 1)

    x = torch.stack([torch.full((3, 8, 8), 0.95), torch.full((3, 8, 8), 0.2)])
    y = torch.tensor([1, 0])
    attack = Foolbox(L2, "HopSkipJumpAttack", {"steps": 1}, batch=2)
    x_adv = run(attack, Light().eval(), x, y)
    assert Light()(x_adv).argmax(1).tolist() == [0, 0]
    assert torch.equal(x_adv[1], x[1])


def test_where_noise_has_the_images_label_the_start_is_searched_elsewhere():
    """Grey images and uniform noise are class 0, images of black and white are class 1."""

    class Grey(nn.Module):
        def forward(self, x):
            grey = (x * (1 - x)).mean((1, 2, 3))
            return torch.stack([grey - 0.1, 0.1 - grey], 1)

    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(2, dtype=torch.int64)
    x_adv = run(Foolbox(L2, "HopSkipJumpAttack", {"steps": 1}), Grey().eval(), x, y)
    assert (Grey()(x_adv).argmax(1) == 1).all()


def test_images_at_the_boundary_go_far_enough_that_no_batch_brings_them_back():
    model, x, y = problem(12)
    attack = Foolbox(L2, "HopSkipJumpAttack", {"steps": 1})
    images = zip(x.clone().split(1), y.split(1), strict=True)
    raw = torch.cat([attack._run(Target(model).module(), image, label, 0) for image, label in images])
    assert not fooled(Target(model), raw, y).all(), "foolbox stops at the boundary"
    x_adv = run(attack, model, x, y)
    assert fooled(Target(model), x_adv, y).all()


def test_values_that_the_library_left_alone_stay_exact_in_float64():
    model, x, y = problem(6)
    x = x.double() + 1e-12
    x_adv = run(TorchAttacks(ThreatModel("L0", 3), "OnePixel", {"steps": 20}), model.double(), x.clamp(0, 1), y)
    assert distance("L0", x.clamp(0, 1), x_adv).max() == 3 and x_adv.dtype == torch.float64


# --- batches and passes -----------------------------------------------------------------------------------------------


def rows_through(model):
    """A list that fills with the number of images of each pass of the model."""
    seen = []
    model.register_forward_hook(lambda module, given, logits: seen.append(len(given[0])))
    return seen


@pytest.mark.parametrize("batch", [1, 4])
def test_every_pass_is_counted_on_its_image(batch):
    model, x, y = problem(6)
    seen = rows_through(model)
    target = Target(model).counting(len(x))
    Foolbox(LINF, "LinfPGD", {"steps": 5}, batch=batch)(target, x, y, Noise(0, torch.arange(len(x))))
    forward, backward = target.passes_per_image
    assert forward.tolist() == [6] * 6 and backward.tolist() == [5] * 6, "five steps, and foolbox's own verdict"
    assert sum(seen) == target.forward_passes == 36 and target.backward_passes == 30
    assert max(seen) == batch


@pytest.mark.parametrize("attack", [*EACH, Foolbox(L2, "HopSkipJumpAttack", {"steps": 1}), TorchAttacks(LINF, "FAB")])
def test_counts_are_what_goes_through_the_model(attack):
    model, x, y = problem(3)
    seen = rows_through(model)
    target = Target(model).counting(len(x))
    attack(target, x, y, Noise(0, torch.arange(len(x))))
    assert sum(seen) == target.forward_passes == target.passes_per_image[0].sum()


def test_a_deterministic_attack_is_the_same_in_a_batch():
    model, x, y = problem(8)
    alone, together = (run(Foolbox(L2, "L2DeepFoolAttack", batch=b), model, x, y) for b in (1, 8))
    assert (alone - together).abs().max() < 1e-5 and not torch.equal(alone, x)


def test_a_larger_batch_is_legal_and_repeatable():
    model, x, y = problem(8)
    for attack in (PyAutoAttack(LINF, batch=5), TorchAttacks(LINF, "PGD", batch=3)):
        x_adv = run(attack, model, x, y)
        check_contract("it", attack, x, x_adv)
        assert torch.equal(x_adv, run(attack, model, x, y))


@pytest.mark.parametrize("attack", [*EACH, Foolbox(L2, "L2DeepFoolAttack"), TorchAttacks(L2, "CW", {"c": 10})])
def test_the_judge_takes_what_they_return(attack):
    model, x, y = problem(6)
    verdicts = evaluate(model, attack, Images(x, y, torch.arange(6)), 10, name="it")
    standing = verdicts.table["robust"]
    assert verdicts.clean_accuracy == 1
    if attack.closest:
        assert (standing == (verdicts.table["l2"] > 0.5) | (verdicts.table["adversarial_prediction"] == y)).all()
    else:
        assert standing.sum() < 6
    assert (verdicts.table["forward_passes"] > 3).all() and (verdicts.table["backward_passes"] > 2).all()
