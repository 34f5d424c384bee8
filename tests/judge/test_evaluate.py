"""The judge: believes no attack and no model, counts every image, and a crash is never a number."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from oracles import linear_problem, saturated_images, small_cnn
from torch import nn

from attacks.adapters import LibraryError
from attacks.contract import ThreatModel
from attacks.model import ModelError
from attacks.multi_steepest import MSD
from attacks.noise import Noise
from attacks.pgd import PGD
from bench.ground.config import UserError
from bench.judge.evaluate import AttackError, evaluate
from bench.subjects.data import Images
from bench.subjects.fingerprint import fingerprint
from bench.subjects.quick import Arrangement

BUDGET = ThreatModel("Linf", 0.05)


def problem(count=30):
    model, x = small_cnn(), saturated_images(count, (3, 12, 12), 3)
    y = model(x).argmax(1)
    y[:5] = (y[:5] + 1) % 10  # five images that are wrong without an attack
    return model, Images(x, y, torch.arange(100, 100 + count))


@dataclass(frozen=True)
class Cheat:
    """Returns whatever `trick` makes of the images."""

    trick: object
    closest: bool = False
    threat: ThreatModel = BUDGET
    version: int = 1

    def __call__(self, target, x, y, noise):
        return self.trick(target, x)


def test_verdicts_are_those_of_a_hand_made_check():
    model, images = problem()
    verdicts = evaluate(model, PGD(BUDGET, 10, 0.01), images, 10)
    table = verdicts.table
    right = model(images.x).argmax(1) == images.y
    held = model(verdicts.x_adv).argmax(1) == images.y
    assert table["robust"].tolist() == (right & held).tolist()
    assert 0 < table["robust"].sum() < len(table) - 5, "the sample must hold both kinds"
    assert table["image"].tolist() == images.ids.tolist()
    assert verdicts.clean_accuracy == pytest.approx(25 / 30)
    assert torch.allclose(
        torch.tensor(table["linf"]), (verdicts.x_adv - images.x).double().abs().amax((1, 2, 3)), atol=1e-12
    )


def test_wrong_images_are_not_attacked_and_not_robust():
    model, images = problem()
    verdicts = evaluate(model, PGD(BUDGET, 3, 0.01), images, 10)
    wrong = verdicts.table.iloc[:5]
    assert torch.equal(verdicts.x_adv[:5], images.x[:5])
    assert (wrong["linf"] == 0).all() and not wrong["robust"].any() and (wrong["backward_passes"] == 0).all()


def test_a_minimal_norm_attack_is_judged_by_the_distance_it_needed():
    """The same images, fooled at any distance: inside eps they count, beyond it they do not."""
    model, images = problem()
    far = PGD(ThreatModel("Linf", 0.3), 20, 0.03)
    noise = Noise(0, torch.arange(30))
    attack = Cheat(lambda target, x: far(target, x, target.logits(x).argmax(1), noise[: len(x)]), closest=True)
    table = evaluate(model, attack, images, 10).table
    fooled = table["adversarial_prediction"] != table["label"]
    right = table["clean_prediction"] == table["label"]
    assert table["robust"].tolist() == (right & ~(fooled & (table["linf"] <= 0.05 + 1e-6))).tolist()
    assert (table["robust"] & fooled).any(), "the sample must hold an image that is fooled beyond eps only"
    with pytest.raises(AttackError, match="left its threat model"):
        evaluate(model, Cheat(attack.trick), images, 10)
    with pytest.raises(AttackError, match="left its threat model"):
        evaluate(model, Cheat(lambda target, x: x + 2, closest=True), images, 10)


def test_batch_size_and_shard_do_not_show():
    model, images = problem()
    attack = PGD(BUDGET, 10, 0.01)
    whole = evaluate(model, attack, images, 10).table
    assert whole["robust"].tolist() == evaluate(model, attack, images, 10, run=Arrangement(4)).table["robust"].tolist()
    half = evaluate(model, attack, images.take(torch.arange(15, 30)), 10).table
    assert whole["robust"][15:].tolist() == half["robust"].tolist()


@pytest.mark.parametrize(
    "trick, message",
    [
        (lambda target, x: (x + 0.06).clamp(0, 1), "left its threat model"),
        (lambda target, x: x + 0.04, "left its threat model"),
        (lambda target, x: x * torch.nan, "left its threat model"),
        (lambda target, x: x[:, :, :4], "returned"),
        (lambda target, x: x.double(), "returned"),
        (lambda target, x: None, "NoneType"),
        (lambda target, x: (target.model.train(), x)[1], "changed the model"),
        (lambda target, x: (target.model[0].bias.data.add_(1), x)[1], "changed the model"),
        (lambda target, x: (target.model(x).sum().backward(), x)[1], "changed the model"),
    ],
)
def test_a_broken_promise_is_an_error(trick, message):
    model, images = problem()
    with pytest.raises(AttackError, match=message):
        evaluate(model, Cheat(trick), images, 10)


def test_a_crash_of_a_library_is_an_error_that_names_the_attack():
    def crash(target, x):
        raise LibraryError("foolbox PGD failed on image 3")

    model, images = problem()
    with pytest.raises(AttackError, match="mine: foolbox PGD failed on image 3"):
        evaluate(model, Cheat(crash), images, 10, name="mine")


@pytest.mark.parametrize("norm, share", [("linf", 1.0), ("l2", 1.0), ("l1", 1.0), ("", 1.01)])
def test_msd_is_held_to_its_three_balls(norm, share, monkeypatch):
    """A perturbation in one ball alone is legal, one that is out of all three is an error."""
    model, images = problem()
    delta = torch.zeros(1, 3, 12, 12)
    delta[..., 0, 0] = 0.3  # Linf 0.3, L2 0.52, L1 0.9
    radii = {"linf": 0.3, "l2": 0.3 * 3**0.5, "l1": 0.9}
    radii = {name: radius / share if name == norm or not norm else radius / 2 for name, radius in radii.items()}
    grey = Images(torch.full_like(images.x, 0.5), model(torch.full_like(images.x, 0.5)).argmax(1), images.ids)
    attack = MSD(ThreatModel("own", 0), **radii)
    monkeypatch.setattr(MSD, "__call__", lambda self, target, x, y, noise: x + delta)
    if norm:
        assert len(evaluate(model, attack, grey, 10).table) == len(grey)
        return
    with pytest.raises(AttackError, match=r"left its threat model \(Linf, eps = 0.29\d* or L2, eps = 0.51\d* or L1"):
        evaluate(model, attack, grey, 10)


def test_a_crash_passes_through():
    model, images = problem()
    with pytest.raises(ZeroDivisionError):
        evaluate(model, Cheat(lambda target, x: 1 // 0), images, 10)


class Constant(nn.Module):
    def __init__(self, row):
        super().__init__()
        self.row = torch.tensor(row)

    def forward(self, x):
        return self.row.repeat(len(x), 1) + 0 * x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize(
    "row, message",
    [([0.2, 0.5, 0.3], "probabilities"), ([0.0, float("nan"), 1.0], "NaN"), ([1.0, 2.0], "2 classes")],
)
def test_models_that_cannot_be_measured_are_refused(row, message):
    _, x, _ = linear_problem(3, (1, 4, 4), 0)
    images = Images(x, torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x)))
    with pytest.raises(ModelError, match=message):
        evaluate(Constant(row).eval(), None, images, 3)


def test_training_mode_is_refused():
    model, images = problem()
    with pytest.raises(ModelError, match="training mode"):
        evaluate(model.train(), None, images, 10)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda x, y: (x * 255, y), "divide bytes by 255"),
        (lambda x, y: (x * torch.nan, y), "NaN"),
        (lambda x, y: (x, y + 8), "labels"),
        (lambda x, y: (x, y[:-1]), "one label per image"),
        (lambda x, y: (x, y[:, None]), "one label per image"),
    ],
)
def test_bad_images_are_refused_in_one_sentence(spoil, message):
    model, images = problem()
    x, y = spoil(images.x, images.y)
    with pytest.raises(UserError, match=message):
        evaluate(model, None, Images(x, y, images.ids), 10)


def test_the_fingerprint_sees_buffers_that_no_state_dict_has():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1), persistent=False)

    model = Counts()
    before = fingerprint(model)
    model.calls += 1
    assert fingerprint(model) != before
