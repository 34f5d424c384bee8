"""MAT's offline scenarios: Liu et al. 2021, https://arxiv.org/abs/2112.05005v1, section 3.2.5.

What MAT (`trainers.mat`) is without the mutual part: a robust student and a teacher that is trained first, by the label
loss alone, and then frozen. Which of the two scenarios it is, the teacher decides: AT with loss = "bce" makes the
robust-robust one, natural training with loss = "bce" the natural-robust one. The two online scenarios are MAT itself.
Ours: the teacher is in evaluation mode, and it is the best epoch of its training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from attacks.losses import LOSSES, boosted_cross_entropy, kl_divergence
from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class MATOffline:
    """min (1 - alpha) BCE(p(x'), y) + alpha KL(p_T(x) || p(x')), p_T the frozen teacher.

    alpha in [0, 1], inner_loss: as in MAT. Raises ValueError.
    """

    inner: Inner
    alpha: float = 0.6
    inner_loss: Literal["bce", "ce"] = "bce"
    version: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"MAT offline needs alpha in [0, 1]; got alpha = {self.alpha:g}")

    @property
    def members(self) -> int:
        """The student."""
        return 1

    @property
    def teachers(self) -> int:
        """See `trainers.contract.teachers_of`."""
        return 1

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        x_adv = cohort.attack(0, x, y, self.inner, LOSSES[self.inner_loss])
        return [self.loss(cohort.logits(0, x_adv), cohort.taught(x), y, cohort.label_smoothing)]

    def loss(self, adversarial: Tensor, teacher: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
        """Logits [B, K] of the student on x' and of the teacher on x, y [B] -> scalar."""
        label = boosted_cross_entropy(adversarial, y, smoothing).mean()
        return (1 - self.alpha) * label + self.alpha * kl_divergence(adversarial, teacher).mean()
