"""DD, defensive distillation: Papernot et al. 2016, https://arxiv.org/abs/1511.04508.

Two natural trainings at temperature T: of the teacher on labels (`trainers.natural` with that temperature), then of the
student on the teacher's soft labels alone; the student is deployed at temperature 1. It does not make robust: its
logits are about T times too large, so that cross-entropy has no gradient in float32, and attacks that climb it fail
while others do not (Carlini & Wagner 2016, https://arxiv.org/abs/1607.04311). It is here as the known case of masked
gradients.

Differs from the code of Carlini & Wagner: the soft labels are the teacher's on the augmented image of each epoch, not
on the image itself; both losses are multiplied by T, so that the gradient in the logits does not shrink by 1 / T and
one learning rate fits every temperature; the student does not start from the teacher's first epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.losses import cross_entropy
from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class DD:
    """min -T sum_k q_k log softmax(f(x) / T)_k, q = softmax(f_T(x) / T), f_T the teacher.

    inner: only for the robust accuracy that is reported after each epoch, as in natural training. temperature: T > 0,
    also that of the teacher's training; 20 is remembered from the paper, not read in it. Raises ValueError.
    """

    inner: Inner
    temperature: float = 20.0
    version: int = 1

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"DD needs temperature > 0; got temperature = {self.temperature:g}")

    @property
    def members(self) -> int:
        """One network."""
        return 1

    @property
    def teachers(self) -> int:
        """See `trainers.contract.teachers_of`."""
        return 1

    def against(self, n: int) -> tuple[Inner, ...]:
        """See `trainers.contract.perturbations`: nothing."""
        return ()

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        return [self.loss(cohort.logits(0, x), cohort.taught(x))]

    def loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """student, teacher: logits [B, K] on x -> the scalar loss."""
        soft = (teacher / self.temperature).softmax(1)
        return self.temperature * cross_entropy(student / self.temperature, soft).mean()
