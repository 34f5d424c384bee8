"""ARD, adversarially robust distillation: Goldblum, Fowl, Feizi, Goldstein 2020, https://arxiv.org/abs/1905.09747.

A frozen robust teacher shows its soft labels of the clean image to a student under attack. Differs from the authors'
code (https://github.com/goldblum/AdversariallyRobustDistillation): the KL is a mean over images, where theirs is one
over images and classes (`reduction`), so that with alpha = 1 their learning rate is 10 times smaller on CIFAR-10 and
100 times on CIFAR-100; the attack runs with batch norm in evaluation mode (`inner.bn`); with alpha = 1 there is no
pass on clean images, which in theirs moves batch norm and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from attacks.losses import cross_entropy, kl_divergence
from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class ARD:
    """min alpha T^2 KL(softmax(f_T(x) / T) || softmax(f(x') / T)) + (1 - alpha) CE(f(x), y), f_T the teacher.

    x': against the student, the maximiser of the cross-entropy of the label. alpha in [0, 1]; temperature: T > 0 of the
    KL; both as in the code. reduction: "mean" also divides the KL by the number of classes. Raises ValueError.
    """

    inner: Inner
    alpha: float = 1.0
    temperature: float = 30.0
    reduction: Literal["batchmean", "mean"] = "batchmean"
    version: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.alpha <= 1 and self.temperature > 0):
            raise ValueError(
                f"ARD needs alpha in [0, 1] and temperature > 0; got alpha = {self.alpha:g}, "
                f"temperature = {self.temperature:g}"
            )

    @property
    def members(self) -> int:
        """One network."""
        return 1

    @property
    def teachers(self) -> int:
        """See `trainers.contract.teachers_of`."""
        return 1

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        x_adv = cohort.attack(0, x, y, self.inner, cross_entropy)
        clean = cohort.logits(0, x) if self.alpha < 1 else None
        return [self.loss(cohort.logits(0, x_adv), cohort.taught(x), clean, y, cohort.label_smoothing)]

    def loss(
        self, adversarial: Tensor, teacher: Tensor, clean: Tensor | None, y: Tensor, smoothing: float = 0.0
    ) -> Tensor:
        """Logits [B, K] of the student on x', of the teacher on x, of the student on x (None: alpha is 1) -> scalar."""
        soft = kl_divergence(adversarial / self.temperature, teacher / self.temperature).mean()
        if self.reduction == "mean":
            soft = soft / adversarial.shape[1]
        total = self.alpha * self.temperature**2 * soft
        return total if clean is None else total + (1 - self.alpha) * cross_entropy(clean, y, smoothing).mean()
