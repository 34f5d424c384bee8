"""Ours and the libraries' on one network and the same images: the same numbers where the rule is the same, and never
weaker where it is not. docs/attacks.md has the list of differences."""

from __future__ import annotations

import pytest
import torch
from attacking import run
from oracles import saturated_images, small_cnn
from slowly import slow

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
    """All classes occur among its labels, and at these radii a part of the images stands. Its logits are of a trained
    network's size: for an untrained one our attacks have another unit (`attacks.scale`), and the libraries have not.
    """
    model, x = small_cnn(), saturated_images(COUNT, (3, 16, 16), 3)
    with torch.no_grad():
        model[-1].bias.sub_(model(x).mean(0))
        for value in (model[-1].weight, model[-1].bias):
            value.mul_(8)
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


@pytest.mark.slow
def test_autoattack_leaves_what_pyautoattack_leaves(network):
    """At a radius where APGD alone leaves a part, and the ensembles hardly any: a survivor costs seconds."""
    x, y = images(network, "saturated")
    some, threat = torch.arange(0, COUNT, 6), ThreatModel("Linf", 0.012)
    assert robust(PGD(threat, 20, 0.002), network, x[some], y[some]) > 0
    left = robust(PyAutoAttack(threat, batch=COUNT), network, x[some], y[some])
    assert robust(ATTACKS["autoattack"](threat), network, x[some], y[some]) <= left < len(some)


L0 = ThreatModel("L0", 10)
DAILY = ("boundary-500", "pointwise-l0")
MINIMAL = {  # norm, ours and its settings, foolbox's and its, images
    "boundary-500": (L2, "boundary", {"steps": 250}, "BoundaryAttack", {"steps": 500}, 10),
    "boundary-2000": (L2, "boundary", {"steps": 1000}, "BoundaryAttack", {"steps": 2000}, 10),
    "pointwise-l0": (L0, "pointwise", {}, "PointwiseAttack", {}, 10),
    "pointwise-l1": (L1, "pointwise", {}, "PointwiseAttack", {}, 10),
    "pointwise-l2": (L2, "pointwise", {}, "PointwiseAttack", {}, 10),
    "salt-and-pepper-l0": (L0, "salt-and-pepper", {}, "SaltAndPepperNoiseAttack", {"steps": 1000}, 20),
    "salt-and-pepper-l1": (L1, "salt-and-pepper", {}, "SaltAndPepperNoiseAttack", {"steps": 1000}, 20),
    "salt-and-pepper-l2": (L2, "salt-and-pepper", {}, "SaltAndPepperNoiseAttack", {"steps": 1000}, 20),
}


@pytest.mark.parametrize(
    "threat, ours, settings, name, theirs, count",
    [
        *(pytest.param(*MINIMAL[one], id=one) for one in DAILY),
        *slow(pytest.param(*case, id=one) for one, case in MINIMAL.items() if one not in DAILY),
    ],
)
def test_minimal_norm_attacks_go_no_farther_than_foolboxs_on_no_more_queries(
    network, threat, ours, settings, name, theirs, count
):
    """Both by the median image. foolbox's queries include the verdict that the adapter adds, at most three."""
    x, y = (part[:count] for part in images(network, "saturated"))
    lengths, queries = [], []
    for attack in (ATTACKS[ours](threat, **settings), Foolbox(threat, name, theirs, batch=count)):
        target = Target(network).counting(count)
        x_adv = attack(target, x, y, Noise(0, torch.arange(count)))
        with torch.no_grad():
            assert (network(x_adv).argmax(1) != y).all()
        lengths.append(distance(threat.norm, x, x_adv).median())
        queries.append(target.passes_per_image[0].median())
    assert 0 < lengths[0] <= lengths[1] and queries[0] <= queries[1]


def test_gaussian_noise_fools_as_often_as_foolboxs_with_fewer_queries(network):
    """Draws differ, chances do not: 200 images, each drawn for up to 10 times, at a radius where some stand."""
    threat, count = ThreatModel("L2", 2.0), 200
    x = saturated_images(count, (3, 16, 16), 3)
    with torch.no_grad():
        y = network(x).argmax(1)
    stand, queries = [], []
    name = "L2ClippingAwareRepeatedAdditiveGaussianNoiseAttack"
    for attack in (
        ATTACKS["gaussian-noise"](threat, repeats=10),
        Foolbox(threat, name, {"repeats": 10}, batch=count),
    ):
        target = Target(network).counting(count)
        x_adv = attack(target, x, y, Noise(0, torch.arange(count)))
        with torch.no_grad():
            stand.append(int((network(x_adv).argmax(1) == y).sum()))
        queries.append(target.forward_passes)
    assert abs(stand[0] - stand[1]) <= 3 * (2 * count / 4) ** 0.5, "three standard deviations of the difference"
    assert 0.1 < stand[0] / count < 0.9 and queries[0] < queries[1]
