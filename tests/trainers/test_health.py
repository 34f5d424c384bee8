"""Collapse and catastrophic overfitting: by hand-made curves, and by trainings that really go wrong."""

from __future__ import annotations

import dataclasses

import pytest
from methods import method
from tiny import SCHEDULE, networks, stripes

from bench.subjects import data, models
from trainers.at import AT
from trainers.contract import Inner
from trainers.health import EpochReport, TrainingError, health
from trainers.loop import Fit, fit
from trainers.schedule import Schedule
from trainers.validation import Split


def curve(robust: list[float], single: list[float] | None = None, constant: list[bool] | None = None):
    """Reports of one network; clean accuracy is 0.9."""
    rows = zip(robust, single or robust, constant or [False] * len(robust), strict=True)
    return [
        EpochReport(epoch, 1.0, 0.1, [0.9], [many], [one], [same], 1.0, 1.0, 1, 1, 1)
        for epoch, (many, one, same) in enumerate(rows, 1)
    ]


def test_a_network_is_dead_when_its_last_three_epochs_are_at_chance():
    assert health(curve([0.4, 0.3, 0.1, 0.1, 0.05]), 0, 0.1, False) == [
        "collapsed: validation robust accuracy at chance from epoch 3 on, 10.0% at best"
    ]
    for alive in ([0.4, 0.1, 0.1], [0.1] * 5 + [0.3], [0.1] * 2, [0.16] * 5):
        assert health(curve(alive), 0, 0.1, False) == []
    assert health(curve([0.0] * 5), 0, 0.1, True) == [], "a naturally trained network withstands nothing"


def test_a_little_luck_in_one_epoch_is_no_life():
    """A network of figure3 whose validation accuracy was 12 % once, and 1 % on other images."""
    assert health(curve([0.5, 0.04, 0.12, 0.05]), 0, 0.1, False)
    assert not health(curve([0.5, 0.04, 0.16, 0.05]), 0, 0.1, False)


def test_one_class_for_every_image_is_a_collapse_even_above_chance():
    found = health(curve([0.5, 0.3, 0.3, 0.3], constant=[False, True, True, True]), 0, 0.1, False)
    assert found == ["collapsed: one class for every image from epoch 2 on"]


def test_catastrophic_overfitting_is_named_with_its_figures():
    assert health(curve([0.4, 0.03, 0.35], [0.5, 0.81, 0.5]), 0, 0.1, False) == [
        "catastrophic overfitting in epoch 2: one step 81.0%, PGD 3.0%"
    ]
    found = health(curve([0.4, 0.3, 0.1, 0.3], [0.5, 0.7, 0.9, 0.7]), 0, 0.05, False)
    assert found == ["catastrophic overfitting in epoch 3, the worst of 3 such epochs: one step 90.0%, PGD 10.0%"]
    for sound in ([0.4], [0.5]), ([0.5], [0.9]), ([0.1], [0.35]):
        assert health(curve(*sound), 0, 0.1, False) == []
    assert health(curve([0.0], [0.6]), 0, 0.1, True) == []


def digits(arch: str, eps: float, lr: float, kind: str, epochs: int, count: int) -> Fit:
    """AT with the fast gradient sign: one step of length eps from the image itself."""
    images = data.load("digits", None)
    train, validation = (
        Split(part.x[:size], part.y[:size], part.ids[:size])
        for part, size in ((images.train, count), (images.validation, 100))
    )
    network = models.create(arch, images.image_shape, images.classes, 1)
    schedule = Schedule(epochs=epochs, batch_size=32, lr=lr, kind=kind, augment=False, validation_steps=10)
    return fit(AT(Inner(eps=eps, steps=1, step=eps, start="none")), [network], train, validation, schedule, 0)


def test_a_training_whose_learning_rate_kills_it_is_named():
    result = digits("cnn-small", eps=0.1, lr=10.0, kind="steps", epochs=4, count=200)
    assert len(result.health[0]) == 1 and result.health[0][0].startswith("collapsed: "), result.history


@pytest.mark.slow
def test_training_with_one_long_step_overfits_catastrophically():
    result = digits("resnet8", eps=0.3, lr=0.1, kind="cyclic", epochs=15, count=800)
    assert [words.partition(" in ")[0] for words in result.health[0]] == ["catastrophic overfitting"], result.history


def test_a_sound_training_is_healthy_and_each_network_has_its_own_list():
    trainer = method("mat")
    schedule = dataclasses.replace(SCHEDULE, epochs=8, augment=False)
    result = fit(trainer, networks(2), stripes(), stripes(20, 1), schedule, 0)
    assert result.health == [[], []]


def test_a_network_that_returns_no_number_is_an_error():
    """One batch: its loss is a number, and the step behind it leaves weights that are none."""
    with pytest.raises(
        TrainingError, match="network 1 after epoch 1: it returns NaN or infinity; lower the learning rate"
    ):
        digits("cnn-small", eps=0.1, lr=1e30, kind="steps", epochs=1, count=32)
