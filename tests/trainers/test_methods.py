"""Methods with several networks or several attacks: closed forms, who gets a gradient, reductions, cost, selection."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from methods import INNER, THREE, Y, bce, ce, cohort, kl, logits, method
from oracles import Linear, small_cnn
from test_loop import stripes

from attacks.contract import ThreatModel
from attacks.losses import boosted_cross_entropy, cross_entropy
from attacks.multi_steepest import MSD
from attacks.noise import Noise, derive_seed
from attacks.norms import distance
from attacks.pgd import PGD
from attacks.target import Target
from trainers import TRAINERS
from trainers.act import ACT
from trainers.alp import ALP
from trainers.at import AT
from trainers.at_ensemble import ATEnsemble
from trainers.at_multi import ATMSD, ATAvg, ATMax, worst_of
from trainers.cat import CAT, Arm
from trainers.contract import Cohort, Inner, perturbations, teachers_of
from trainers.dml import DML
from trainers.loop import fit
from trainers.mat import MAT
from trainers.mat_mp import MATMP
from trainers.natural import Natural
from trainers.regmix import RegMix
from trainers.schedule import Schedule
from trainers.validation import Split

EPOCH = Schedule(epochs=1, batch_size=16, lr=0.02, augment=False, validation_steps=2)
PLAIN = {"momentum": 0.0, "weight_decay": 0.0}
LN3 = math.log(3)


def losses_and_gradients(trainer, members=None, change=None):
    """The losses of one batch and, flat, the gradient of their sum in every network."""
    group, x, y = cohort(members or trainer.members)
    if change:
        change(group)
    losses = trainer.batch_loss(group, x, y)
    weights = [p for network in group.networks for p in network.parameters()]
    grads = torch.autograd.grad(sum(losses), weights, allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(weights, grads, strict=True)]
    return torch.stack(losses).detach(), torch.cat([g.flatten() for g in filled])


def reaches(loss, network):
    """Whether a loss has a gradient in any weight of the network."""
    grads = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True, allow_unused=True)
    return any(g is not None and g.abs().max() > 0 for g in grads)


def who_gets_a_gradient(trainer):
    """[loss][network] -> bool."""
    group, x, y = cohort(trainer.members)
    losses = trainer.batch_loss(group, x, y)
    return [[reaches(loss, network) for network in group.networks] for loss in losses]


def assert_same(first, second, atol=1e-7):
    assert all(torch.allclose(a, b, atol=atol) for a, b in zip(first, second, strict=True))
    assert first[1].norm() > 1e-3, "two zero gradients would prove nothing"


def states(networks):
    return [torch.cat([p.detach().flatten() for p in network.parameters()]) for network in networks]


# --- one network ---------------------------------------------------------------------------------------------------


def test_alp_by_hand_and_its_pull_on_both_sides():
    """p(clean) = (3/4, 1/4), p(adversarial) = (1/4, 3/4), label 0: (ln 4/3 + ln 4) / 2 + w (ln 3)^2."""
    clean = torch.tensor([[LN3, 0.0]], dtype=torch.float64, requires_grad=True)
    adversarial = torch.tensor([[0.0, LN3]], dtype=torch.float64, requires_grad=True)
    loss = ALP(INNER, weight=2.0).loss(clean, adversarial, torch.tensor([0]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2 + 2 * LN3**2)
    to_clean, to_adversarial = torch.autograd.grad(loss, (clean, adversarial))
    pull = 2 * LN3 * 2 / 2  # 2 w (z - z') / (B K)
    assert to_clean[0].tolist() == pytest.approx([-0.125 + pull, 0.125 - pull])
    assert to_adversarial[0].tolist() == pytest.approx([-0.375 - pull, 0.375 + pull])


def test_alp_without_pairing_is_training_on_half_clean_and_half_adversarial_images():
    class Half:
        members = 1

        def batch_loss(self, group, x, y):
            x_adv = group.attack(0, x, y, INNER, cross_entropy)
            both = torch.cat([x, x_adv])
            return [cross_entropy(group.networks[0](both), torch.cat([y, y])).mean()]

    assert_same(losses_and_gradients(ALP(INNER, weight=0.0)), losses_and_gradients(Half()), atol=1e-5)


def test_natural_training_sees_clean_images_only():
    group, x, y = cohort(1)
    (loss,) = Natural(INNER).batch_loss(group, x, y)
    assert torch.allclose(loss, ce(group.networks[0](x), y).mean()) and group.forward_passes == len(x)


def test_regmix_is_its_formula_and_each_weight_is_on_its_own_term():
    final, initial, clean = logits(0), logits(1), logits(2)
    loss = RegMix(INNER, alpha=2, beta=3, gamma=5).loss(final, initial, clean, Y)
    mutual = 2 * kl(final, initial).mean() + 3 * kl(initial, final).mean()
    assert torch.allclose(loss, ce(final, Y).mean() + mutual + 5 * kl(clean, final).mean())
    reverse = RegMix(INNER, alpha=2, beta=3, gamma=5, agr="reverse").loss(final, initial, clean, Y)
    assert torch.allclose(reverse, ce(final, Y).mean() + mutual + 5 * kl(final, clean).mean())
    smooth = RegMix(INNER, target_mass=0.7).label_loss(final, Y).mean()  # mass 1 - s + s / K: s = 0.4 for K = 4
    assert torch.allclose(smooth, torch.nn.functional.cross_entropy(final, Y, label_smoothing=0.4))


@pytest.mark.parametrize(
    ("detach", "moves"),
    [("none", (True, True)), ("initial", (False, True)), ("clean", (True, False)), ("both", (False, False))],
)
def test_regmix_stops_the_gradient_where_it_says(detach, moves):
    final, initial, clean = (logits(seed).requires_grad_(True) for seed in range(3))
    loss = RegMix(INNER, detach=detach).loss(final, initial, clean, Y)
    grads = torch.autograd.grad(loss, (final, initial, clean), allow_unused=True)
    assert grads[0].norm() > 0.01 and tuple(g is not None for g in grads[1:]) == moves


@pytest.mark.parametrize("start", ["uniform", "gaussian"])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_the_initial_point_is_where_the_attack_begins(norm, start):
    group, x, y = cohort(1)
    inner = Inner(eps=0.3, norm=norm, steps=1, step=0.0, start=start)
    begun = group.start(0, x, inner)
    assert torch.equal(begun, group.attack(0, x, y, inner, cross_entropy))
    assert (distance("Linf", x, begun) > 0).all() and ThreatModel(norm, 0.3).contains(x, begun).all()


def test_regmix_compares_the_points_it_says_and_without_weights_is_at():
    group, x, y = cohort(1)
    trainer = RegMix(INNER)
    (loss,) = trainer.batch_loss(group, x, y)
    network = group.networks[0]
    x_adv, begun = group.attack(0, x, y, INNER, cross_entropy), group.start(0, x, INNER)
    assert torch.allclose(loss, trainer.loss(network(x_adv), network(begun), network(x), y))
    nothing = RegMix(INNER, alpha=0, beta=0, gamma=0)
    assert_same(losses_and_gradients(nothing), losses_and_gradients(AT(INNER)))
    with pytest.raises(ValueError, match="uniform"):
        RegMix(dataclasses.replace(INNER, start="none"))


# --- several attacks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", range(3))
@pytest.mark.parametrize("kind", [ATAvg, ATMax, lambda inners: ATAvg(inners, sequential=True)])
def test_several_attacks_that_are_one_are_at(kind, norm):
    assert_same(losses_and_gradients(kind((THREE[norm],))), losses_and_gradients(AT(THREE[norm])))


def test_avg_is_the_mean_over_attacks_and_max_the_worst_for_each_image():
    group, x, y = cohort(1)
    losses = torch.stack(
        [ce(group.networks[0](group.attack(0, x, y, inner, cross_entropy)), y) for inner in THREE]
    ).detach()
    (average,), (worst,) = (kind(THREE).batch_loss(group, x, y) for kind in (ATAvg, ATMax))
    assert torch.allclose(average, losses.mean()) and torch.allclose(worst, losses.amax(0).mean())
    assert worst > losses.mean(1).max() + 1e-6, "the worst type must differ between images"


def test_the_worst_is_chosen_image_by_image():
    """Logits (x, 0) and label 0: the smaller pixel is worse. The second attack is worse for the first image only."""
    group = Cohort([Linear(torch.tensor([[1.0], [0.0]]), torch.zeros(2))])
    results = [torch.tensor([0.8, 0.1]).view(2, 1, 1, 1), torch.tensor([0.2, 0.9]).view(2, 1, 1, 1)]
    worst, which = worst_of(group, 0, results, torch.zeros(2, dtype=torch.int64), THREE[:2], cross_entropy)
    assert which.tolist() == [1, 0] and worst.flatten().tolist() == pytest.approx([0.2, 0.1])


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_msd_trains_on_multi_steepest_descent_with_the_radii_and_steps_of_the_attacks(loss):
    group, x, y = cohort(4)
    attack = MSD(
        ThreatModel("own", 0), linf=0.05, l2=0.3, l1=1.4, linf_step=0.03, l2_step=0.2, l1_step=1.0,
        steps=3, stop="last", loss=loss,
    )  # fmt: skip
    network = group.networks[0].eval()
    x_adv = attack(Target(network), x, y, group.noise.fork("network", 0))
    if loss == "ce":
        (ours,) = ATMSD(THREE, steps=3).batch_loss(group, x, y)
        assert torch.allclose(ours, ce(network(x_adv), y).mean())
    else:
        only_labels = MATMP(THREE, "msd", alpha=0.0, msd_steps=3)
        assert torch.allclose(only_labels.batch_loss(group, x, y)[0], bce(network(x_adv), y).mean(), atol=1e-5)


def test_msd_climbs_the_loss_it_is_given():
    model, x = small_cnn(1, 4).double(), torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    y = torch.arange(20) % 4
    own = {"stop": "last", "steps": 5, "linf": 0.1, "linf_step": 0.05}
    found = {
        loss: MSD(ThreatModel("own", 0), loss=loss, **own)(Target(model), x, y, Noise(0, torch.arange(20)))
        for loss in ("ce", "bce")
    }
    assert boosted_cross_entropy(model(found["bce"]), y).mean() > boosted_cross_entropy(model(found["ce"]), y).mean()
    assert cross_entropy(model(found["ce"]), y).mean() > cross_entropy(model(found["bce"]), y).mean()


@pytest.mark.parametrize("kind", [ATMSD, lambda inners: MATMP(inners, "msd")])
def test_msd_needs_one_attack_of_each_norm(kind):
    with pytest.raises(ValueError, match="one attack in each of Linf, L2 and L1; got Linf, L2"):
        kind(THREE[:2])


@pytest.mark.parametrize("kind", [ATAvg, ATMax, ATMSD, MATMP])
def test_no_attack_at_all_is_refused(kind):
    with pytest.raises(ValueError, match="inners is empty"):
        kind(())


def test_sequential_avg_steps_once_for_each_attack_against_the_network_of_the_step_before():
    """One batch: the same as three trainings of one attack and one step, one after the other."""
    data, schedule = stripes(16), dataclasses.replace(EPOCH, **PLAIN)
    together, apart = small_cnn(1, 2, 0), small_cnn(1, 2, 0)
    result = fit(ATAvg(THREE, sequential=True), [together], data, data, schedule, 0)
    separate = [fit(AT(inner), [apart], data, data, schedule, 0).history[0].loss for inner in THREE]
    assert torch.equal(*states([together, apart])) and result.history[0].loss == pytest.approx(sum(separate) / 3)
    assert not torch.equal(states([apart])[0], states([small_cnn(1, 2, 0)])[0])
    once = small_cnn(1, 2, 0)
    fit(ATAvg(THREE), [once], data, data, schedule, 0)
    assert not torch.allclose(states([once])[0], states([apart])[0], atol=1e-4)


# --- several networks ----------------------------------------------------------------------------------------------


def test_act_by_hand_with_temperature():
    """Student (3/4, 1/4), teacher (1/4, 3/4) at T = 2: logits twice ln 3. KL = ln 3 / 2, gradient T (q - p) / B."""
    student = torch.tensor([[2 * LN3, 0.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[0.0, 2 * LN3]], dtype=torch.float64)
    loss = ACT(INNER, temperature=2.0).loss(student, teacher, torch.tensor([1]), 0.9)
    assert loss.item() == pytest.approx(0.1 * math.log(10) + 0.9 * 4 * LN3 / 2)  # p at T = 1 is (9/10, 1/10)
    (grad,) = torch.autograd.grad(loss, student)
    assert grad[0, 0].item() == pytest.approx(0.1 * 0.9 + 0.9 * 2 * (3 / 4 - 1 / 4))


def test_acts_attack_is_the_kl_almost_alone_in_the_mixed_reduction():
    z, teacher = logits(0), logits(1)
    goal = torch.cat([teacher, Y[:, None].double()], 1)
    even, mixed = (ACT(INNER, attack_reduction=choice).ascent(5)(z, goal) for choice in ("mean", "mixed"))
    assert torch.allclose(even, 0.1 * ce(z, Y) + 0.9 * kl(teacher, z))
    assert torch.allclose(mixed, 0.1 / 5 * ce(z, Y) + 0.9 * kl(teacher, z))


def test_act_trains_both_networks_on_what_it_says_and_teachers_are_constants():
    trainer = ACT(INNER)
    group, x, y = cohort(2)
    robust, natural = trainer.batch_loss(group, x, y)
    g, f = group.networks
    goal = torch.cat([f(x).detach(), y[:, None].float()], 1)
    x_adv = group.attack(0, x, goal, INNER, trainer.ascent(6))
    assert torch.allclose(robust, trainer.loss(g(x_adv), f(x), y, 0.9))
    assert torch.allclose(natural, trainer.loss(f(x), g(x_adv), y, 0.9))
    assert who_gets_a_gradient(trainer) == [[True, False], [False, True]]
    assert [perturbations(trainer, n) for n in range(2)] == [(INNER,), ()]


def test_act_without_teaching_is_at_and_natural_training():
    class Apart:
        members = 2

        def batch_loss(self, group, x, y):
            return [AT(INNER).alone(group, 0, x, y).loss, ce(group.networks[1](x), y).mean()]

    none = ACT(INNER, alpha_robust=0.0, alpha_natural=0.0)
    assert_same(losses_and_gradients(none), losses_and_gradients(Apart()))


@pytest.mark.parametrize("networks", [2, 3])
def test_dml_is_its_formula_with_constant_peers(networks):
    clean = [logits(seed).requires_grad_(True) for seed in range(networks)]
    trainer = DML(INNER, networks=networks)
    for n in range(networks):
        loss = trainer.loss(n, clean, Y)
        taught = sum(kl(clean[m], clean[n]).mean() for m in range(networks) if m != n) / (networks - 1)
        assert torch.allclose(loss, ce(clean[n], Y).mean() + taught)
        grads = torch.autograd.grad(loss, clean, allow_unused=True)
        assert [g is not None for g in grads] == [m == n for m in range(networks)]
        p = clean[n].softmax(1).detach()
        mean_peer = sum(clean[m].softmax(1) for m in range(networks) if m != n).detach() / (networks - 1)
        one_hot = torch.nn.functional.one_hot(Y, 4)
        assert torch.allclose(grads[n], ((p - one_hot) + (p - mean_peer)) / 5)


def test_dml_without_teaching_is_natural_training_of_each():
    group, x, y = cohort(3)
    losses = DML(INNER, networks=3, weight=0.0).batch_loss(group, x, y)
    assert all(
        torch.allclose(loss, ce(network(x), y).mean()) for loss, network in zip(losses, group.networks, strict=True)
    )
    assert losses_and_gradients(DML(INNER))[0].sum() > losses_and_gradients(DML(INNER, weight=0.0))[0].sum() + 0.01


@pytest.mark.parametrize("teacher_grad", ["flow", "detach"])
@pytest.mark.parametrize("teacher_bn", ["train", "eval"])
def test_mats_natural_partner_learns_on_clean_images(teacher_grad, teacher_bn):
    trainer = MAT(INNER, first="natural", teacher_grad=teacher_grad, teacher_bn=teacher_bn)
    group, x, y = cohort(2)
    natural, robust = trainer.batch_loss(group, x, y)
    assert group.forward_passes == len(x) * (INNER.steps + (3 if teacher_bn == "train" else 4))
    h1, h2 = group.networks
    x_adv = group.attack(1, x, y, INNER, boosted_cross_entropy)
    assert torch.allclose(natural, 0.4 * bce(h1(x), y).mean() + 0.6 * kl(h2(x), h1(x)).mean(), atol=1e-5)
    assert torch.allclose(robust, 0.4 * bce(h2(x_adv), y).mean() + 0.6 * kl(h1(x), h2(x_adv)).mean(), atol=1e-5)
    flows = teacher_grad == "flow"
    assert who_gets_a_gradient(trainer) == [[True, flows], [flows, True]]
    assert [perturbations(trainer, n) for n in range(2)] == [(), (INNER,)]
    assert perturbations(MAT(INNER), 0) == (INNER,)


def test_a_specialist_learns_from_all_others_the_generalist_included():
    adversarial, clean = logits(9), [logits(seed) for seed in range(4)]
    trainer = MATMP(THREE)
    for m in (1, 2, 3):
        taught = sum(kl(clean[n], adversarial).mean() for n in range(4) if n != m)
        expected = 0.4 * bce(adversarial, Y).mean() + 0.6 / 3 * taught
        assert torch.allclose(trainer.specialist_loss(m, adversarial, clean, Y), expected)


def test_the_generalist_of_avg_max_and_msd():
    adversarial, clean = [logits(seed) for seed in (10, 11, 12)], [logits(seed) for seed in range(4)]
    trainer = MATMP(THREE)
    each = [0.4 * bce(adversarial[m], Y) + 0.6 * kl(clean[m + 1], adversarial[m]) for m in range(3)]
    assert torch.allclose(trainer.generalist_loss(adversarial, clean, Y), torch.stack(each).mean())
    which = torch.tensor([2, 0, 1, 1, 0])
    own = torch.stack([clean[1 + m][i] for i, m in enumerate(which)])
    expected = (0.4 * bce(adversarial[0], Y) + 0.6 * kl(own, adversarial[0])).mean()
    assert torch.allclose(trainer.generalist_loss(adversarial[:1], clean, Y, which), expected)
    taught = sum(kl(clean[m], adversarial[0]).mean() for m in (1, 2, 3))
    expected = 0.4 * bce(adversarial[0], Y).mean() + 0.6 / 3 * taught
    assert torch.allclose(trainer.generalist_loss(adversarial[:1], clean, Y), expected)


def test_avg_max_and_msd_coincide_when_attacks_and_specialists_agree():
    """Radius 0: every attack returns the image itself. Teachers that move would move differently: they are constant."""
    inners = tuple(dataclasses.replace(inner, eps=0.0, step=0.0) for inner in THREE)

    def one_specialist(group):
        for network in group.networks[2:]:
            network.load_state_dict(group.networks[1].state_dict())

    found = {
        kind: losses_and_gradients(MATMP(inners, kind, msd_steps=2, teacher_grad="detach"), change=one_specialist)
        for kind in ("avg", "max", "msd")
    }
    assert_same(found["avg"], found["max"], atol=1e-5)
    assert_same(found["avg"], found["msd"], atol=1e-5)


def test_max_takes_the_worst_type_and_its_specialist_for_each_image():
    trainer = MATMP(THREE, "max")
    group, x, y = cohort(4)
    loss = trainer.batch_loss(group, x, y)[0]
    h0 = group.networks[0]
    x_adv = [group.attack(0, x, y, inner, boosted_cross_entropy) for inner in THREE]
    label = torch.stack([bce(h0(each), y) for each in x_adv])
    taught = torch.stack([kl(group.networks[1 + m](x), h0(x_adv[m])) for m in range(3)])
    which = label.argmax(0)
    assert len(which.unique()) > 1, "the worst type must differ between images"
    rows = torch.arange(len(y))
    assert torch.allclose(loss, (0.4 * label + 0.6 * taught)[which, rows].mean(), atol=1e-5)


def test_each_specialist_meets_its_own_attack_and_is_validated_by_it():
    trainer = MATMP(THREE, alpha=0.0)
    group, x, y = cohort(4)
    losses = trainer.batch_loss(group, x, y)
    for m in (1, 2, 3):
        x_adv = group.attack(m, x, y, THREE[m - 1], boosted_cross_entropy)
        assert torch.allclose(losses[m], bce(group.networks[m](x_adv), y).mean(), atol=1e-5)
        assert perturbations(trainer, m) == (THREE[m - 1],)
    assert perturbations(trainer, 0) == THREE


def test_mat_mp_teachers_move_with_flow_only():
    assert who_gets_a_gradient(MATMP(THREE)) == [[True] * 4] * 4
    apart = [[n == m for n in range(4)] for m in range(4)]
    assert who_gets_a_gradient(MATMP(THREE, teacher_grad="detach")) == apart


@pytest.mark.parametrize(
    ("first", "second"),
    [(Arm("at"), Arm("trades", 2.0)), (Arm("trades"), Arm("alp", 1.0)), (Arm("mart", 3.0), Arm("at", start="uniform"))],
)
def test_cat_without_teaching_is_its_two_arms(first, second):
    class Apart:
        members = 2

        def batch_loss(self, group, x, y):
            return [arm.build(INNER).alone(group, n, x, y).loss for n, arm in enumerate((first, second))]

    assert_same(losses_and_gradients(CAT(INNER, (first, second), alpha=0.0)), losses_and_gradients(Apart()))


def test_cat_teaches_with_the_peers_logits_on_the_students_images():
    trainer = CAT(INNER, (Arm("trades"), Arm("alp", 1.0)))
    group, x, y = cohort(2)
    losses = trainer.batch_loss(group, x, y)
    own = [arm.build(INNER).alone(group, n, x, y) for n, arm in enumerate(trainer.arms)]
    for n, loss in enumerate(losses):
        taught = kl(group.networks[1 - n](own[n].x_adv), group.networks[n](own[n].x_adv)).mean()
        assert torch.allclose(loss, own[n].loss / 20 + 19 / 20 * taught, atol=1e-5)
    assert who_gets_a_gradient(trainer) == [[True, False], [False, True]]


def test_arms_are_the_methods_with_their_weights_and_starts():
    assert Arm("alp", 1.0, "uniform").build(INNER) == ALP(dataclasses.replace(INNER, start="uniform"), weight=1.0)
    built = [Arm(kind).build(INNER) for kind in ("at", "trades", "mart", "alp")]
    assert built == [TRAINERS[kind](INNER) for kind in ("at", "trades", "mart", "alp")]
    assert (Arm("trades", 2.0).build(INNER).beta, Arm("mart", 2.0).build(INNER).weight) == (2.0, 2.0)
    with pytest.raises(ValueError, match="AT has no weight"):
        Arm("at", 1.0)
    with pytest.raises(ValueError, match="gaussian"):
        CAT(dataclasses.replace(INNER, start="none"), (Arm("at"), Arm("trades")))


def test_networks_of_an_ensemble_know_nothing_of_each_other():
    """Each loss is AT's alone, on the network's own adversarial images, and has a gradient in that network only."""
    group, x, y = cohort(2)
    losses = ATEnsemble(INNER).batch_loss(group, x, y)
    for n, loss in enumerate(losses):
        group.begin()
        assert torch.equal(loss, AT(INNER).alone(group, n, x, y).loss)
        own, other = (list(group.networks[m].parameters()) for m in (n, 1 - n))
        assert any(grad.abs().sum() > 0 for grad in torch.autograd.grad(loss, own, retain_graph=True))
        grads = torch.autograd.grad(loss, other, retain_graph=True, allow_unused=True)
        assert all(grad is None for grad in grads)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ACT(INNER, alpha_robust=1.5), "alpha_robust = 1.5"),
        (lambda: ACT(INNER, temperature=0.0), "temperature = 0"),
        (lambda: DML(INNER, networks=1), "networks = 1"),
        (lambda: ATEnsemble(INNER, networks=1), "networks = 1"),
        (lambda: MATMP(THREE, alpha=-0.1), "alpha = -0.1"),
        (lambda: CAT(INNER, alpha=2.0), "alpha = 2"),
        (lambda: RegMix(INNER, beta=-1.0), "beta = -1"),
    ],
)
def test_settings_out_of_range_are_refused_with_what_was_given(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# --- in the loop ---------------------------------------------------------------------------------------------------

K, M, S, N = 2, 3, 2, 2  # steps, attacks, steps of MSD, networks
PASSES = {  # forward and backward passes for each image of a batch
    ("natural", ""): (1, 1),
    ("dd", ""): (2, 1),
    ("ard", ""): (K + 2, K + 1),
    ("rslad", ""): (K + 3, K + 2),
    ("adaad", ""): (2 * K + 2, 2 * K + 1),
    ("igdm", ""): (2 * K + 4, 2 * K + 2),
    ("saad", ""): (K + 6, K + 4),
    ("peeraid", ""): (K + 4, K + 3),
    ("lbgat", ""): (K + 3, K + 2),
    ("mat-offline", ""): (K + 2, K + 1),
    ("at", ""): (K + 1, K + 1),
    ("at-ensemble", ""): (N * (K + 1), N * (K + 1)),
    ("alp", ""): (K + 2, K + 2),
    ("trades", ""): (K + 3, K + 2),
    ("mart", ""): (K + 2, K + 2),
    ("ikl", ""): (K + 3, K + 2),
    ("adr", ""): (K + 2, K + 1),
    ("act", ""): (K + 2, K + 2),
    ("dml", ""): (N, N),
    ("mat", ""): (N * (K + 2), N * (K + 2)),
    ("at-avg", ""): (M * (K + 1), M * (K + 1)),
    ("at-max", ""): (M * (K + 1) + 1, M * K + 1),
    ("at-msd", ""): (4 * S + 1, S + 1),
    ("e-at", ""): (K + 1, K + 1),
    ("ramp", ""): (M * (K + 1), M * (K + 1)),
    ("mat-mp", "avg"): (2 * M * K + (M + 1) + 2 * M, 2 * M * K + (M + 1) + 2 * M),
    ("mat-mp", "max"): (2 * M * K + M + (M + 1) + M + 1, 2 * M * K + (M + 1) + M + 1),
    ("mat-mp", "msd"): (M * K + 4 * S + (M + 1) + M + 1, M * K + S + (M + 1) + M + 1),
    ("cat", ""): (2 * K + 1 + 3 + 2, 2 * K + 1 + 2),
    ("regmix", ""): (K + 3, K + 3),
}


def test_every_method_has_its_cost_written_down():
    assert {name for name, _ in PASSES} == set(TRAINERS)


@pytest.mark.parametrize(("name", "generalist"), PASSES)
def test_two_steps_on_noise_move_every_network_finitely_at_the_cost_of_the_formula(name, generalist):
    generator = torch.Generator().manual_seed(0)
    noise = Split(torch.rand(32, 1, 8, 8, generator=generator), torch.arange(32) % 4, torch.arange(32))
    trainer = method(name, **({"generalist": generalist} if generalist else {}))
    group = [small_cnn(1, 4, seed) for seed in range(trainer.members)]
    before = states(group)
    teachers = [small_cnn(1, 4, 99)] * teachers_of(trainer)
    result = fit(trainer, group, noise, noise, dataclasses.replace(EPOCH, lr=1e-3), 0, teachers=teachers)
    (report,) = result.history
    assert math.isfinite(report.loss) and len(report.robust) == trainer.members
    for old, new in zip(before, states(group), strict=True):
        assert torch.isfinite(new).all() and not torch.equal(old, new)
    assert (report.forward_passes / 32, report.backward_passes / 32) == PASSES[name, generalist]


def test_robust_is_the_union_over_what_a_network_is_trained_against():
    """A generalist is judged by all attacks together, a specialist by its own."""
    inners = tuple(
        dataclasses.replace(inner, eps=eps, step=eps) for inner, eps in zip(THREE, (0.08, 0.4, 2.0), strict=True)
    )
    group = [small_cnn(1, 4, seed) for seed in range(4)]
    x = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    validation = Split(x, group[0](x).argmax(1), torch.arange(60))
    train = Split(x[:8], torch.arange(8) % 4, torch.arange(8))
    report = fit(MATMP(inners), group, train, validation, dataclasses.replace(EPOCH, lr=0.0), 0).history[0]
    noise = Noise(derive_seed("validation", 0), validation.ids)

    def held(network, inner):
        pgd = PGD(ThreatModel(inner.norm, inner.eps), EPOCH.validation_steps, inner.step)
        x_adv = pgd(Target(network), validation.x, validation.y, noise)
        right = network(validation.x).argmax(1) == validation.y
        return right & (network(x_adv).argmax(1) == validation.y)

    every = torch.stack([held(group[0], inner) for inner in inners])
    assert report.robust[0] == pytest.approx(every.all(0).float().mean().item())
    assert 0 < every.all(0).sum() < every.sum(1).min(), "the attacks must get different images"
    for m in (1, 2, 3):
        assert report.robust[m] == pytest.approx(held(group[m], inners[m - 1]).float().mean().item())


def test_best_of_a_natural_network_is_its_best_clean_accuracy():
    """At this radius the network is most robust while it still gets half of the images wrong."""
    data, validation = stripes(64), stripes(40, 1)
    inner = dataclasses.replace(INNER, eps=0.15, step=0.075)
    schedule = dataclasses.replace(EPOCH, epochs=6, kind="cyclic", lr=0.002)
    result = fit(Natural(inner), [small_cnn(1, 2, 0)], data, validation, schedule, 0)
    clean, robust = ([getattr(report, what)[0] for report in result.history] for what in ("clean", "robust"))
    assert robust.index(max(robust)) != clean.index(max(clean)), "the two must disagree"
    assert result.best[0].epoch == 1 + clean.index(max(clean)) and result.best[0].clean == max(clean)
