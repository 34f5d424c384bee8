"""IGDM, indirect gradient distillation, on top of AdaAD: Lee, Cho, Kim, https://arxiv.org/abs/2312.03286 (ICLR 2025).

A student whose logits change from x - d to x + d as its teacher's do has, to first order, the teacher's gradients in
the image. The formulas are those of the authors' later code (https://github.com/HongsinLee/saad, igdm.py); of the paper
only the abstract was read. There the weight of the new term rises with the epoch, alpha epoch / 200 in 200 epochs;
alpha is 1 for CIFAR-10 and 10 for CIFAR-100 in that code's comments, and the paper's own was not seen. It calls the
attack with a step of 8/255 in a radius of 2/255 (so it does for AdaAD, and not for its own SAAD); ours has those of the
recipe. x - d is not clipped to the range of images, as there.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.losses import kl_divergence
from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class IGDM:
    """min KL(p_T(x + d) || p(x + d)) + alpha t KL(softmax(f_T(x + d) - f_T(x - d)) || softmax(f(x + d) - f(x - d))).

    x + d: x' of AdaAD (see `trainers.adaad`). f_T: the frozen teacher. alpha >= 0. t: the share of the training that is
    done with this epoch, in (0, 1]. Raises ValueError.
    """

    inner: Inner
    alpha: float = 1.0
    version: int = 1

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise ValueError(f"IGDM needs alpha >= 0; got alpha = {self.alpha:g}")

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
        plus = cohort.attack_beside_teacher(0, x, self.inner, kl_divergence)
        images = (plus, x - (plus - x))
        student, teacher = [cohort.logits(0, one) for one in images], [cohort.taught(one) for one in images]
        return [self.loss((student[0], student[1]), (teacher[0], teacher[1]), cohort.progress)]

    def loss(self, student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], progress: float) -> Tensor:
        """Logits [B, K] of both on x + d and on x - d; progress: t -> the scalar loss."""
        points = kl_divergence(student[0], teacher[0]).mean()
        slopes = kl_divergence(student[0] - student[1], teacher[0] - teacher[1]).mean()
        return points + self.alpha * progress * slopes
