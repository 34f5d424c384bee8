"""E-AT: chances from the errors so far, the draw, the loss and its gradient, and the counts that a training keeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from methods import INNER, THREE, ce, cohort
from oracles import small_cnn
from tiny import SCHEDULE, stripes
from torch import nn

from attacks.losses import cross_entropy
from attacks.noise import Noise
from trainers.contract import Inner
from trainers.e_at import EAT, TRIED
from trainers.loop import fit

PAIR = (THREE[0], THREE[2])


def drawn(method: EAT, seeds: int = 400, tried: list[list[int]] | None = None) -> list[int]:
    """The attack of each of many batches."""
    group, _, _ = cohort(1)
    if tried is not None:
        group.memory[TRIED] = torch.tensor(tried)
    found = []
    for seed in range(seeds):
        group.noise = Noise(seed, torch.arange(6))
        found.append(method.drawn(group))
    return found


@pytest.mark.parametrize(
    ("tried", "chances"),
    [
        (None, [1, 1]),
        ([[10, 20], [4, 2]], [0.4, 0.1]),
        ([[10, 0], [4, 0]], [1, 1]),  # one was not met yet
        ([[10, 20], [0, 0]], [1, 1]),  # nothing is wrong yet
        ([[10, 20], [0, 5]], [0, 0.25]),
    ],
)
def test_chances_are_the_shares_of_errors_so_far(tried, chances):
    given = None if tried is None else torch.tensor(tried)
    assert EAT(PAIR).chances(given).tolist() == pytest.approx(chances)


def test_attacks_are_met_as_often_as_their_chances_say():
    for tried, share in ((None, 0.5), ([[10, 20], [4, 2]], 0.8), ([[10, 20], [0, 5]], 0.0), ([[10, 20], [3, 0]], 1.0)):
        first = drawn(EAT(PAIR), tried=tried).count(0) / 400
        assert first == pytest.approx(share, abs=0.06) and (first == share or 0 < share < 1)
    third = drawn(EAT(THREE), tried=[[10, 10, 10], [1, 2, 5]])
    assert [third.count(m) / 400 for m in range(3)] == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.07)


def test_the_draw_is_by_the_number_of_the_first_image_and_changes_from_batch_to_batch():
    group, _, _ = cohort(1)
    group.noise = Noise(7, torch.tensor([3, 1, 2]))
    number = float(group.noise.fork("which attack").uniform()[0])
    for errors, which in ((number + 0.01, 0), (number - 0.01, 1)):
        share = round(1_000_000 * errors)
        group.memory[TRIED] = torch.tensor([[1_000_000, 1_000_000], [share, 1_000_000 - share]])
        assert EAT(PAIR).drawn(group) == which
    assert drawn(EAT(PAIR)) == drawn(EAT(PAIR)) and set(drawn(EAT(PAIR))) == {0, 1}


def test_a_batch_meets_one_attack_and_its_errors_are_counted_for_that_one():
    method, seen = EAT(PAIR), set()
    for seed in range(6):
        group, x, y = cohort(1)
        group.noise = Noise(seed, torch.arange(6))
        which = method.drawn(group)
        group.memory[TRIED] = torch.tensor([[7, 9], [7, 9]]) if seed % 2 else torch.tensor([[0, 9], [0, 9]])
        which = method.drawn(group)
        before = group.memory[TRIED].clone()
        (loss,) = method.batch_loss(group, x, y)
        group.begin()
        z = group.networks[0](group.attack(0, x, y, PAIR[which], cross_entropy))
        assert torch.allclose(loss, ce(z, y).mean())
        slope = (z.softmax(1) - nn.functional.one_hot(y, 4)).detach() / 6
        weights = list(group.networks[0].parameters())
        by_hand = torch.autograd.grad(z, weights, slope)
        assert all(
            torch.allclose(one, two, atol=1e-6)
            for one, two in zip(torch.autograd.grad(loss, weights), by_hand, strict=True)
        )
        assert torch.equal(group.memory[TRIED], before), "not yet: the batch is not done"
        group.remember()
        more = group.memory[TRIED] - before
        assert more[:, which].tolist() == [6, int((z.argmax(1) != y).sum())] and more[:, 1 - which].tolist() == [0, 0]
        seen.add(which)
    assert seen == {0, 1}


EASY, HARD = (Inner(eps=eps, steps=1, step=eps, start="none") for eps in (0.0, 0.6))
STILL = dataclasses.replace(SCHEDULE, epochs=12, batch_size=8, lr=0.0, awp=0.005, augment=False)


def counts(path: Path, **watch: object) -> torch.Tensor:
    """[2, 2]: images and errors of an attack that does nothing and of one that leaves little, on a network at rest."""
    about = {"checkpoint": path, "identity": "a", "minutes": 0}
    fit(EAT((EASY, HARD)), [small_cnn(1, 2, 0)], stripes(), stripes(20, 1), STILL, 0, **about, **watch)
    return torch.load(path, weights_only=True)["memory"][TRIED]


@pytest.mark.slow  # every day tests/trainers/test_notes.py holds what is remembered to a checkpoint
def test_what_is_harder_is_met_more_often_and_a_training_that_was_stopped_draws_the_same(tmp_path: Path):
    """Every image counts once an epoch, though AWP asks for the same loss again."""
    whole = counts(tmp_path / "whole.pt")
    images, errors = whole
    assert images.sum() == 12 * 48 and images[1] > 1.5 * images[0] > 0 and errors[1] / images[1] > errors[0] / images[0]
    left = iter(range(20))

    def interrupt() -> None:
        if next(left) == 19:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        counts(tmp_path / "stopped.pt", on_step=interrupt)
    assert torch.equal(counts(tmp_path / "stopped.pt"), whole)


def test_with_one_attack_it_is_adversarial_training_and_without_any_it_is_refused():
    assert set(drawn(EAT((INNER,)), 20)) == {0}
    with pytest.raises(ValueError, match="inners is empty"):
        EAT(())
