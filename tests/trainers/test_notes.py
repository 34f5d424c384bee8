"""What a method notes of a batch: seen by the batches after it, once each, across epochs, and on from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from methods import INNER
from tiny import SCHEDULE, networks, stripes
from torch import Tensor

from attacks.losses import cross_entropy
from trainers.contract import Cohort, Inner
from trainers.loop import fit
from trainers.schedule import Schedule


@dataclass(frozen=True)
class Counts:
    """Notes how many batches there were; `seen` has what each batch was told."""

    inner: Inner = INNER
    rounds: int = 1
    seen: list[int] = field(default_factory=list)
    members, version = 1, 1

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        before = cohort.recall("batches")
        count = torch.zeros((), dtype=torch.int64) if before is None else before
        self.seen.append(int(count))
        cohort.note("batches", count + 1)
        return [cross_entropy(cohort.logits(0, x), y).mean()]


def run(method: Counts, schedule: Schedule, **options: object) -> None:
    fit(method, networks(1), stripes(), stripes(20, 1), schedule, 0, **options)


def test_a_batch_is_told_what_those_before_it_have_noted():
    method = Counts()
    run(method, replace(SCHEDULE, epochs=2))
    assert method.seen == [0, 1, 2, 3, 4, 5]


def test_a_loss_that_is_asked_for_again_and_further_rounds_are_of_the_same_batch():
    for method, schedule in ((Counts(), replace(SCHEDULE, epochs=1, awp=0.01)), (Counts(rounds=2), SCHEDULE)):
        run(method, replace(schedule, epochs=1))
        assert method.seen == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("stop", [2, 3])
def test_it_goes_on_from_a_checkpoint_within_an_epoch_and_after_one(tmp_path: Path, stop: int):
    method, path, left = Counts(), tmp_path / "checkpoint.pt", iter(range(stop))

    def interrupt() -> None:
        if next(left) == stop - 1:
            raise KeyboardInterrupt

    about = {"checkpoint": path, "identity": "a", "minutes": 0}
    with pytest.raises(KeyboardInterrupt):
        run(method, replace(SCHEDULE, epochs=2), on_step=interrupt, **about)
    run(method, replace(SCHEDULE, epochs=2), **about)
    assert method.seen == [0, 1, 2, 3, 4, 5]


def test_a_checkpoint_of_before_has_none(tmp_path: Path):
    """Those that older versions wrote."""
    path, about = tmp_path / "checkpoint.pt", {"identity": "a", "minutes": 0}
    run(Counts(), replace(SCHEDULE, epochs=1), checkpoint=path, **about)
    content = torch.load(path, weights_only=True)
    assert content.pop("memory")["batches"] == 3
    torch.save(content, path)
    method = Counts()
    run(method, replace(SCHEDULE, epochs=2), checkpoint=path, **about)
    assert method.seen == [0, 1, 2]
