"""What a step is said to cost is what the loop then counts, for every method, module and number of networks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from methods import INNER, method
from tiny import SCHEDULE, train

from trainers import TRAINERS
from trainers.contract import Trainer
from trainers.rehearsal import Rehearsal, rehearse

IMAGES, EPOCHS = 48, 2
ONCE = replace(SCHEDULE, epochs=EPOCHS, augment=False, validation_steps=1)


def total(step: Rehearsal, kinds: tuple[str, ...], again: bool) -> float:
    """Passes of an image of a batch, of all networks."""
    every = [*step.networks, *step.teachers, *(step.again if again else ())]
    return sum(getattr(share, kind) for share in every for kind in kinds)


def promised(trainer: Trainer, perturbed: bool) -> tuple[int, int]:
    """Forward and backward passes of an epoch."""
    step = rehearse(trainer, torch.rand(16, 1, 8, 8), 2)
    forward = total(step, ("attack", "training", "forward"), perturbed)
    return round(IMAGES * forward), round(IMAGES * total(step, ("attack", "training"), perturbed))


@pytest.mark.parametrize("name", TRAINERS)
def test_a_method_makes_the_passes_that_its_rehearsal_counts(name):
    """In the first epoch it is trained plainly, in the second with AWP and averages; 48 images in batches of 16."""
    schedule = replace(ONCE, awp=0.01, awp_after=1, ema=0.5, label_smoothing=0.1)
    _, fit = train(name, schedule)
    trainer = method(name)
    assert [(one.forward_passes, one.backward_passes) for one in fit.history] == [
        promised(trainer, perturbed=False),
        promised(trainer, perturbed=True),
    ]


@pytest.mark.parametrize("name, networks", [("mat", 3), ("at-ensemble", 3), ("dml", 4)])
def test_more_networks_are_more_passes(name, networks):
    step = rehearse(method(name, networks=networks), torch.rand(4, 1, 8, 8), 2)
    fewer = rehearse(method(name, networks=2), torch.rand(4, 1, 8, 8), 2)
    assert len(step.networks) == networks and step.networks[0] == step.networks[-1]
    assert total(step, ("training",), False) > total(fewer, ("training",), False)


def test_steps_that_follow_each_other_on_a_batch_all_count():
    together, apart = (rehearse(method("at-avg", sequential=way), torch.rand(4, 1, 8, 8), 2) for way in (False, True))
    assert together.networks == apart.networks


def test_passes_are_told_apart_and_a_teacher_only_answers():
    step = rehearse(method("ard", INNER), torch.rand(4, 1, 8, 8), 2)
    (own,), (teacher,) = step.networks, step.teachers
    assert (own.attack, own.training, own.forward) == (INNER.steps, 1, 0)
    assert (teacher.attack, teacher.training, teacher.forward) == (0, 0, 1)


def test_global_randomness_is_left_alone():
    before = torch.get_rng_state()
    rehearse(method("mat"), torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 2)
    assert torch.equal(before, torch.get_rng_state())


def test_a_method_that_fails_says_so():
    class Broken:
        inner, version, members = INNER, 1, 1

        def batch_loss(self, cohort, x, y):
            raise RuntimeError("no loss today")

    with pytest.raises(RuntimeError, match="no loss today"):
        rehearse(Broken(), torch.rand(4, 1, 8, 8), 2)
