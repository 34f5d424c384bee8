"""What is reported of an epoch, and which reports say that a network is sick: collapse and catastrophic overfitting.

Catastrophic overfitting: Wong, Rice, Kolter 2020, https://arxiv.org/abs/2001.03994: trained with few steps, a network
withstands one step and nothing more. The thresholds below are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NEAR_CHANCE = 1.5  # times guessing: 200 validation images leave that much to luck (10 classes, 2.4 standard deviations)
DEAD_EPOCHS = 3  # a slow start is no collapse, and neither is one bad epoch
OVERFITTED_GAP = 0.3  # single-step minus multi-step accuracy, where multi-step is also less than half of single-step


class TrainingError(RuntimeError):
    """The training broke down: its loss or its logits are no numbers any more, or its checkpoint is damaged."""


@dataclass(frozen=True)
class EpochReport:
    """One epoch: mean loss over networks, validation accuracies in [0, 1] per network, and what it cost.

    robust, single_step: under PGD, and under one step of length eps, of every type the network is trained against.
    constant: whether a network gives all clean validation images the same class. training_seconds: without validation,
    which is in `seconds`. Passes are those of training, in images. peak_memory_bytes: see `trainers.loop.peak_memory`.
    """

    epoch: int
    loss: float
    lr: float
    clean: list[float]
    robust: list[float]
    single_step: list[float]
    constant: list[bool]
    seconds: float
    training_seconds: float
    forward_passes: int
    backward_passes: int
    peak_memory_bytes: int


def health(history: Sequence[EpochReport], n: int, chance: float, natural: bool) -> list[str]:
    """What is wrong with network n, one sentence each; [] is healthy.

    chance: accuracy of guessing, 1 / K. natural: trained on clean images, so judged by clean accuracy.
    """
    return _collapsed(history, n, chance, natural) + ([] if natural else _overfitted(history, n))


def _collapsed(history: Sequence[EpochReport], n: int, chance: float, natural: bool) -> list[str]:
    """Dead in each of the last DEAD_EPOCHS epochs or more."""
    figures = [(report.clean if natural else report.robust)[n] for report in history]
    pairs = zip(history, figures, strict=True)
    dead = [report.constant[n] or figure <= NEAR_CHANCE * chance for report, figure in pairs]
    alive = max((epoch for epoch, is_dead in enumerate(dead, 1) if not is_dead), default=0)
    if len(history) - alive < DEAD_EPOCHS:
        return []
    if all(report.constant[n] for report in history[alive:]):
        return [f"collapsed: one class for every image from epoch {alive + 1} on"]
    kind = "clean" if natural else "robust"
    best = max(figures[alive:])
    return [f"collapsed: validation {kind} accuracy at chance from epoch {alive + 1} on, {best:.1%} at best"]


def _overfitted(history: Sequence[EpochReport], n: int) -> list[str]:
    """The epochs whose single-step accuracy is far above the multi-step one, the worst with its figures."""
    gaps = {report.epoch: (report.single_step[n], report.robust[n]) for report in history}
    found = {e: (one, many) for e, (one, many) in gaps.items() if one - many > OVERFITTED_GAP and many < one / 2}
    if not found:
        return []
    worst = max(found, key=lambda epoch: found[epoch][0] - found[epoch][1])
    one, many = found[worst]
    count = "" if len(found) == 1 else f", the worst of {len(found)} such epochs"
    return [f"catastrophic overfitting in epoch {worst}{count}: one step {one:.1%}, PGD {many:.1%}"]
