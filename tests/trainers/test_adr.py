"""ADR: rectified labels by hand, the loss and its gradient, who teaches, and the average that the loop keeps for it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from methods import INNER, Y, ce, cohort, logits
from oracles import small_cnn
from tiny import SCHEDULE, networks, stripes, weights
from torch import Tensor, nn

from attacks.losses import cross_entropy
from trainers.adr import ADR, annealed, soft_cross_entropy
from trainers.contract import Cohort
from trainers.loop import fit

STEADY = {"interpolation": (0.95, 0.95), "temperature": (2.0, 2.0)}


def answers(*p: float, tau: float = 2.0) -> Tensor:
    """Logits [1, K] of an average whose answer at temperature tau is p."""
    return tau * torch.tensor([p], dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("p", "label", "share", "expected"),
    [
        ((0.75, 0.25), 0, 0.95, (0.75 * 0.95 + 0.05, 0.25 * 0.95)),  # right: the share is lambda
        ((0.25, 0.75), 0, 0.95, (0.25 * 0.45 + 0.55, 0.75 * 0.45)),  # the wrong class leads by 1/2
        ((0.25, 0.75), 0, 0.3, (1.0, 0.0)),  # by more than lambda: the label alone
        ((0.2, 0.5, 0.3), 0, 0.7, (0.2 * 0.4 + 0.6, 0.5 * 0.4, 0.3 * 0.4)),
    ],
)
def test_a_label_is_mixed_with_the_averages_answer_less_what_a_wrong_class_leads_by(p, label, share, expected):
    method = ADR(INNER, interpolation=(share, share), temperature=(2.0, 2.0))
    found = method.rectified(answers(*p), torch.tensor([label]), 0.5)
    assert found[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, 1.0])
def test_the_true_class_is_the_largest_and_labels_are_distributions(share: float):
    average, y = 4 * logits(0, count=500), torch.arange(500) % 4
    found = ADR(INNER, interpolation=(share, share)).rectified(average, y, 1.0)
    assert torch.allclose(found.sum(1), torch.ones(500).double()) and found.min() >= 0
    true = found.gather(1, y[:, None]).squeeze(1)
    assert bool((true >= found.amax(1) - 1e-12).all())
    assert 100 < (average.argmax(1) != y).sum() < 490, "both kinds of answer must be there"


def test_the_share_rises_and_the_temperature_falls_along_half_a_cosine():
    assert [annealed(1.0, 5.0, t) for t in (0.0, 1 / 3, 0.5, 1.0)] == pytest.approx([1, 2, 3, 5])
    average, method = logits(0), ADR(INNER)
    quarter = 0.7 + 0.25 * (1 - math.cos(math.pi / 4)) / 2, 2.5 - 0.5 * (1 - math.cos(math.pi / 4)) / 2
    for progress, (share, tau) in ((0.25, quarter), (1.0, (0.95, 2.0))):
        p = (average / tau).softmax(1)
        own = share - (p.amax(1) - p[torch.arange(5), Y])
        expected = own[:, None] * p + (1 - own[:, None]) * nn.functional.one_hot(Y, 4)
        assert own.min() > 0 and torch.allclose(method.rectified(average, Y, progress), expected)


def test_the_loss_is_the_cross_entropy_with_a_soft_label_and_its_gradient_is_by_hand():
    z, q = logits(0).requires_grad_(True), logits(1).softmax(1)
    loss = soft_cross_entropy(z, q)
    assert torch.allclose(loss, sum(q[:, k] * ce(z, torch.full((5,), k)) for k in range(4)))
    (grad,) = torch.autograd.grad(loss.mean(), z)
    assert torch.allclose(grad, (z.softmax(1) - q).detach() / 5)


def taught_by(average: nn.Module) -> tuple[Cohort, Tensor, Tensor]:
    group, x, y = cohort(1)
    group.averages = [average]
    return group, x, y


def test_the_average_teaches_on_clean_images_and_is_a_constant_and_the_attack_climbs_its_label():
    method = ADR(INNER, **STEADY)
    group, x, y = taught_by(small_cnn(1, 4, 5))
    (loss,) = method.batch_loss(group, x, y)
    target = method.rectified(group.averages[0](x), y, 1.0).detach()
    group.begin()
    x_adv = group.attack(0, x, target, INNER, soft_cross_entropy)
    assert torch.allclose(loss, soft_cross_entropy(group.networks[0](x_adv), target).mean())
    group.begin()
    assert not torch.equal(x_adv, group.attack(0, x, y, INNER, cross_entropy)), "the label's attack is another"
    loss.backward()
    assert all(p.grad is None for p in group.averages[0].parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in group.networks[0].parameters())
    group.begin()
    group.label_smoothing = 0.3
    (smooth,) = method.batch_loss(group, x, y)
    expected = soft_cross_entropy(group.networks[0](x_adv), 0.7 * target + 0.3 / 4).mean()
    assert torch.allclose(smooth, expected), "and the attack is the same"


def test_an_average_answers_in_evaluation_mode_and_before_there_is_one_the_network_does():
    group, x, _ = taught_by(nn.Sequential(nn.BatchNorm2d(1), small_cnn(1, 4, 5)).train())
    before = group.averages[0][0].running_mean.clone()
    found = group.averaged(0, x)
    assert torch.equal(group.averages[0][0].running_mean, before) and not found.requires_grad
    group.averages = []
    assert torch.equal(group.averaged(0, x), group.networks[0](x).detach())


@dataclasses.dataclass(frozen=True)
class Watched(ADR):
    """Remembers the average that taught each batch."""

    seen: list[Tensor] = dataclasses.field(default_factory=list)

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        self.seen.append(weights(cohort.averages[0]))
        return super().batch_loss(cohort, x, y)


@pytest.mark.parametrize(("ema", "decay"), [(0.0, 0.4), (0.25, 0.25)])
def test_the_loop_keeps_an_average_for_it_and_judges_it_where_the_schedule_says_so(ema: float, decay: float):
    """Of the schedule's decay where it has one, else of the method's."""
    method, group = Watched(INNER, decay=0.4), networks(1)
    after, schedule = [weights(group[0])], dataclasses.replace(SCHEDULE, epochs=2, ema=ema)
    watch = {"on_step": lambda: after.append(weights(group[0]))}
    result = fit(method, group, stripes(), stripes(20, 1), schedule, 0, **watch)
    average = after[0]
    for batch, taught in enumerate(method.seen):
        assert torch.allclose(taught, average, atol=1e-5)
        d = min(decay, (1 + batch) / (10 + batch))
        average = d * average + (1 - d) * after[batch + 1]
    assert len(method.seen) == 6
    kept = torch.cat([value.flatten() for value in result.last[0].state.values()])
    assert torch.allclose(kept, average if ema else after[-1], atol=1e-5)
    assert not torch.allclose(average, after[-1], atol=1e-3), "else this says nothing"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interpolation": (0.7, 1.2)}, r"interpolation = \(0.7, 1.2\)"),
        ({"temperature": (2.0, 0.0)}, r"temperature = \(2.0, 0.0\)"),
        ({"decay": 1.0}, "decay = 1"),
        ({"decay": 0.0}, "decay = 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ADR(INNER, **settings)
