"""Logits in float64 for images in float32: every attack takes them, and loses nothing to what they have in common."""

from __future__ import annotations

import pytest
import torch
from attacking import run
from oracles import saturated_images, small_cnn
from test_attacks import CASES
from torch import nn

from attacks.losses import margin
from attacks.target import Target


class Wide(nn.Module):
    """The logits of a network in float64, each row moved by `shift`."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.inner, self.shift = small_cnn(), shift

    def forward(self, x):
        return self.inner(x).double() + self.shift


@pytest.mark.usefixtures("short_autoattack")
@pytest.mark.parametrize("attack", CASES)
def test_an_attack_fools_as_many_as_on_the_same_logits_in_float32(attack):
    """In float32 a shift of 1e9 leaves of these logits nothing at all. Libraries see them without: not every loss of
    theirs is the same for logits that are moved.
    """
    x = saturated_images(24, (3, 12, 12), 3)
    y = small_cnn()(x).argmax(1)
    wide = Wide(0.0 if "adapters" in type(attack).__module__ else 1e9)
    fooled = [int((model(run(attack, model.eval(), x, y)).argmax(1) != y).sum()) for model in (small_cnn(), wide)]
    assert fooled[0] > 0 and abs(fooled[0] - fooled[1]) <= 1


def test_no_order_is_lost_and_verdicts_see_the_logits_as_they_are():
    x = saturated_images(24, (3, 12, 12), 3)
    target, y = Target(Wide(1e9).eval()), torch.zeros(24, dtype=torch.int64)
    true = target.true_logits(x)
    assert true.dtype == torch.float64 and torch.equal(true, Wide(1e9)(x))
    assert target.logits(x).dtype == torch.float32 and torch.equal(target.logits(x).argmax(1), true.argmax(1))
    value, grad, logits = target.loss_grad(x, y, margin)
    assert {value.dtype, grad.dtype, logits.dtype} == {torch.float32}
    assert torch.allclose(value, Target(small_cnn()).loss_grad(x, y, margin)[0], atol=1e-5)
