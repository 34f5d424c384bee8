"""Adversarial training: Madry et al. 2018, https://arxiv.org/abs/1706.06083, eq. 2.1.

Differs from the authors' code: the attack runs with batch norm in evaluation mode (`inner.bn`; theirs trains it, and
the first author found later that it makes little difference).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from attacks.losses import LABEL_LOSSES, LOSSES
from trainers.contract import Alone, Cohort, Inner


@dataclass(frozen=True)
class AT:
    """min CE(f(x'), y), x' the maximiser of the same loss in the ball.

    loss: "bce" is the boosted cross-entropy instead, which makes it equation 1 of MAT (see `trainers.mat`).
    """

    inner: Inner
    loss: Literal["ce", "bce"] = "ce"
    version: int = 1

    @property
    def members(self) -> int:
        """One network."""
        return 1

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        return [self.alone(cohort, 0, x, y).loss]

    def alone(self, cohort: Cohort, n: int, x: Tensor, y: Tensor) -> Alone:
        """The method on network n."""
        x_adv = cohort.attack(n, x, y, self.inner, LOSSES[self.loss])
        adversarial = cohort.logits(n, x_adv)
        return Alone(LABEL_LOSSES[self.loss](adversarial, y, cohort.label_smoothing).mean(), x_adv, adversarial)
