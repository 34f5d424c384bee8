"""Laws of AutoAttack (worst case over parts, survivors only) and of MSD (worst step over norms)."""

from __future__ import annotations

import pytest
import torch
from attacking import run
from oracles import exact_margin, linear_problem, saturated_images, small_cnn

from attacks.apgd import APGD
from attacks.autoattack import AutoAttack, worst_case
from attacks.contract import ThreatModel
from attacks.fab import FAB
from attacks.losses import cross_entropy
from attacks.multi_steepest import MSD
from attacks.noise import Noise
from attacks.norms import distance
from attacks.pgd import FGSM
from attacks.target import Target

OWN = ThreatModel("own", 0)


def problem(count=40):
    model, x = small_cnn().double(), saturated_images(count, (3, 12, 12), 3).double()
    return model, x, model(x).argmax(1)


def test_standard_autoattack_is_what_the_paper_says():
    threat = ThreatModel("Linf", 8 / 255)
    kinds = [(type(part).__name__, part.threat) for part in AutoAttack(threat).parts]
    assert kinds == [(name, threat) for name in ("APGD", "APGD", "FAB", "Square")]
    ce, targeted, fab, square = AutoAttack(threat).parts
    assert (ce.steps, ce.loss, ce.targets, ce.restarts) == (100, "ce", 0, 1)
    assert (targeted.steps, targeted.targets) == (100, 9) == (fab.steps, fab.targets) and square.queries == 5000


def test_the_worst_case_is_as_bad_as_every_part_and_later_parts_see_survivors_only():
    model, x, y = problem()
    threat = ThreatModel("Linf", 0.04)
    parts = [FGSM(ThreatModel("Linf", 0.02)), APGD(threat, 15), FAB(threat, 10, targets=3)]
    target = Target(model).counting(len(x))
    x_adv = worst_case(parts, target, x, y, Noise(0, torch.arange(len(x))))
    fooled = model(x_adv).argmax(1) != y
    alone = [run(part, model, x, y) for part in parts]
    hit = [(model(a).argmax(1) != y) & threat.contains(x, a) for a in alone]
    assert (fooled >= hit[0]).all() and fooled.sum() >= max(h.sum() for h in hit)
    assert 0 < hit[0].sum() < fooled.sum() < len(x), "the sample must hold images that only a later part gets"
    assert (target.passes_per_image[1][hit[0]] == 1).all(), "what FGSM fooled costs nothing more"


def test_a_minimal_norm_part_counts_inside_the_radius_only():
    model, x, y = problem(12)
    threat = ThreatModel("Linf", 1e-4)
    x_adv = worst_case([FAB(threat, 10)], Target(model), x, y, Noise(0, torch.arange(len(x))))
    assert threat.contains(x, x_adv).all()


@pytest.mark.slow
def test_msd_ends_in_one_of_its_balls_and_breaks_what_any_of_them_allows():
    model, x, y = linear_problem(2, (1, 5, 5), 0)
    model, x = model.double(), x.double()
    for norm in ("Linf", "L2", "L1"):
        for image, label in zip(x[:3].split(1), y[:3].split(1), strict=True):
            margins = {n: exact_margin(n, model, image[0], int(label)) for n in ("Linf", "L2", "L1")}
            if margins[norm] == float("inf"):
                continue
            for share, fooled in ((1.05, True), (0.95, False)):
                radii = {n.lower(): (share if n == norm else 0.5) * m for n, m in margins.items()}
                steps = {f"{name}_step": radius / 30 for name, radius in radii.items()}
                attack = MSD(OWN, steps=120, l1_pixels=(1, 1), **radii, **steps)
                x_adv = run(attack, model, image, label)
                inside = [float(distance(n, image, x_adv)) <= radii[n.lower()] + 1e-6 for n in margins]
                assert any(inside)
                assert (model(x_adv).argmax(1) != label).item() == fooled, (norm, share)


def test_an_msd_step_is_the_best_of_its_three():
    model, x, y = problem(20)
    target, noise = Target(model), Noise(0, torch.arange(20))
    alone = {"linf": (1.0, 0, 0), "l2": (0, 1.0, 0), "l1": (0, 0, 1.0)}
    values = [
        MSD(OWN, linf_step=0.01 * a, l2_step=0.1 * b, l1_step=1.0 * c).step(target, x, x, y, noise, 0)[1]
        for a, b, c in alone.values()
    ]
    moved, value, logits = MSD(OWN, linf_step=0.01, l2_step=0.1, l1_step=1.0).step(target, x, x, y, noise, 0)
    assert torch.allclose(logits, model(moved))
    assert torch.allclose(value, torch.stack(values).amax(0).to(value))
    assert torch.allclose(value, cross_entropy(model(moved), y).detach().to(value))
    assert len(torch.stack(values).argmax(0).unique()) > 1, "the sample must hold more than one winner"


@pytest.mark.parametrize("stop", ["first", "last"])
def test_an_msd_step_costs_one_gradient_and_three_more_passes(stop):
    model, x, y = problem(20)
    target = Target(model).counting(20)
    x_adv = MSD(OWN, steps=4, stop=stop)(target, x, y, Noise(0, torch.arange(20)))
    forward, backward = target.passes_per_image
    assert torch.equal(forward, 4 * backward)
    stands = model(x_adv).argmax(1) == y
    assert (backward[stands] == 4).all() and stands.any()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="pyautoattack"):
        AutoAttack(ThreatModel("L1", 3))
    with pytest.raises(ValueError, match="'own'"):
        MSD(ThreatModel("L2", 3))
    with pytest.raises(ValueError, match=r"linf <= 1; got steps = 50, linf = 8, l2 = 0.5, l1 = 12"):
        MSD(OWN, linf=8)  # 8/255 was meant
    with pytest.raises(ValueError, match=r"got steps = 50, .*, l1_step = nan"):
        MSD(OWN, l1_step=float("nan"))
