"""The one loop: schedules as tables, one seed one result, exact resume, best on validation, NaN is an error."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from methods import INNER, method
from oracles import small_cnn
from torch import nn

from bench.catalog import Catalog
from bench.data import augment
from trainers import TRAINERS
from trainers.at import AT
from trainers.contract import teachers_of
from trainers.loop import Schedule, Split, TrainingError, fit

SCHEDULE = Schedule(epochs=4, batch_size=16, lr=0.02, validation_steps=2)


def stripes(count=48, seed=0):
    """Two classes: light columns on the left or on the right."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.4 * torch.rand(count, 1, 8, 8, generator=generator)
    y = torch.arange(count) % 2
    x[y == 0, :, :, :4] += 0.5
    x[y == 1, :, :, 4:] += 0.5
    return Split(x, y, torch.arange(count))


def networks(count):
    return [small_cnn(1, 2, seed) for seed in range(count)]


def weights(model):
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


def train(name="at", schedule=SCHEDULE, seed=0, **options):
    trainer = method(name)
    group = networks(trainer.members)
    if teachers_of(trainer):
        options["teachers"] = train("natural", schedule)[0]
    result = fit(trainer, group, stripes(), stripes(20, 1), schedule, seed, augment=augment, flip=True, **options)
    return group, result


@pytest.mark.parametrize("name", sorted(TRAINERS))
def test_every_method_learns_a_separable_problem(name):
    _, result = train(name, dataclasses.replace(SCHEDULE, epochs=8, augment=False))
    assert result.history[-1].loss < result.history[0].loss
    assert all(snapshot.robust > 0.9 for snapshot in result.last)


@pytest.mark.parametrize("name", ["at", "mat"])
def test_one_seed_twice_is_one_result_and_another_seed_is_another(name):
    first, second, other = (train(name, seed=seed)[0] for seed in (0, 0, 1))
    for a, b, c in zip(first, second, other, strict=True):
        assert torch.equal(weights(a), weights(b)) and not torch.equal(weights(a), weights(c))


@pytest.mark.parametrize("name", ["at", "mat", "ard"])
@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_killed_training_ends_in_the_same_bits(name, stop_after, tmp_path):
    whole, expected = train(name)
    path = tmp_path / "checkpoint.pt"

    def interrupt(report):
        if report.epoch == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(name, checkpoint=path, identity="a", on_epoch=interrupt)
    resumed, result = train(name, checkpoint=path, identity="a")
    assert [report.epoch for report in result.history] == [1, 2, 3, 4]
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(weights(a), weights(b))
    assert [snapshot.epoch for snapshot in result.best] == [snapshot.epoch for snapshot in expected.best]


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    train(checkpoint=path, identity="a")
    with pytest.raises(ValueError, match="another training"):
        train(checkpoint=path, identity="b")


def test_best_is_the_epoch_of_best_robust_validation_accuracy_and_holds_its_weights():
    group, result = train(schedule=dataclasses.replace(SCHEDULE, epochs=6, lr=0.3, augment=False))
    robust = [report.robust[0] for report in result.history]
    assert result.best[0].epoch == 1 + robust.index(max(robust)) and result.best[0].robust == max(robust)
    assert len(set(robust)) > 1, "a constant curve proves nothing"
    assert torch.equal(torch.cat([v.flatten().float() for v in result.last[0].state.values()]), weights(group[0]))


def test_a_loss_that_is_no_number_is_an_error():
    with pytest.raises(TrainingError, match="epoch 1"):
        train(schedule=dataclasses.replace(SCHEDULE, lr=1e30))


def test_cohorts_that_start_equal_or_have_the_wrong_size_are_refused():
    for group, message in (([small_cnn(1, 2, 0)] * 2, "equal weights"), (networks(1), "trains 2")):
        with pytest.raises(ValueError, match=message):
            fit(method("mat"), group, stripes(), stripes(), SCHEDULE, 0)
    for name, teachers, message in (("ard", [], "has 1 frozen teacher"), ("at", networks(1), "has 0 frozen teacher")):
        with pytest.raises(ValueError, match=message):
            fit(method(name), networks(1), stripes(), stripes(), SCHEDULE, 0, teachers=teachers)


def test_learning_rates_are_the_schedule():
    steps = Schedule(epochs=120, lr=0.1, milestones=(75, 90, 100))
    table = {1: 0.1, 74: 0.1, 75: 0.01, 89: 0.01, 90: 0.001, 100: 0.0001, 120: 0.0001}
    assert all(steps.lr_at(epoch, 0, 10) == pytest.approx(lr) for epoch, lr in table.items())
    cyclic = Schedule(epochs=10, lr=0.1, kind="cyclic")
    assert [cyclic.lr_at(e, s, 2) for e, s in ((1, 0), (3, 0), (5, 0), (8, 0))] == pytest.approx([0, 0.05, 0.1, 0.05])
    cosine = Schedule(epochs=10, lr=0.1, kind="cosine")
    assert [cosine.lr_at(e, 0, 2) for e in (1, 6)] == pytest.approx([0.1, 0.05])


def test_the_optimiser_step_is_sgd_written_out():
    """One batch, one epoch: w <- w - lr (g + weight decay w)."""
    data = stripes(16)
    schedule = Schedule(epochs=1, batch_size=16, lr=0.05, weight_decay=0.01, augment=False, validation_steps=1)
    seen = []

    class Spy(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            if self.training:
                seen.append(x.detach().clone())
            return self.inner(x)

    model = Spy(small_cnn(1, 2, 0))
    start = {name: value.clone() for name, value in model.named_parameters()}
    fit(AT(INNER), [model], data, data, schedule, 0)
    order = [next(i for i in range(16) if (image - data.x[i]).abs().max() <= 0.05 + 1e-6) for image in seen[0]]
    fresh = small_cnn(1, 2, 0)
    nn.functional.cross_entropy(fresh(seen[0]), data.y[order]).backward()
    for name, value in fresh.named_parameters():
        before, after = start[f"inner.{name}"], dict(model.named_parameters())[f"inner.{name}"]
        assert torch.allclose(after, before - 0.05 * (value.grad + 0.01 * before), atol=1e-6)


def test_counted_passes_are_those_of_the_formula():
    """AT: K forward and backward in the attack, one of each in training, per image and epoch."""
    _, result = train()
    assert result.history[0].forward_passes == result.history[0].backward_passes == 48 * (2 + 1)


def test_every_recipe_builds():
    catalog = Catalog()
    assert len(catalog.recipe_tables) >= 16
    for name in catalog.recipe_tables:
        assert catalog.recipe(name).name == name
    for name in catalog.attack_tables:
        catalog.attack(name)
    assert not set(catalog.recipe_tables) & set(catalog.attack_tables)
