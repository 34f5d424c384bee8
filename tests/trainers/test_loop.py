"""The one loop: schedules as tables, one seed one result, exact resume, best on validation, NaN is an error."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from methods import INNER, method
from oracles import small_cnn
from tiny import SCHEDULE, networks, stripes, train, weights
from torch import nn

from bench.contracts.trainers import EASY, LAWS, goes_on_in_the_same_bits, learns
from bench.subjects.catalog import Catalog
from trainers import TRAINERS
from trainers.at import AT
from trainers.health import TrainingError
from trainers.loop import Fit, Snapshot, _out_of_patience, fit
from trainers.schedule import Schedule


def same(first: Fit, second: Fit) -> None:
    """Best and last, weights and figures."""
    for one, two in zip([*first.best, *first.last], [*second.best, *second.last], strict=True):
        assert (one.epoch, one.clean, one.robust) == (two.epoch, two.clean, two.robust)
        assert all(torch.equal(value, two.state[name]) for name, value in one.state.items())
    assert [(r.loss, r.single_step, r.forward_passes) for r in first.history] == [
        (r.loss, r.single_step, r.forward_passes) for r in second.history
    ]


@pytest.mark.parametrize("name", sorted(TRAINERS))
@pytest.mark.parametrize("law", [law for law in LAWS if law is not learns], ids=lambda law: law.__name__)
def test_a_method_keeps_its_promises(law, name):
    law(method(name))


LONGER = dataclasses.replace(EASY, epochs=16, lr=0.005)  # a teacher that learns too; squares of logits kill ReLUs


@pytest.mark.parametrize("name", sorted(TRAINERS))
def test_every_method_learns_a_separable_problem(name):
    learns(method(name), 0.9, LONGER if name == "lbgat" else EASY)


CATALOG = Catalog()
EVERYTHING = dataclasses.replace(SCHEDULE, ema=0.9, awp=0.02, awp_after=1, label_smoothing=0.1, patience=9)


@pytest.mark.parametrize("name", ["at", "mat", "mat-mp", "at-avg", "ard", "ikl", "adr", "e-at"])
def test_with_every_module_a_training_that_stops_in_the_middle_of_epochs_ends_in_the_same_bits(name: str):
    goes_on_in_the_same_bits(method(name), EVERYTHING)


def test_within_an_epoch_a_checkpoint_is_written_when_the_last_is_old_enough(tmp_path: Path):
    path, stamps = tmp_path / "checkpoint.pt", []

    def look() -> None:
        stamps.append(path.stat().st_mtime_ns if path.exists() else 0)

    train(checkpoint=path, on_step=look)
    assert len(stamps) == 12 and len(set(stamps)) == 4, "by default only after each epoch of a short training"
    stamps.clear()
    path.unlink()
    train(checkpoint=path, minutes=0, on_step=look)
    assert len(set(stamps)) == 12


def test_patience_ends_a_training_that_gets_no_better_and_resuming_keeps_to_that(tmp_path: Path):
    path = tmp_path / "checkpoint.pt"
    stubborn = dataclasses.replace(SCHEDULE, epochs=9, lr=0.0, patience=2)
    for _ in range(2):
        _, result = train(schedule=stubborn, checkpoint=path)
        assert [report.epoch for report in result.history] == [1, 2, 3], "the first is the best, and two wait for more"
    assert result.best[0].epoch == 1 and result.last[0].epoch == 3
    _, result = train(schedule=dataclasses.replace(stubborn, patience=0))
    assert len(result.history) == 9


def test_patience_waits_for_every_network_of_a_cohort():
    """The second network gets better in every epoch, so the first one's standstill ends nothing."""
    state, patience = Fit([], [], history=[None] * 5), 3
    for epochs, stops in (((1, 5), False), ((1, 3), False), ((2, 1), True)):
        state.best = [Snapshot(epoch, 0.5, 0.5, {}) for epoch in epochs]
        assert _out_of_patience(state, patience) == stops


@pytest.mark.parametrize(
    "name", sorted(set(TRAINERS) - {"dd", "rslad", "adaad", "igdm", "saad"})
)  # whose losses know no label, only a teacher
def test_label_smoothing_reaches_every_method(name: str):
    plain, smooth = (train(name, dataclasses.replace(SCHEDULE, epochs=1, label_smoothing=s))[0] for s in (0.0, 0.3))
    assert all(not torch.equal(weights(a), weights(b)) for a, b in zip(plain, smooth, strict=True))


@pytest.mark.parametrize(
    "setting",
    [{"ema": 1.0}, {"ema": -0.1}, {"awp": -1.0}, {"label_smoothing": 1.0}, {"patience": -1}, {"awp_after": -1}],
)
def test_modules_out_of_range_are_refused(setting: dict[str, float]):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Schedule(epochs=1, **setting)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    train(checkpoint=path, identity="a")
    with pytest.raises(TrainingError, match="another training"):
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


@pytest.mark.parametrize(
    ("recipes", "drops"),
    [
        (["at-rice", "trades-rice", "act-rice", "cat-rice"], [101, 151]),  # these three count from 0
        (["at-pang", "regmix-paper", "regmix-fast-paper", "regmix-paper-cifar100"], [101, 106]),
        (["ard-code"], [101]),
        (["rslad-code"], [216, 261, 286]),  # after epochs 215, 260, 285
        (["adaad-code", "igdm-code", "saad-code"], [101, 151]),
        (["lbgat-code"], [76, 91]),
        (["cat-paper", "cat-alp-paper", "cat-paper-wrn", "cat-alp-paper-wrn", "cat-paper-cifar100"], [100, 150]),
        (["at-paper", "mat-paper", "mart-code", "at-avg-sequential-paper"], [75, 90, 100]),
        (["trades-code"], [75]),
        (["mart-code-wrn"], [75, 90]),
        (["act-code"], [60, 120, 160]),
        (["e-at-code", "ramp-code"], [71]),  # after 70 whole epochs
        (["adr-code"], [101, 151]),
    ],
)
def test_the_learning_rate_drops_in_the_epochs_of_the_released_code(recipes: list[str], drops: list[int]):
    """Epochs counted from 1, as we do; a code that counts from 0 and drops at 100 does so in the 101st."""
    for name in recipes:
        schedule = CATALOG.recipe(name).schedule
        rates = [schedule.lr_at(epoch, 0, 10) for epoch in range(1, schedule.epochs + 1)]
        assert [epoch for epoch in range(2, schedule.epochs + 1) if rates[epoch - 1] < rates[epoch - 2]] == drops


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
    assert len(CATALOG.recipe_tables) >= 16
    for name in CATALOG.recipe_tables:
        assert CATALOG.recipe(name).name == name
    for name in CATALOG.attack_tables:
        CATALOG.attack(name)
    assert not set(CATALOG.recipe_tables) & set(CATALOG.attack_tables)
