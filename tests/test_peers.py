"""Ours and the libraries' on one network and the same images: the same numbers where the rule is the same, and never
weaker where it is not. docs/attacks.md has the list of differences."""

from __future__ import annotations

import pytest
import torch
from oracles import saturated_images, small_cnn

from attacks import ATTACKS
from attacks.adapters.autoattack import PyAutoAttack
from attacks.adapters.foolbox import Foolbox
from attacks.adapters.torchattacks import TorchAttacks
from attacks.contract import ThreatModel
from attacks.noise import Noise
from attacks.norms import distance
from attacks.pgd import FGSM, MIM, PGD
from attacks.target import Target

pytestmark = pytest.mark.peers

COUNT = 50
LINF, L2, L1 = ThreatModel("Linf", 0.01), ThreatModel("L2", 0.1), ThreatModel("L1", 1.0)
SAME = 1e-6  # float32: x + clip(x_adv - x) is rounded, ours is clip(x_adv)


@pytest.fixture(scope="module")
def network():
    """All classes occur among its labels, and at these radii a part of the images stands."""
    model, x = small_cnn(), saturated_images(COUNT, (3, 16, 16), 3)
    with torch.no_grad():
        model[-1].bias.sub_(model(x).mean(0))
    return model


def images(network, kind):
    """kind: "saturated", a third of the values is 0 or 1; "grey", no value comes near 0 or 1."""
    x = saturated_images(COUNT, (3, 16, 16), 3)
    x = x if kind == "saturated" else 0.5 + (x - 0.5) / 4
    with torch.no_grad():
        return x, network(x).argmax(1)


def foolbox(threat, name, **settings):
    return Foolbox(threat, name, settings, batch=COUNT)


def torchattacks(threat, name, **settings):
    return TorchAttacks(threat, name, settings, batch=COUNT)


def run(attack, network, x, y):
    return attack(Target(network), x, y, Noise(0, torch.arange(len(x))))


def robust(attack, network, x, y):
    """Images, out of COUNT, that stand inside the threat model."""
    x_adv = run(attack, network, x, y)
    with torch.no_grad():
        return int(((network(x_adv).argmax(1) == y) | ~attack.threat.contains(x, x_adv)).sum())


def far_apart(first, second, network, kind):
    x, y = images(network, kind)
    found = run(first, network, x, y)
    assert not torch.equal(found, x)
    return (found - run(second, network, x, y)).abs().max()


# --- the same rule: the same images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["saturated", "grey"])
def test_fgsm_is_image_by_image_that_of_the_libraries(network, kind):
    assert far_apart(FGSM(LINF), foolbox(LINF, "LinfFastGradientAttack"), network, kind) < SAME
    assert far_apart(FGSM(LINF), torchattacks(LINF, "FGSM"), network, kind) < SAME


@pytest.mark.parametrize("kind", ["saturated", "grey"])
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_pgd_from_the_image_takes_the_libraries_steps(network, kind, steps):
    ours = PGD(LINF, steps=steps, step=0.002, start="none", stop="last")
    theirs = foolbox(LINF, "LinfPGD", abs_stepsize=0.002, steps=steps, random_start=False)
    assert far_apart(ours, theirs, network, kind) < SAME
    theirs = torchattacks(LINF, "PGD", alpha=0.002, steps=steps, random_start=False)
    assert far_apart(ours, theirs, network, kind) < SAME


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_mim_takes_the_steps_of_torchattacks(network, steps):
    """foolbox's puts the gradient's sign into the momentum, which is another rule."""
    ours = MIM(LINF, steps=steps, step=0.002, stop="last")
    assert far_apart(ours, torchattacks(LINF, "MIFGSM", alpha=0.002, steps=steps), network, "saturated") < SAME
    other = far_apart(ours, foolbox(LINF, "MIFGSM", abs_stepsize=0.002, steps=steps), network, "saturated")
    assert other < SAME if steps == 1 else other > 1e-3


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_pgd_in_l2_takes_the_libraries_steps_where_no_value_meets_0_or_1(network, steps):
    """Where one does, ours gives its share of the step to the others."""
    ours = PGD(L2, steps=steps, step=0.03, start="none", stop="last")
    theirs = foolbox(L2, "L2PGD", abs_stepsize=0.03, steps=steps, random_start=False)
    assert far_apart(ours, theirs, network, "grey") < SAME < far_apart(ours, theirs, network, "saturated")
    theirs = torchattacks(L2, "PGDL2", alpha=0.03, steps=steps, random_start=False)
    assert far_apart(ours, theirs, network, "grey") < SAME


# --- another rule: at least as strong ---------------------------------------------------------------------------------

PAIRS = {
    "pgd-linf": (PGD(LINF, 20, 0.002), torchattacks(LINF, "PGD", alpha=0.002, steps=20)),
    "pgd-linf-foolbox": (PGD(LINF, 20, 0.002), foolbox(LINF, "LinfPGD", abs_stepsize=0.002, steps=20)),
    "mim-foolbox": (MIM(LINF, 10, 0.002), foolbox(LINF, "MIFGSM", abs_stepsize=0.002, steps=10)),
    "pgd-l2": (PGD(L2, 20, 0.03), foolbox(L2, "L2PGD", abs_stepsize=0.03, steps=20)),
    "pgd-l2-torchattacks": (PGD(L2, 20, 0.03), torchattacks(L2, "PGDL2", alpha=0.03, steps=20)),
    "pgd-l1": (PGD(L1, 50, 0.1), foolbox(L1, "L1PGD", abs_stepsize=0.1, steps=50)),
    "pgd-l1-sparse": (PGD(L1, 50, 0.1, "none"), foolbox(L1, "SparseL1DescentAttack", abs_stepsize=0.1, steps=50)),
    "apgd-linf": (ATTACKS["apgd"](LINF), torchattacks(LINF, "APGD", steps=100)),
    "apgd-l2": (ATTACKS["apgd"](L2), torchattacks(L2, "APGD", steps=100)),
    "apgd-t": (ATTACKS["apgd"](LINF, targets=9), torchattacks(LINF, "APGDT", steps=100)),
    "square": (ATTACKS["square"](LINF, queries=500), torchattacks(LINF, "Square", n_queries=500)),
    "fab": (ATTACKS["fab"](LINF, steps=20), torchattacks(LINF, "FAB", steps=20, multi_targeted=True)),
    "boundary": (ATTACKS["boundary"](L2, steps=300), foolbox(L2, "BoundaryAttack", steps=500)),
}


@pytest.mark.parametrize("ours, theirs", PAIRS.values(), ids=PAIRS)
def test_no_more_images_stand_than_under_the_library(network, ours, theirs):
    x, y = images(network, "saturated")
    left = robust(theirs, network, x, y)
    assert left < COUNT, "an attack that breaks nothing is no peer"
    assert robust(ours, network, x, y) <= left


def test_autoattack_leaves_what_pyautoattack_leaves(network):
    """At a radius where APGD alone leaves a part, and the ensembles hardly any: a survivor costs seconds."""
    x, y = images(network, "saturated")
    some, threat = torch.arange(0, COUNT, 6), ThreatModel("Linf", 0.012)
    assert robust(PGD(threat, 20, 0.002), network, x[some], y[some]) > 0
    left = robust(PyAutoAttack(threat, batch=COUNT), network, x[some], y[some])
    assert robust(ATTACKS["autoattack"](threat), network, x[some], y[some]) <= left < len(some)


@pytest.mark.parametrize(
    "threat, ours, name, settings",
    [
        (L2, "boundary", "BoundaryAttack", {"steps": 500}),
        (ThreatModel("L0", 10), "pointwise", "PointwiseAttack", {}),
    ],
)
def test_minimal_norm_attacks_go_no_farther_than_foolboxs(network, threat, ours, name, settings):
    x, y = images(network, "saturated")
    x, y = x[:10], y[:10]
    near = distance(threat.norm, x, run(ATTACKS[ours](threat), network, x, y))
    far = distance(threat.norm, x, run(Foolbox(threat, name, settings, batch=10), network, x, y))
    assert 0 < near.median() <= far.median()
