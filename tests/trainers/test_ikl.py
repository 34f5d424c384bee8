"""IKL: loss and gradients by hand, what it has of TRADES' KL, and the class weights that an epoch leaves the next."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from methods import INNER, Y, ce, cohort, kl, logits
from torch import Tensor, nn

from attacks.losses import kl_divergence
from trainers.ikl import IKL

K, B = 4, 5


def rows(seed: int, count: int = K) -> Tensor:
    """Random weights [count, K] whose rows sum to 1."""
    return logits(seed, count).softmax(1)


def test_the_squared_error_is_over_all_pairs_of_logits_and_the_label_is_soft():
    clean, adversarial, weights = logits(0), logits(1), rows(2)
    pairs = torch.zeros(B, dtype=torch.float64)
    for i in range(B):
        s, d = weights[Y[i]], clean[i] - adversarial[i]
        pairs[i] = sum(s[j] * s[k] * (d[j] - d[k]) ** 2 for j in range(K) for k in range(K)) / 4
    soft = kl(clean, adversarial) - (clean.softmax(1) * clean.softmax(1).log()).sum(1)
    loss = IKL(INNER, alpha=3.0, beta=7.0).loss(clean, adversarial, Y, weights)
    assert torch.allclose(loss, (ce(clean, Y) + 7 * pairs + 3 * soft).mean())


def test_the_error_moves_both_sides_and_the_soft_label_is_a_constant():
    clean, adversarial, weights = logits(0).requires_grad_(True), logits(1).requires_grad_(True), rows(2)
    loss = IKL(INNER, alpha=3.0, beta=7.0).loss(clean, adversarial, Y, weights)
    to_clean, to_adversarial = torch.autograd.grad(loss, (clean, adversarial))
    s, d = weights[Y], (clean - adversarial).detach()
    pull = 7 * s * (d - (s * d).sum(1, keepdim=True)) / B
    p, q = clean.detach().softmax(1), adversarial.detach().softmax(1)
    assert torch.allclose(to_clean, (p - nn.functional.one_hot(Y, K)) / B + pull)
    assert torch.allclose(to_adversarial, 3 * (q - p) / B - pull)


def test_weighed_by_its_own_probabilities_it_moves_the_clean_side_as_the_kl_does_and_the_other_by_one_term_more():
    """The paper's theorem: KL = squared error, which stops at the adversarial side, + soft cross-entropy."""
    clean, adversarial, y = logits(0, K).requires_grad_(True), logits(1, K).requires_grad_(True), torch.arange(K)
    whole = IKL(INNER, alpha=1.0, beta=1.0).loss(clean, adversarial, y, clean.detach().softmax(1)) - ce(clean, y).mean()
    ours = torch.autograd.grad(whole, (clean, adversarial), retain_graph=True)
    theirs = torch.autograd.grad(kl(clean, adversarial).mean(), (clean, adversarial))
    assert torch.allclose(ours[0], theirs[0])
    assert torch.allclose(ours[1], theirs[1] - theirs[0]), "the asymmetry that IKL breaks"
    assert theirs[0].abs().max() > 1e-2


def test_a_batch_is_trained_on_what_trades_attacks_with_uniform_weights_at_first():
    inner = dataclasses.replace(INNER, start="gaussian")
    group, x, y = cohort(1)
    (loss,) = IKL(inner).batch_loss(group, x, y)
    group.begin()
    goal = group.networks[0](x).detach()
    x_adv = group.attack(0, x, goal, inner, kl_divergence)
    clean, adversarial = group.networks[0](x), group.networks[0](x_adv)
    d = clean - adversarial
    soft = -(clean.softmax(1) * adversarial.softmax(1).log()).sum(1)
    assert torch.allclose(loss, (ce(clean, y) + 20 * d.var(1, correction=0) / 2 + 4 * soft).mean(), rtol=1e-4)


def test_class_weights_are_the_mean_answers_to_a_label_in_the_epoch_before():
    method, (group, _, _) = IKL(INNER, temperature=2.0), cohort(1)
    first, second, third = logits(0), logits(1), logits(2)
    labels = Y, torch.tensor([0, 0, 1, 1, 2]), Y
    group.progress = 0.25
    for z, y in zip((first, second), labels, strict=False):
        assert torch.allclose(method.weights(group, z, y), torch.full((K, K), 0.25).double()), "of no epoch yet"
        method.weights(group, z, y)  # asked for again, as AWP does: counts once
        group.remember()
    group.progress = 0.5
    used = method.weights(group, third, Y)
    answers, of = torch.cat([first, second]).div(2).softmax(1), torch.cat(labels[:2])
    for label in range(K):
        assert torch.allclose(used[label], answers[of == label].mean(0))
    group.remember()
    assert torch.equal(method.weights(group, first, Y), used), "one for the whole epoch"
    group.remember()
    group.progress = 0.75
    last = method.weights(group, first, Y)
    answers, of = torch.cat([third, first]).div(2).softmax(1), torch.cat([Y, Y])
    assert torch.allclose(last[2], answers[of == 2].mean(0)), "of the last epoch alone"


def test_a_label_without_an_image_has_uniform_weights():
    method, (group, _, _) = IKL(INNER), cohort(1)
    group.progress = 0.5
    method.weights(group, logits(0), torch.zeros(B, dtype=torch.int64))
    group.remember()
    group.progress = 1.0
    used = method.weights(group, logits(1), Y)
    assert torch.allclose(used[1:], torch.full((3, K), 0.25).double()) and not torch.allclose(used[0], used[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"alpha": -1.0}, "alpha = -1"), ({"beta": -2.0}, "beta = -2"), ({"temperature": 0.0}, "temperature = 0")],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        IKL(INNER, **settings)


def test_the_clean_image_is_no_start():
    with pytest.raises(ValueError, match="start = 'gaussian'"):
        IKL(dataclasses.replace(INNER, start="none"))
