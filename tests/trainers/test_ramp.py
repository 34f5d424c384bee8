"""RAMP: the loss and its gradient by hand, which images are pulled together, and choices that are made once."""

from __future__ import annotations

import pytest
import torch
from methods import INNER, THREE, Y, ce, cohort, kl, logits
from torch import Tensor, nn

from attacks.losses import cross_entropy
from trainers.ramp import RAMP

PAIR = (THREE[0], THREE[2])


def pair() -> tuple[list[Tensor], Tensor, Tensor]:
    """Logits of both kinds of image, of which some are right and either is the worse for some."""
    made = [logits(0).requires_grad_(True), logits(1).requires_grad_(True)]
    which, right = RAMP(PAIR).seen(made, Y)
    assert 0 < which.sum() < 5 and 0 < right.sum() < 5
    return made, which, right


def test_it_sees_the_worse_attack_of_each_image_and_where_the_first_is_withstood():
    (first, second), which, right = pair()
    assert which.tolist() == [int(b > a) for a, b in zip(ce(first, Y), ce(second, Y), strict=True)]
    assert right.tolist() == [int(z.argmax()) == int(y) for z, y in zip(first, Y, strict=True)]


def test_the_loss_is_its_formula():
    (first, second), which, right = pair()
    loss = RAMP(PAIR, weight=3.0).loss([first, second], Y, which, right)
    label = torch.maximum(ce(first, Y), ce(second, Y)).mean()
    apart = torch.stack([kl(first, second)[i] for i in range(5) if right[i]]).mean()
    assert torch.allclose(loss, label + 3 * apart) and apart > 0.1
    smooth = RAMP(PAIR, weight=3.0).loss([first, second], Y, which, right, 0.3)
    worse = torch.stack([(first, second)[int(m)][i] for i, m in enumerate(which)])
    expected = 0.7 * ce(worse, Y).mean() - 0.3 * worse.softmax(1).log().mean()
    assert torch.allclose(smooth, expected + 3 * apart)


def test_the_gradient_is_by_hand_in_both_sides():
    (first, second), which, right = pair()
    loss = RAMP(PAIR, weight=3.0).loss([first, second], Y, which, right)
    found = torch.autograd.grad(loss, (first, second))
    p, q = first.detach().softmax(1), second.detach().softmax(1)
    one_hot, share = nn.functional.one_hot(Y, 4), 3 * right[:, None] / right.sum()
    kl_of = (p * (p / q).log()).sum(1, keepdim=True)
    assert torch.allclose(found[0], (which == 0)[:, None] * (p - one_hot) / 5 + share * p * ((p / q).log() - kl_of))
    assert torch.allclose(found[1], (which == 1)[:, None] * (q - one_hot) / 5 + share * (q - p))


def test_where_no_image_is_right_nothing_is_pulled_together():
    first, second = logits(0), logits(1)
    which, none = torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.bool)
    assert torch.allclose(RAMP(PAIR).loss([first, second], Y, which, none), ce(first, Y).mean())


def test_of_more_attacks_the_others_are_averaged():
    made = [logits(seed) for seed in range(3)]
    which, right = RAMP(THREE).seen(made, Y)
    assert set(which.tolist()) <= {0, 1, 2} and right.any()
    apart = (kl(made[0], made[1]) + kl(made[0], made[2]))[right].mean() / 2
    expected = torch.stack([ce(z, Y) for z in made]).amax(0).mean() + 5 * apart
    assert torch.allclose(RAMP(THREE).loss(made, Y, which, right), expected)


def test_each_attack_is_on_the_network_and_the_choices_are_made_once():
    """AWP asks for the loss again at other weights: the worse attack and the right images are still the same."""
    method = RAMP(PAIR)
    group, x, y = cohort(1)
    (loss,) = method.batch_loss(group, x, y)
    group.begin()
    z = [group.networks[0](group.attack(0, x, y, inner, cross_entropy)) for inner in PAIR]
    which, right = method.seen(z, y)
    assert torch.allclose(loss, method.loss(z, y, which, right))
    group.begin()
    method.batch_loss(group, x, y)
    group.again()
    with torch.no_grad():
        for parameter in group.networks[0].parameters():
            parameter.mul_(-1)
    (other,) = method.batch_loss(group, x, y)
    moved = [group.networks[0](each) for each in group._made[:2]]
    assert torch.allclose(other, method.loss(moved, y, which, right))
    assert not torch.allclose(other, method.loss(moved, y, *method.seen(moved, y))), "they would be others"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RAMP((INNER,)), "two attacks or more; got 1"),
        (lambda: RAMP(PAIR, weight=-1.0), "weight = -1"),
    ],
)
def test_settings_out_of_range_are_refused(build, message: str):
    with pytest.raises(ValueError, match=message):
        build()
