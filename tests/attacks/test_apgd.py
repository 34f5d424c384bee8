"""Laws of Auto-PGD: margins of models that are known exactly, its schedule, and the losses it climbs."""

from __future__ import annotations

import pytest
import torch
from attacking import run
from oracles import exact_margin, linear_problem, saturated_images, small_cnn
from slowly import slow

from attacks.apgd import APGD, checkpoints
from attacks.contract import ThreatModel
from attacks.losses import dlr, targeted_dlr
from attacks.pgd import PGD


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize(
    "classes, settings", [(2, {}), *slow([(6, {"targets": 5}), (3, {"targets": 2, "restarts": 2})])]
)
def test_margins_of_linear_models_are_met_within_one_percent(norm, classes, settings):
    model, x, y = linear_problem(classes, (1, 5, 5), 0)
    model, x = model.double(), x.double()
    reachable = 0
    for image, label in zip(x[:8].split(1), y.split(1), strict=False):
        margin = exact_margin(norm, model, image[0], int(label))
        if margin == float("inf"):
            continue
        reachable += 1
        for share, fooled in ((1.01, True), (0.99, False)):
            attack = APGD(ThreatModel(norm, share * margin), 100, **settings)
            assert (model(run(attack, model, image, label)).argmax(1) != label).item() == fooled, (share, margin)
    assert reachable >= 6


def test_checkpoints_of_a_hundred_steps_are_those_of_the_paper():
    """p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)."""
    assert checkpoints(100)[:9] == [22, 41, 57, 70, 80, 87, 93, 99, 105]


def test_it_is_not_weaker_than_pgd_and_its_step_shrinks():
    model = small_cnn().double()
    x = saturated_images(48, (3, 12, 12), 3).double()
    y = model(x).argmax(1)
    for norm, eps in (("Linf", 0.02), ("L2", 0.2), ("L1", 1.5)):
        threat = ThreatModel(norm, eps)
        ours = (model(run(APGD(threat, 100), model, x, y)).argmax(1) == y).sum()
        pgd = (model(run(PGD(threat, 100, eps / 10), model, x, y)).argmax(1) == y).sum()
        assert 0 < ours <= pgd + 1, (norm, ours, pgd)


def test_an_image_that_stands_ends_at_its_best_point():
    """Its loss is the largest of all that the run saw."""
    model = small_cnn().double()
    x = saturated_images(24, (3, 12, 12), 3).double()
    y = model(x).argmax(1)
    seen = []

    class Watched(torch.nn.Module):
        def forward(self, images):
            logits = model(images)
            seen.append(torch.nn.functional.cross_entropy(logits, y, reduction="none").detach())
            return logits

    x_adv = run(APGD(ThreatModel("Linf", 0.0005), 20), Watched().eval(), x, y)
    final = torch.nn.functional.cross_entropy(model(x_adv), y, reduction="none")
    assert len(seen) == 21, "no image may fall here, or the batches would shrink"
    assert torch.allclose(final, torch.stack(seen).amax(0), atol=1e-12)


def test_dlr_by_hand():
    logits, y = torch.tensor([[3.0, 1.0, 0.5, -1.0], [0.0, 2.0, 5.0, 1.0]]), torch.tensor([0, 1])
    assert torch.allclose(dlr(logits, y), torch.tensor([-(3 - 1) / (3 - 0.5), -(2 - 5) / (5 - 1.0)]))
    pair = torch.tensor([[0, 3], [1, 2]])
    expected = torch.tensor([-(3 + 1) / (3 - (0.5 - 1) / 2), -(2 - 5) / (5 - (1 + 0.0) / 2)])
    assert torch.allclose(targeted_dlr(logits, pair), expected)
    assert torch.allclose(dlr(5 * logits + 2, y), dlr(logits, y)), "shift and scale do not show"
    two = torch.tensor([[1.0, 3.0]])
    assert torch.allclose(dlr(two, torch.tensor([1])), torch.tensor([-1.0])), "two classes: z_(2) stands in"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"threat": ThreatModel("L0", 3)}, "Linf, L2 and L1"),
        ({"threat": ThreatModel("L2", 3), "rho": 2}, "rho in"),
        ({"threat": ThreatModel("L1", 3), "rho": 0.5}, "leave it at 0.75; got rho = 0.5"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        APGD(**settings)
