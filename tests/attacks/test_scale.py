"""The scale of a network's logits changes no label, so it must change no attack: neither where losses vanish in float32
nor where squares overflow. Networks of ordinary scale are attacked to the bit as if there were no such care.
"""

from __future__ import annotations

import pytest
import torch
from attacking import run
from oracles import saturated_images, small_cnn
from slowly import slow
from torch import nn

from attacks.apgd import APGD
from attacks.autoattack import AutoAttack
from attacks.contract import ThreatModel
from attacks.cw import CarliniWagnerLinf
from attacks.cw_l2 import CarliniWagnerL2
from attacks.ddn import DDN
from attacks.deepfool import DeepFool
from attacks.elastic import Elastic
from attacks.fab import FAB
from attacks.fog import Fog
from attacks.gabor import Gabor
from attacks.jpeg import JPEG
from attacks.multi_steepest import MSD
from attacks.pgd import FGSM, MIM, PGD
from attacks.scale import HIGH, LOW, Scales, ordinary_factors, spans
from attacks.target import Target
from bench.judge.evaluate import evaluate
from bench.subjects.data import Images

LINF, L2, L1, OWN = (ThreatModel(*pair) for pair in (("Linf", 0.02), ("L2", 0.3), ("L1", 3.0), ("own", 0)))
ATTACKS = {
    "fgsm": FGSM(LINF),
    "pgd": PGD(LINF, 10, 0.005),
    "pgd-bce": PGD(LINF, 10, 0.005, loss="bce"),
    "pgd-l2": PGD(L2, 10, 0.06),
    "pgd-l1": PGD(L1, 10, 0.6),
    "mim": MIM(LINF, 10, 0.005),
    "apgd-ce": APGD(LINF, 12),
    "apgd-dlr": APGD(LINF, 12, loss="dlr"),
    "apgd-t": APGD(LINF, 12, targets=3),
    "apgd-l1": APGD(L1, 24),
    "cw": CarliniWagnerLinf(LINF, 12),
    "msd": MSD(OWN, linf=0.02, l2=0.3, l1=3.0, linf_step=0.005, l2_step=0.06, l1_step=0.6, steps=10),
    "fab": FAB(LINF, 10, 3),
    "deepfool": DeepFool(L2, 10),
    "ddn": DDN(L2, 20),
    "cw-l2": CarliniWagnerL2(L2, 30, 0.05, 3, 0.1),
    "autoattack": AutoAttack(LINF, 8, 3, 30),
    "fog": Fog(ThreatModel("own", 1000), 10, 0.05),
    "gabor": Gabor(ThreatModel("own", 30), 10, 0.1),
    "elastic": Elastic(ThreatModel("own", 1.5), 10, 0.3, 5, 1.0),
    "jpeg": JPEG(ThreatModel("own", 4), 10, 0.5),
}


class Scaled(nn.Module):
    """The small network with other units for its logits."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = small_cnn(), factor

    def forward(self, x):
        return self.inner(x) * self.factor


def problem(count=60):
    x = saturated_images(count, (3, 12, 12), 3)
    with torch.no_grad():
        return x, small_cnn()(x).argmax(1)


def stand(model, x_adv, x, y, attack):
    """Images that the attack did not fool within its radius."""
    with torch.no_grad():
        return int(((model(x_adv).argmax(1) == y) | ~attack.threat.contains(x, x_adv)).sum())


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1e20, *slow([1e-24, 1e-3, 1e3, 1e30])])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_as_strong_whatever_the_scale_of_the_logits(name, factor):
    attack, (x, y) = ATTACKS[name], problem()
    ordinary, scaled = small_cnn(), Scaled(factor).eval()
    before = stand(ordinary, run(attack, ordinary, x, y), x, y, attack)
    after = stand(scaled, run(attack, scaled, x, y), x, y, attack)
    assert before < len(x), "an attack that fools nobody proves nothing here"
    assert after <= before + 3


def test_ordinary_logits_are_shown_as_they_are():
    model, (x, _) = small_cnn(), problem()
    target = Target(model).counting(len(x))
    logits = target.logits(x)
    assert LOW < logits.abs().amax(1).min() and spans(logits).max() < HIGH
    assert torch.equal(logits, Target(model).logits(x)) and torch.equal(logits, target.true_logits(x))


def test_verdicts_see_the_logits_as_they_are():
    model, (x, _) = Scaled(1e-6).eval(), problem()
    target = Target(model).counting(len(x))
    assert torch.equal(target.true_logits(x), Target(model).true_logits(x))
    seen = spans(target.logits(x))
    assert seen.min() > 11.2 and seen.max() < 22.8


def test_factors_are_powers_of_two_and_1_where_logits_are_ordinary_zero_or_not_finite():
    size = torch.tensor([0.0, 1e-300, 1e-6, LOW, 1.0, HIGH, 1e3, 1e300, torch.inf, torch.nan], dtype=torch.float64)
    factors = ordinary_factors(torch.stack([torch.zeros_like(size), size], 1))
    assert (factors.log2() % 1 == 0).all() and torch.isfinite(factors.float()).all() and (factors.float() > 0).all()
    assert (factors == 1).tolist() == [True, False, False, True, True, True, False, False, True, True]
    beside = torch.tensor([[3.0, 3.0 + 1e-6], [1e6, 1e6 + 1]])
    assert (ordinary_factors(beside) == 1).all(), "at a boundary, and far from 0: neither says anything of the scale"


@pytest.mark.parametrize("factor", [1e-6, 1e20])
def test_at_any_scale_an_image_does_not_see_the_others(factor):
    model, (x, y), attack = Scaled(factor).eval().double(), problem(), APGD(LINF, 12)
    x = x.double()
    whole = run(attack, model, x, y)
    assert torch.allclose(whole, run(attack, model, x, y, batch_size=7), atol=1e-7)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    assert torch.allclose(whole[order], run(attack, model, x[order], y[order], ids=order), atol=1e-7)


def test_a_factor_falls_where_the_loss_would_vanish_and_never_below_one():
    scales, image = Scales(1), torch.tensor([0])
    shown = [float(scales.show(torch.tensor([[0.0, spread]]), image)[0, 1]) for spread in (1e-6, 4e-6, 1e-3, 1e-6, 40)]
    assert shown == pytest.approx([16.777216, 16.777216, 16.384, 0.016384, 40.0])


class Valley(nn.Module):
    """Two classes; the logits differ by the brightness of the image above 1/2."""

    def forward(self, x):
        rise = 40 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([rise, -rise], 1)


def test_an_image_that_happens_to_lie_on_a_boundary_is_attacked_from_its_random_start_too():
    """Its logits are nearly equal for no fault of their scale: enlarged, they vanish in the loss one step away."""
    x, y = torch.full((40, 1, 4, 4), 0.5 + 1e-5), torch.zeros(40, dtype=torch.int64)
    attack = PGD(ThreatModel("Linf", 0.5), 60, 0.02)
    assert evaluate(Valley().eval(), attack, Images(x, y, torch.arange(40)), 2, name="pgd").robust_accuracy == 0


@pytest.mark.parametrize("factor", [1e-6, 1e20])
def test_the_judge_sees_no_difference(factor):
    x, y = problem()
    images = Images(x, y, torch.arange(len(x)))
    ordinary, scaled = (
        evaluate(model, PGD(LINF, 10, 0.005), images, 10, name="pgd") for model in (small_cnn(), Scaled(factor).eval())
    )
    assert abs(ordinary.robust_accuracy - scaled.robust_accuracy) <= 0.05
    assert ordinary.robust_accuracy < 0.9
