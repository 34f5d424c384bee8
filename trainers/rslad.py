"""RSLAD, robust soft label adversarial distillation: Zi, Zhao, Ma, Jiang 2021, https://arxiv.org/abs/2108.07969.

ARD in which the teacher's soft labels are all there is: in the attack, on x' and on x; no label is seen. The formulas
are those of the authors' code (https://github.com/zibojia/RSLAD); the paper was not read. Differs from the code: the KL
is a mean over images, where theirs is one over images and classes (`reduction`), so that their learning rate is 10
times smaller on CIFAR-10 and 100 times on CIFAR-100; the logarithm of the teacher's probabilities has no guard (theirs
adds 1e-5, which moves the loss and not its gradient).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from attacks.losses import kl_divergence
from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class RSLAD:
    """min alpha KL(p_T(x) || p(x')) + (1 - alpha) KL(p_T(x) || p(x)), p_T the frozen teacher.

    x': against the student, the maximiser of KL(p_T(x) || p(x')). alpha in [0, 1]: 5/6 in the code. reduction: "mean"
    also divides by the number of classes. Raises ValueError.
    """

    inner: Inner
    alpha: float = 5 / 6
    reduction: Literal["batchmean", "mean"] = "batchmean"
    version: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"RSLAD needs alpha in [0, 1]; got alpha = {self.alpha:g}")

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
        soft = cohort.taught(x)
        x_adv = cohort.attack(0, x, soft, self.inner, kl_divergence)
        return [self.loss(cohort.logits(0, x_adv), cohort.logits(0, x), soft)]

    def loss(self, adversarial: Tensor, clean: Tensor, teacher: Tensor) -> Tensor:
        """Logits [B, K] of the student on x' and on x, of the teacher on x -> the scalar loss."""
        robust, natural = kl_divergence(adversarial, teacher).mean(), kl_divergence(clean, teacher).mean()
        total = self.alpha * robust + (1 - self.alpha) * natural
        return total / adversarial.shape[1] if self.reduction == "mean" else total
