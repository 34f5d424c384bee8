"""Natural training: cross-entropy on clean images, what the others are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from attacks.losses import LABEL_LOSSES
from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class Natural:
    """min T CE(f(x) / T, y).

    inner: only for the robust accuracy that is reported after each epoch; the best epoch is that of the highest clean
    accuracy, because the few images on which an untrained network is robust say nothing. temperature: T > 0; other than
    1 it is the first stage of defensive distillation (`trainers.dd`), the factor T keeps the gradient's size. loss:
    "bce" is the boosted cross-entropy instead (`trainers.mat_offline`). Raises ValueError.
    """

    inner: Inner
    temperature: float = 1.0
    loss: Literal["ce", "bce"] = "ce"
    version: int = 1

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"natural training needs temperature > 0; got temperature = {self.temperature:g}")

    @property
    def members(self) -> int:
        """One network."""
        return 1

    def against(self, n: int) -> tuple[Inner, ...]:
        """See `trainers.contract.perturbations`: nothing."""
        return ()

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        logits = cohort.logits(0, x) / self.temperature
        return [self.temperature * LABEL_LOSSES[self.loss](logits, y, cohort.label_smoothing).mean()]
