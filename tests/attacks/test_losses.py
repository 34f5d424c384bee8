"""Attack losses: closed-form values, gradients, and the one sign."""

from __future__ import annotations

import pytest
import torch

from attacks import losses

LOGITS = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, 0.5]], dtype=torch.float64)
Y = torch.tensor([0, 2])


def test_values_by_hand():
    p = LOGITS.softmax(1)
    assert torch.allclose(losses.cross_entropy(LOGITS, Y), -torch.stack([p[0, 0], p[1, 2]]).log())
    assert losses.margin(LOGITS, Y).tolist() == [-1.0, 2.5]
    assert losses.targeted_margin(LOGITS, torch.tensor([[0, 2], [2, 0]])).tolist() == [-3.0, -0.5]
    boosted = -torch.stack([p[0, 0], p[1, 2]]).log() - (1 - torch.stack([p[0, 1], p[1, 1]])).log()
    assert torch.allclose(losses.boosted_cross_entropy(LOGITS, Y), boosted)
    q = LOGITS.flip(1).softmax(1)
    kl = (q * (q.log() - p.log())).sum(1)
    assert torch.allclose(losses.kl_divergence(LOGITS, LOGITS.flip(1)), kl)


def test_margin_of_negative_logits_is_not_clipped_at_zero():
    """A known slip elsewhere: with one-hot * logits the best of [-2, -3] becomes 0."""
    assert losses.margin(torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([0])).item() == -1.0


def test_log_odds_are_those_of_cross_entropy_and_do_not_saturate():
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(20, 5, generator=generator, dtype=torch.float64), torch.arange(20) % 5
    p = logits.softmax(1)[torch.arange(20), y]
    assert torch.allclose(losses.log_odds(logits, y), ((1 - p) / p).log(), atol=1e-6)
    assert losses.log_odds(torch.tensor([[500.0, 0.0]]), torch.tensor([0])).item() == -500.0


def test_boosted_loss_is_finite_for_sure_and_wrong_logits():
    loss = losses.boosted_cross_entropy(torch.tensor([[-80.0, 80.0, 0.0]]), torch.tensor([0]))
    assert torch.isfinite(loss).all() and loss.item() > 200


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_gradients(name):
    logits = LOGITS.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: losses.LOSSES[name](z, Y), (logits,))


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_a_larger_true_logit_lowers_every_loss(name):
    better = LOGITS.clone()
    better[torch.arange(2), Y] += 1
    assert (losses.LOSSES[name](better, Y) < losses.LOSSES[name](LOGITS, Y)).all()
