"""DeepFool in L2: the algorithm, step by step; exact distances, saturated pixels included; who leaves when."""

from __future__ import annotations

import warnings

import pytest
import torch
from attacking import exact, run
from oracles import linear_problem, saturated_images, small_cnn

from attacks.contract import ThreatModel
from attacks.deepfool import DeepFool
from attacks.noise import Noise
from attacks.norms import distance
from attacks.target import Target


def deepfool(**settings):
    return DeepFool(ThreatModel("L2", 0.5), **settings)


def problem(count=30, dtype=torch.float64):
    model = small_cnn().to(dtype)
    x = saturated_images(count, (3, 12, 12), 3).to(dtype)
    return model, x, model(x).argmax(1)


def slow(model, x, y, steps, candidates, overshoot):
    """Algorithm 2 for one image in plain loops -> (x_adv, steps taken)."""
    wrong = [k for k in model(x[None])[0].argsort(descending=True).tolist()[:candidates] if k != y]
    x_adv, total = x, torch.zeros_like(x)
    for step in range(steps):
        shortest = None
        for k in wrong:
            variable = x_adv.clone().requires_grad_(True)
            logits = model(variable[None])[0]
            value = logits[k] - logits[y]
            (grad,) = torch.autograd.grad(value, variable)
            length = value.detach().abs() / grad.norm()
            if shortest is None or length < shortest:
                shortest, move = length, (length + 1e-4) * grad / grad.norm()
        total = total + move
        x_adv = (x + (1 + overshoot) * total).clamp(0, 1)
        if model(x_adv[None]).argmax() != y:
            return x_adv, step + 1
    return x, steps


@pytest.mark.parametrize("candidates, overshoot", [(10, 0.02), (3, 0.1), (2, 0.0)])
def test_every_step_is_the_algorithm(candidates, overshoot):
    model, x, y = problem(8)
    attack = deepfool(steps=12, candidates=candidates, overshoot=overshoot, refine=0)
    target = Target(model, 3).counting(len(x))
    found = attack(target, x, y, Noise(0, torch.arange(len(x))))
    for i, label in enumerate(y.tolist()):
        expected, steps = slow(model, x[i], label, 12, candidates, overshoot)
        assert (found[i] - expected).abs().max() < 1e-9
        assert target.passes_per_image[:, i].tolist() == [2 + 2 * steps, (candidates - 1) * steps]
    assert len(target.passes_per_image[1].unique()) > 1, "the sample must hold images that leave early"


def test_images_of_only_0_and_1_are_attacked_without_refinement_too():
    """Half of the pixels are stuck; the overshoot alone would come ever closer to the boundary and never cross it."""
    model, x, _ = linear_problem(2, (1, 8, 8), 3)
    x = x.round()
    y = model(x).argmax(1)
    x_adv = run(deepfool(refine=0), model, x, y)
    assert (model(x_adv).argmax(1) != y).all()
    assert (distance("L2", x, x_adv) < 1.05 * exact("L2", model, x, y)).all()


class Flat(torch.nn.Module):
    """Class 0 everywhere; class 1 rises by `slope`; class 2 ties with class 0 and has no slope at all."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        rise = self.slope * x.flatten(1).sum(1)
        return torch.stack([1 + 0 * rise, rise - 100, 1 + 0 * rise], 1)


@pytest.mark.parametrize("slope, steps", [(0.0, 1), (1e-3, 2)])
def test_images_without_a_boundary_come_back_soon_and_unchanged(slope, steps):
    x, y = saturated_images(5, (1, 4, 4), 0), torch.zeros(5, dtype=torch.int64)
    target = Target(Flat(slope).eval()).counting(5)
    assert torch.equal(deepfool()(target, x, y, Noise(0, torch.arange(5))), x)
    assert (target.passes_per_image[1] == 2 * steps).all()


def test_wrong_images_cost_one_look():
    model, x, y = problem(6)
    y = torch.where(torch.arange(6) < 3, (y + 1) % 10, y)
    target = Target(model).counting(6)
    x_adv = deepfool()(target, x, y, Noise(0, torch.arange(6)))
    assert torch.equal(x_adv[:3], x[:3]) and (x_adv[3:] != x[3:]).flatten(1).any(1).all()
    assert target.passes_per_image[:, :3].tolist() == [[1] * 3, [0] * 3]


def test_float32_answers_fool_in_every_batch_size():
    model, x, y = problem(60, torch.float32)
    x_adv = run(deepfool(), model, x, y)
    for size in (1, 7, 60):
        logits = torch.cat([model(part) for part in x_adv.split(size)])
        assert (logits.argmax(1) != y).all()


@pytest.mark.parametrize(
    "threat, settings, message",
    [
        (ThreatModel("Linf", 0.1), {}, "works in L2"),
        (ThreatModel("L2", 0.5), {"steps": 0}, "steps = 0"),
        (ThreatModel("L2", 0.5), {"candidates": 1}, "candidates = 1"),
        (ThreatModel("L2", 0.5), {"overshoot": -0.1}, "overshoot = -0.1"),
        (ThreatModel("L2", 0.5), {"refine": -1}, "refine = -1"),
    ],
)
def test_bad_settings_are_refused(threat, settings, message):
    with pytest.raises(ValueError, match=message):
        DeepFool(threat, **settings)


@pytest.mark.peers
def test_never_weaker_than_foolbox():
    model, x, y = problem(60, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from foolbox import PyTorchModel
        from foolbox.attacks import L2DeepFoolAttack

        theirs, _, _ = L2DeepFoolAttack(steps=100)(
            PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=None
        )
    peer = distance("L2", x, theirs)
    plain, refined = (distance("L2", x, run(deepfool(refine=r), model, x, y)) for r in (0, 5))
    assert plain.median() <= 1.001 * peer.median()
    assert refined.median() <= peer.median() and (refined <= 1.01 * peer).all()
