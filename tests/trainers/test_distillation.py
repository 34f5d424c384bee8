"""RSLAD, AdaAD, IGDM, PeerAiD and LBGAT: losses in closed form, gradients by hand, and what each attack climbs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from methods import INNER, Y, ce, cohort, kl, logits, method
from torch import Tensor, nn

from attacks.losses import kl_divergence
from bench.contracts.problems import small_cnn, stripes
from trainers.adaad import AdaAD
from trainers.contract import Cohort, Inner
from trainers.igdm import IGDM
from trainers.lbgat import LBGAT
from trainers.loop import fit
from trainers.peeraid import PEER, STUDENT, PeerAiD
from trainers.rslad import RSLAD
from trainers.schedule import Schedule

GAUSSIAN = dataclasses.replace(INNER, start="gaussian")


def slope_of_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """d mean KL(p_T || p_S) / d z_S = (p_S - p_T) / B."""
    return (student.softmax(1) - teacher.softmax(1)) / len(student)


def slope_in_teacher(student: Tensor, teacher: Tensor) -> Tensor:
    """d mean KL(p_T || p_S) / d z_T = p_T (log(p_T / p_S) - KL) / B."""
    p, q = teacher.softmax(1), student.softmax(1)
    return p * ((p / q).log() - kl(teacher, student)[:, None]) / len(student)


def slopes(loss: Tensor, *variables: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, variables))


def wanted(*seeds: int) -> list[Tensor]:
    """Logits that want a gradient."""
    return [logits(seed).requires_grad_(True) for seed in seeds]


# --- losses and gradients ------------------------------------------------------------------------------------------


def test_rslad_is_its_formula_and_its_gradient_is_by_hand():
    adversarial, clean, teacher = *wanted(0, 1), logits(2)
    loss = RSLAD(INNER).loss(adversarial, clean, teacher)
    assert torch.allclose(loss, 5 / 6 * kl(teacher, adversarial).mean() + 1 / 6 * kl(teacher, clean).mean())
    first, second = slopes(loss, adversarial, clean)
    assert torch.allclose(first, 5 / 6 * slope_of_kl(adversarial, teacher))
    assert torch.allclose(second, 1 / 6 * slope_of_kl(clean, teacher))
    assert torch.allclose(RSLAD(INNER, reduction="mean").loss(adversarial, clean, teacher), loss / 4)


def test_adaad_compares_with_the_teacher_on_the_same_image():
    (student,), teacher, clean, taught = wanted(0), logits(1), logits(2), logits(3)
    loss = AdaAD(INNER).loss([(student, teacher)])
    assert torch.allclose(loss, kl(teacher, student).mean())
    assert torch.allclose(slopes(loss, student)[0], slope_of_kl(student, teacher))
    both = AdaAD(INNER, alpha=0.7).loss([(student, teacher), (clean, taught)])
    assert torch.allclose(both, 0.7 * kl(teacher, student).mean() + 0.3 * kl(taught, clean).mean())
    assert torch.allclose(AdaAD(INNER, reduction="mean").loss([(student, teacher)]), loss / 4)


@pytest.mark.parametrize("progress", [0.25, 1.0])
def test_igdm_matches_differences_with_a_weight_that_rises(progress: float):
    plus, minus, taught = *wanted(0, 1), (logits(2), logits(3))
    loss = IGDM(INNER, alpha=3.0).loss((plus, minus), taught, progress)
    apart, taught_apart = plus - minus, taught[0] - taught[1]
    assert torch.allclose(loss, kl(taught[0], plus).mean() + 3 * progress * kl(taught_apart, apart).mean())
    first, second = slopes(loss, plus, minus)
    steep = 3 * progress * slope_of_kl(apart, taught_apart)
    assert torch.allclose(first, slope_of_kl(plus, taught[0]) + steep) and torch.allclose(second, -steep)


def test_igdm_of_a_student_with_the_differences_of_its_teacher_is_adaad():
    plus, minus = logits(0), logits(1)
    taught = plus + logits(2), minus + logits(2)
    assert torch.allclose(IGDM(INNER).loss((plus, minus), taught, 1.0), kl(taught[0], plus).mean())


def test_peeraid_is_its_formula_for_student_and_peer():
    student, clean, (peer,) = *wanted(0, 1), wanted(2)
    weights = {"gamma1": 0.9, "gamma2": 0.3, "lambda1": 0.2, "lambda2": 0.7, "lambda3": 0.4}
    method = PeerAiD(INNER, **weights, temperature=3.0, reduction="batchmean")
    taught, steady = kl(peer / 3, student / 3).mean(), kl(clean / 3, student / 3).mean()
    loss = method.student_loss(student, peer.detach(), clean, Y)
    assert torch.allclose(loss, 0.2 * ce(student, Y).mean() + 9 * (0.7 * taught + 0.4 * steady))
    label = (student.softmax(1) - nn.functional.one_hot(Y, 4)) / 5
    cold = 0.7 * slope_of_kl(student / 3, peer / 3) + 0.4 * slope_of_kl(student / 3, clean / 3)
    own, through = slopes(loss, student, clean)
    assert torch.allclose(own, 0.2 * label + 3 * cold)
    assert torch.allclose(through, 3 * 0.4 * slope_in_teacher(student / 3, clean / 3))
    other = method.peer_loss(peer, student, Y)
    assert torch.allclose(other, 0.9 * ce(peer, Y).mean() + 0.3 * kl(student, peer).mean())


def test_peeraid_divides_each_kl_by_the_classes_and_no_cross_entropy():
    student, clean, peer = logits(0), logits(1), logits(2)
    method = PeerAiD(INNER)
    expected = 25 / 4 * (kl(peer / 5, student / 5) + kl(clean / 5, student / 5)).mean()
    assert torch.allclose(method.student_loss(student, peer, clean, Y), expected)
    assert torch.allclose(method.peer_loss(peer, student, Y), ce(peer, Y).mean() + 0.1 / 4 * kl(student, peer).mean())


def test_lbgat_pulls_both_networks_to_each_other():
    adversarial, natural, (clean,) = *wanted(0, 1), wanted(2)
    loss = LBGAT(GAUSSIAN).loss(adversarial, natural, None)
    assert torch.allclose(loss, ((adversarial - natural) ** 2).sum() / 20)
    first, second = slopes(loss, adversarial, natural)
    assert torch.allclose(first, (adversarial - natural) / 10) and torch.allclose(second, -first)
    six = LBGAT(GAUSSIAN, beta=6.0).loss(adversarial, natural, clean)
    assert torch.allclose(six, loss + 6 * kl(clean, adversarial).mean())
    assert torch.allclose(slopes(six, clean)[0], 6 * slope_in_teacher(adversarial, clean))


# --- which network learns from what --------------------------------------------------------------------------------


def reached(loss: Tensor, network: nn.Module) -> bool:
    grads = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True, allow_unused=True)
    return any(grad is not None and bool(grad.abs().sum() > 0) for grad in grads)


@pytest.mark.parametrize(("choice", "flows"), [("flow", True), ("detach", False)])
def test_peeraid_peer_is_a_constant_for_the_student_and_the_student_for_the_peer_if_so_chosen(choice: str, flows: bool):
    group, x, y = cohort(2)
    student, peer = PeerAiD(GAUSSIAN, teacher_grad=choice).batch_loss(group, x, y)
    assert reached(student, group.networks[STUDENT]) and not reached(student, group.networks[PEER])
    assert reached(peer, group.networks[PEER]) and reached(peer, group.networks[STUDENT]) == flows


def test_lbgat_moves_the_natural_network_through_the_square_too():
    group, x, y = cohort(2)
    pull, label = LBGAT(GAUSSIAN).batch_loss(group, x, y)
    assert reached(pull, group.networks[0]) and reached(pull, group.networks[1])
    assert reached(label, group.networks[1]) and not reached(label, group.networks[0])


@pytest.mark.parametrize("name", ["rslad", "adaad", "igdm"])
def test_a_frozen_teacher_stays_without_gradient_and_labels_are_not_seen(name: str):
    group, x, y = cohort(1)
    (loss,) = method(name).batch_loss(group, x, y)
    group.begin()
    (other,) = method(name).batch_loss(group, x, y.flip(0))
    assert torch.equal(loss, other)
    loss.backward()
    assert all(p.grad is None for p in group.teachers[0].parameters())


# --- what the attacks climb ----------------------------------------------------------------------------------------


class Line(nn.Module):
    """Two classes from one pixel: logits (slope x + bias, 0)."""

    def __init__(self, slope: float, bias: float = 0.0) -> None:
        super().__init__()
        self.slope, self.bias = nn.Parameter(torch.tensor(slope)), bias

    def forward(self, x: Tensor) -> Tensor:
        z = self.slope * x.flatten(1) + self.bias
        return torch.cat([z, torch.zeros_like(z)], 1)


def test_adaad_climbs_through_the_teacher_too():
    """At x = 0.5 the student says 0 and the teacher 1. With a constant teacher the KL grows as x falls; but the teacher
    rises four times as fast as the student, so that the two part with x.
    """
    group = Cohort([Line(1.0, -0.5)], teachers=[Line(4.0, -1.0)])
    x, inner = torch.full((1, 1, 1, 1), 0.5), Inner(eps=0.1, steps=1, step=0.1, start="none")
    constant = group.attack(0, x, group.taught(x), inner, kl_divergence)
    group.begin()
    before = group.forward_passes
    moving = group.attack_beside_teacher(0, x, inner, kl_divergence)
    assert constant.item() == pytest.approx(0.4) and moving.item() == pytest.approx(0.6)
    assert group.forward_passes - before == 2, "one of each network"
    assert all(p.grad is None for network in (*group.networks, *group.teachers) for p in network.parameters())


def test_the_loop_tells_a_method_how_far_the_training_is():
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watching(IGDM):
        def loss(self, student, teacher, progress):
            seen.append(progress)
            return super().loss(student, teacher, progress)

    data, schedule = stripes(8), Schedule(epochs=4, batch_size=8, lr=0.01, validation_steps=1)
    fit(Watching(GAUSSIAN), [small_cnn(1, 2, 0)], data, data, schedule, 0, teachers=[small_cnn(1, 2, 9)])
    assert seen == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RSLAD(INNER, alpha=1.2), "alpha = 1.2"),
        (lambda: AdaAD(INNER, alpha=-0.1), "alpha = -0.1"),
        (lambda: IGDM(INNER, alpha=-1.0), "alpha = -1"),
        (lambda: PeerAiD(INNER, gamma2=-1.0), "gamma2 = -1"),
        (lambda: PeerAiD(INNER, temperature=0.0), "temperature = 0"),
        (lambda: LBGAT(GAUSSIAN, beta=-6.0), "beta = -6"),
        (lambda: LBGAT(dataclasses.replace(INNER, start="none")), "start = 'gaussian'"),
    ],
)
def test_settings_out_of_range_are_refused(build, message: str):
    with pytest.raises(ValueError, match=message):
        build()
