"""AdaAD, adaptive adversarial distillation: Huang et al., CVPR 2023, "Boosting Accuracy and Robustness of Student
Models via Adaptive Adversarial Distillation".

The teacher is asked on x' too: the attack seeks the image on which the two disagree most, and the student learns the
teacher's answer to that. No label is seen. The formulas are those of the authors' code
(https://github.com/boyellow/adaad), read in a public copy of it; the paper was not read. There too the attack is
differentiated through both networks, and the loss through the student alone. Differs from the code: the KL is a mean
over images, as theirs for CIFAR-100; theirs for CIFAR-10 also divides by the number of classes (`reduction`). With
alpha = 1 there is no pass on clean images, which in theirs moves batch norm and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from attacks.losses import kl_divergence
from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class AdaAD:
    """min alpha KL(p_T(x') || p(x')) + (1 - alpha) KL(p_T(x) || p(x)), p_T the frozen teacher.

    x' maximises KL(p_T(x') || p(x')), in which the teacher moves too. alpha in [0, 1]: the code's 1. reduction: "mean"
    also divides by the number of classes. Raises ValueError.
    """

    inner: Inner
    alpha: float = 1.0
    reduction: Literal["batchmean", "mean"] = "batchmean"
    version: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"AdaAD needs alpha in [0, 1]; got alpha = {self.alpha:g}")

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
        x_adv = cohort.attack_beside_teacher(0, x, self.inner, kl_divergence)
        seen = [x_adv, x] if self.alpha < 1 else [x_adv]
        return [self.loss([(cohort.logits(0, images), cohort.taught(images)) for images in seen])]

    def loss(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Logits [B, K] of student and teacher, on x' and, where alpha < 1, on x -> the scalar loss."""
        shares = (self.alpha, 1 - self.alpha)
        parts = [
            share * kl_divergence(student, teacher).mean()
            for share, (student, teacher) in zip(shares, pairs, strict=False)
        ]
        total = sum(parts[1:], parts[0])
        return total / pairs[0][0].shape[1] if self.reduction == "mean" else total
