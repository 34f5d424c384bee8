"""An ensemble of N networks that AT trains side by side, none knowing of the others: the compute of N networks.

The mean of their probabilities is what counts (deep ensembles: Lakshminarayanan et al. 2017,
https://arxiv.org/abs/1612.01474); `bench.subjects.models.Ensemble` forms it, and it is registered beside the networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trainers.at import AT
from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class ATEnsemble:
    """AT for each of N networks, every one against its own adversarial images. Raises ValueError."""

    ensemble: ClassVar[bool] = True
    inner: Inner
    networks: int = 2
    version: int = 1

    def __post_init__(self) -> None:
        if self.networks < 2:
            raise ValueError(f"an ensemble needs networks >= 2; got networks = {self.networks}")

    @property
    def members(self) -> int:
        """N networks."""
        return self.networks

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        return [AT(self.inner).alone(cohort, n, x, y).loss for n in range(self.networks)]
