"""Natural training: cross-entropy on clean images, what the others are compared with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.losses import cross_entropy
from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class Natural:
    """min CE(f(x), y).

    inner: only for the robust accuracy that is reported after each epoch; the best epoch is that of the highest clean
    accuracy, because the few images on which an untrained network is robust say nothing.
    """

    inner: Inner
    version: int = 1

    @property
    def members(self) -> int:
        """One network."""
        return 1

    def against(self, n: int) -> tuple[Inner, ...]:
        """See `trainers.contract.perturbations`: nothing."""
        return ()

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        return [cross_entropy(cohort.logits(0, x), y, cohort.label_smoothing).mean()]
