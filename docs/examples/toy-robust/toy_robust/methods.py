"""A training method: half of the loss on clean images, half on adversarial ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.losses import LABEL_LOSSES, LOSSES
from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class Half:
    """(1 - share) CE(f(x), y) + share CE(f(x'), y), x' the maximiser of the cross-entropy in the ball."""

    inner: Inner
    share: float = 0.5
    version: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share = {self.share:g} is not within 0 to 1")

    @property
    def members(self) -> int:
        """One network."""
        return 1

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """x [B, C, H, W], y [B] -> the loss of the one network."""
        x_adv = cohort.attack(0, x, y, self.inner, LOSSES["ce"])
        clean, adversarial = (
            LABEL_LOSSES["ce"](cohort.logits(0, images), y, cohort.label_smoothing).mean() for images in (x, x_adv)
        )
        return [(1 - self.share) * clean + self.share * adversarial]
