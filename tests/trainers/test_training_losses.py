"""Losses of the methods: closed forms on hand-made logits, which tensors carry gradient, and reductions."""

from __future__ import annotations

import pytest
import torch
from methods import THREE, Y, bce, ce, cohort, kl, logits, method

from attacks.losses import boosted_cross_entropy, cross_entropy, kl_divergence
from attacks.noise import Noise
from trainers import TRAINERS
from trainers.act import ACT
from trainers.alp import ALP
from trainers.contract import Inner, in_mode
from trainers.dml import DML
from trainers.mart import MART
from trainers.mat import MAT
from trainers.mat_mp import MATMP
from trainers.regmix import RegMix
from trainers.trades import TRADES

INNER = Inner(eps=0.05, steps=2, step=0.03)


def test_kl_reductions_and_direction():
    p, q = logits(0), logits(1)
    ours = kl_divergence(q, p).mean()
    ready_made = torch.nn.functional.kl_div(q.log_softmax(1), p.softmax(1), reduction="none")
    assert torch.allclose(ours, ready_made.sum(1).mean())
    assert torch.allclose(ours, ready_made.mean() * 4) and torch.allclose(ours, ready_made.sum() / 5)
    assert not torch.allclose(ours, kl_divergence(p, q).mean())


def test_mart_is_its_formula_and_the_guards_change_it_little():
    clean, adversarial = logits(0), logits(1)
    true = clean.softmax(1)[torch.arange(5), Y]
    expected = bce(adversarial, Y).mean() + 5 * (kl(clean, adversarial) * (1 - true)).mean()
    assert torch.allclose(MART(INNER).loss(clean, adversarial, Y), expected)
    guarded = MART(INNER, eps_guard=True).loss(clean, adversarial, Y)
    assert 0 < abs(guarded - expected) < 0.012


def test_mart_moves_the_clean_branch_through_the_kl_and_through_its_weight():
    clean, adversarial = logits(0).requires_grad_(True), logits(1)
    (whole,) = torch.autograd.grad(MART(INNER).loss(clean, adversarial, Y), clean)
    true = clean.softmax(1)[torch.arange(5), Y]
    (kl_only,) = torch.autograd.grad(5 * (kl(clean, adversarial) * (1 - true.detach())).mean(), clean)
    (weight_only,) = torch.autograd.grad(5 * (kl(clean, adversarial).detach() * (1 - true)).mean(), clean)
    assert weight_only.norm() > 0.01 and torch.allclose(whole, kl_only + weight_only)


@pytest.mark.parametrize("networks", [2, 3])
def test_mat_is_equation_5(networks):
    adversarial, clean = logits(0), [logits(seed) for seed in range(10, 10 + networks)]
    for n in range(networks):
        taught = sum(kl(clean[m], adversarial).mean() for m in range(networks) if m != n)
        expected = 0.4 * bce(adversarial, Y).mean() + 0.6 / (networks - 1) * taught
        assert torch.allclose(MAT(INNER, networks=networks).loss(n, adversarial, clean, Y), expected)


def test_mat_teacher_gradient_is_the_closed_form_or_nothing():
    """d KL(p_T || p_S) / d z_T = p_T (log(p_T / p_S) - KL) / B, times alpha."""
    adversarial, teacher = logits(0), logits(1).requires_grad_(True)
    loss = MAT(INNER).loss(0, adversarial, [logits(2), teacher], Y)
    (grad,) = torch.autograd.grad(loss, teacher)
    p, q = teacher.softmax(1), adversarial.softmax(1)
    expected = 0.6 * p * ((p / q).log() - kl(teacher, adversarial)[:, None]) / 5
    assert torch.allclose(grad, expected.detach())
    group, x, y = cohort(2)
    for choice, reaches in (("flow", True), ("detach", False)):
        group.noise = Noise(1, torch.arange(len(x)))
        first, _ = MAT(INNER, teacher_grad=choice).batch_loss(group, x, y)
        grads = torch.autograd.grad(first, list(group.networks[1].parameters()), allow_unused=True)
        assert any(g is not None for g in grads) == reaches


def test_mat_without_teaching_is_independent_boosted_training_and_with_only_teaching_ignores_labels():
    adversarial, clean = logits(0), [logits(1), logits(2)]
    assert torch.allclose(MAT(INNER, alpha=0).loss(0, adversarial, clean, Y), bce(adversarial, Y).mean())
    only = MAT(INNER, alpha=1)
    assert torch.allclose(only.loss(0, adversarial, clean, Y), only.loss(0, adversarial, clean, Y.flip(0)))


def test_trades_is_its_formula_with_gradient_in_both_sides():
    group, x, y = cohort(1)
    trades = TRADES(Inner(eps=0.05, steps=2, step=0.03, start="gaussian"))
    (loss,) = trades.batch_loss(group, x, y)
    network = group.networks[0]
    x_adv = group.attack(0, x, network(x).detach(), trades.inner, kl_divergence)
    clean, adversarial = network(x), network(x_adv)
    assert torch.allclose(loss, cross_entropy(clean, y).mean() + 6 * kl(clean, adversarial).mean(), atol=1e-5)
    grads = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    both = torch.autograd.grad(
        cross_entropy(network(x), y).mean() + 6 * kl(network(x), network(x_adv)).mean(), list(network.parameters())
    )
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(grads, both, strict=True))


def test_trades_refuses_a_start_where_its_gradient_is_zero():
    z = logits(0).requires_grad_(True)
    (grad,) = torch.autograd.grad(kl_divergence(z, z.detach()).sum(), z)
    assert grad.abs().max() < 1e-12
    with pytest.raises(ValueError, match="gaussian"):
        TRADES(Inner(eps=0.05, start="none"))


def test_boosted_loss_agrees_with_the_direct_form():
    assert torch.allclose(boosted_cross_entropy(logits(3), Y), bce(logits(3), Y))


@pytest.mark.parametrize("name", sorted(TRAINERS))
def test_attacks_leave_modes_buffers_and_gradients_alone(name):
    trainer = method(name)
    group, x, y = cohort(trainer.members)
    for network in group.networks:
        network.append(torch.nn.BatchNorm1d(4))
    before = [network[-1].running_mean.clone() for network in group.networks]
    group.attack(0, x, y, INNER, cross_entropy)
    assert torch.equal(group.networks[0][-1].running_mean, before[0])
    assert all(network.training for network in group.networks)
    assert all(p.grad is None for network in group.networks for p in network.parameters())
    losses = trainer.batch_loss(group, x, y)
    assert len(losses) == trainer.members and all(loss.dim() == 0 for loss in losses)
    assert not torch.equal(group.networks[0][-1].running_mean, before[0]), "training passes do count"


def test_attack_in_training_mode_does_use_batch_statistics():
    group, x, y = cohort(1)
    group.networks[0].append(torch.nn.BatchNorm1d(4))
    eval_mode = group.attack(0, x, y, INNER, cross_entropy)
    train_mode = group.attack(0, x, y, Inner(0.05, steps=2, step=0.03, bn="train"), cross_entropy)
    assert not torch.equal(eval_mode, train_mode)
    with in_mode(group.networks[0], "eval"):
        assert not group.networks[0].training
    assert group.networks[0].training


def smooth_ce(z: torch.Tensor, y: torch.Tensor, s: float) -> torch.Tensor:
    """Per image: 1 - s on the label and s / K on every class."""
    return (1 - s) * ce(z, y) - s * z.softmax(1).log().mean(1)


@pytest.mark.parametrize("s", [0.0, 0.3])
def test_label_smoothing_is_in_the_label_of_each_loss_and_nowhere_else(s: float):
    clean, adversarial, others = logits(0), logits(1), [logits(2), logits(3), logits(4), logits(5)]
    one = smooth_ce(adversarial, Y, s)
    boosted = bce(adversarial, Y) - ce(adversarial, Y) + one
    assert torch.allclose(cross_entropy(adversarial, Y, s), one)
    assert torch.allclose(boosted_cross_entropy(adversarial, Y, s), boosted)
    rest = TRADES(INNER).loss(clean, adversarial, Y) - ce(clean, Y).mean()
    assert torch.allclose(TRADES(INNER).loss(clean, adversarial, Y, s), rest + smooth_ce(clean, Y, s).mean())
    for guard in (False, True):
        mart = MART(INNER, eps_guard=guard)
        rest = mart.loss(clean, adversarial, Y) - ce(adversarial, Y).mean()
        assert torch.allclose(mart.loss(clean, adversarial, Y, s), rest + one.mean())
    alp = ALP(INNER)
    rest = alp.loss(clean, adversarial, Y) - (ce(clean, Y).mean() + ce(adversarial, Y).mean()) / 2
    assert torch.allclose(alp.loss(clean, adversarial, Y, s), rest + (smooth_ce(clean, Y, s).mean() + one.mean()) / 2)
    gain = one.mean() - ce(adversarial, Y).mean()
    act, dml, mat, mat_mp = ACT(INNER), DML(INNER), MAT(INNER, alpha=0.6), MATMP(THREE, alpha=0.6)
    for share, loss in (
        (0.1, lambda *more: act.loss(adversarial, clean, Y, 0.9, *more)),
        (1.0, lambda *more: dml.loss(0, [adversarial, clean], Y, *more)),
        (0.4, lambda *more: mat.loss(0, adversarial, [clean, others[0]], Y, *more)),
        (0.4, lambda *more: mat_mp.specialist_loss(1, adversarial, others, Y, *more)),
        (0.4, lambda *more: mat_mp.generalist_loss([adversarial] * 3, others, Y, None, *more)),
    ):
        assert torch.allclose(loss(s), loss() + share * gain)


def test_label_smoothing_comes_on_top_of_regmix_target_mass():
    z, mass, s = logits(1), 0.7, 0.3
    target = torch.full((5, 4), (1 - mass) / 3).double()
    target[torch.arange(5), Y] = mass
    expected = -(((1 - s) * target + s / 4) * z.softmax(1).log()).sum(1)
    assert torch.allclose(RegMix(INNER, target_mass=mass).label_loss(z, Y, s), expected)
