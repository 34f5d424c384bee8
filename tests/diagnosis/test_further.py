"""Laws of `bench diagnose` on more networks: plants of other kinds are caught by the checks that should, and honest
networks of many kinds are "ok"; what a network knows by heart or remembers; a linear network, where all is known.
"""

from __future__ import annotations

from copy import deepcopy

import further_defences
import honest_networks
import pytest
import torch
from broken_defences import EPS, base, digits
from slowly import slow
from test_diagnose import TINY, examine, failed
from torch import nn

from attacks.contract import ThreatModel
from bench.diagnosis.evidence import Witness
from bench.diagnosis.masking import WHITE_BOX, findings
from bench.diagnosis.neighbours import changed, held_out
from bench.ledger.diagnoses import trust_of

FAILS = {  # at least these
    "test set by heart": {"neighbours"},
    "test set by heart, AT": {"neighbours"},
    "judged images by heart": {"neighbours"},
    "all images by heart": {"neighbours"},
    "memory": {"memory"},
    "memory of all copies": {"neighbours"},
    "adapting mean": {"deterministic"},
    "clipping hooks": {"true-slope"},
    "noise in the slope": {"true-slope", "square"},
    "half detached": {"square"},
    "squeezing, wrong sign": {"loss-rises", "true-slope", "square"},
    "output codes": {"zero-gradients", "loss-rises"},
    "cold when sure": {"zero-gradients"},
    "clamped logits": {"zero-gradients", "square"},
    "noise detector": {"zero-gradients", "single-step", "square"},
    "dropped by hash": {"true-slope"},
    "ripple": {"true-slope", "square"},
    "cached shift": {"batch-independent"},
}


@pytest.mark.parametrize("name", slow(further_defences.FURTHER))
def test_every_further_defence_is_caught_by_the_checks_that_should(name):
    found = examine(further_defences.FURTHER[name]().eval())
    assert FAILS[name] <= failed(found), {n: f for n, f in found.items() if n in FAILS[name]}


@pytest.mark.parametrize("name", slow(honest_networks.HONEST))
def test_no_honest_network_is_doubted(name):
    found = examine(honest_networks.HONEST[name]().eval())
    assert trust_of(found.values()) == "ok", {n: f for n, f in found.items() if f.verdict in ("warn", "fail")}


def test_a_linear_network_is_not_doubted_where_its_margins_decide():
    """Square alone broke 4 of these images while no gradient was followed towards one class at a time."""
    found = examine(honest_networks.linear(), images=100, eps=0.05)
    assert trust_of(found.values()) == "ok", found["square"]


def test_the_white_box_is_exact_on_a_linear_network():
    network, images, eps = honest_networks.linear(), digits().test.head(40), 0.03
    witness = Witness(network, ThreatModel("Linf", eps), images, 10, effort=TINY, source=honest_networks.linear)
    stands = witness.gather().standing(WHITE_BOX)
    x, y, weight = images.x.flatten(1)[:, None], images.y[:, None], network[1].weight.detach()
    up, down = (x + eps).clamp(max=1) - x, x - (x - eps).clamp(min=0)
    apart = weight - weight[y]  # [N, 10, 64], of each class to the true one
    gain = (apart.clamp(min=0) * up + (-apart).clamp(min=0) * down).sum(2)
    logits = network(images.x).detach()
    beaten = logits - logits.gather(1, y) + gain > 0
    exact = ~beaten.scatter(1, y, False).any(1)
    assert torch.equal(torch.from_numpy(stands), exact) and 0 < exact.sum() < len(exact)


def test_a_model_that_cannot_be_copied_has_no_ok():
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = honest_networks.linear()

        def __deepcopy__(self, memo: dict) -> nn.Module:
            raise TypeError("there is one of me")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x)

    witness = Witness(Alone().eval(), ThreatModel("Linf", 0.03), digits().test.head(12), 10, effort=TINY,
                      source=honest_networks.linear)  # fmt: skip
    found = {finding.check: finding for finding in findings(witness.gather())}
    assert found["memory"].verdict == "skip" and "TypeError: there is one of me" in found["memory"].figure


def test_held_out_images_are_other_images_of_the_same_labels():
    judged = digits().test.head(100)
    parts = held_out(digits(), judged)
    assert set(parts) == {"other test images", "validation images"}
    for first, alike in parts.values():
        assert torch.equal(alike.y, judged.y) and len(first) == len(judged)
        assert not torch.isin(torch.cat([first.ids, alike.ids]), judged.ids).any()
    assert set(held_out(digits(), digits().test)) == {"validation images"}, "all test images are judged"


@pytest.mark.parametrize("eps", [2 / 255, 0.15, 0.5])
def test_a_change_reaches_beyond_twice_the_radius_with_an_attack_added(eps):
    images, threat = digits().test.head(50), ThreatModel("Linf", eps)
    parts = dict(changed(images, threat, flip=True))
    assert {"mirrored", "moved up", "darker", "brighter"} <= set(parts)
    for name, part in parts.items():
        assert part.x.shape == images.x.shape and 0 <= part.x.min() and part.x.max() <= 1
        reach = (part.x - images.x).abs().flatten(1).amax(1)
        assert (reach + eps > min(2 * eps, eps + 0.2)).all(), name
    assert set(parts) - set(dict(changed(images, threat, flip=False))) == {"mirrored"}


@pytest.mark.slow
def test_what_was_learned_from_images_like_the_judged_ones_is_not_known_by_heart():
    """150 training images by the hands that wrote the judged ones: the rest of the test set is 36 points harder."""
    found = examine(deepcopy(honest_networks.overfitted()))
    assert found["neighbours"].verdict == "pass", found["neighbours"]


@pytest.mark.slow
@pytest.mark.parametrize("radius, verdict", [(EPS, "fail"), *slow([(3 * EPS, "warn")])])
def test_labels_known_by_heart_are_seen_in_any_ball(radius, verdict):
    """An AT network lacks little: what is left is seen, in a ball that holds the changed images too, as a doubt."""
    found = examine(further_defences.Known(base("at"), digits().test, radius).eval())
    assert found["neighbours"].verdict == verdict, found["neighbours"]


def test_clean_labels_known_by_heart_are_seen():
    """The clean image alone, on a network that knows nothing."""
    torch.manual_seed(0)
    guessing = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = examine(further_defences.Known(guessing, digits().test, 1e-3).eval())
    assert found["neighbours"].verdict == "fail", found["neighbours"]
