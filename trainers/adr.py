"""ADR, annealing self-distillation rectification: Wu, Wang, Chen, ICLR 2024, https://arxiv.org/abs/2305.12118.

AT with labels that the average of the network's own weights has softened. Formulas and numbers are those of the
authors' code (https://github.com/yuyuwu5/ADR); of the paper only the abstract was read. The average that teaches is
`schedule.ema`'s where there is one (the paper's ADR + WA, whose average is also what is kept), else one that the loop
keeps for the method and nobody judges. Differs from the code: lambda and tau move once an epoch, theirs with every
batch; the average's decay warms up (`trainers.ema`), theirs does not; the inner attack is in evaluation mode by default
(`inner.bn`; theirs in training mode). Not offered: ADR on TRADES, which their code has too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class ADR:
    """min CE(f(x'), q) with q = l p + (1 - l) y and p = softmax(f_average(x) / tau); l is, for each image, lambda less
    the lead of p's largest class over the true one, clipped to [0, 1], so that the true class is the largest of q.

    x' maximises CE(f(x'), q) too. lambda, interpolation = (first, last), rises and tau, temperature = (first, last),
    falls along half a cosine over the epochs. decay: of the average, in (0, 1), where the schedule has no ema.
    Numbers: the code's for CIFAR-10 (temperature (1.5, 1) for CIFAR-100). Raises ValueError.
    """

    inner: Inner
    interpolation: tuple[float, float] = (0.7, 0.95)
    temperature: tuple[float, float] = (2.5, 2.0)
    decay: float = 0.995
    version: int = 1

    def __post_init__(self) -> None:
        within = all(0 <= one <= 1 for one in self.interpolation) and min(self.temperature) > 0 and 0 < self.decay < 1
        if not within:
            raise ValueError(
                "ADR needs interpolation in [0, 1], temperature > 0 and decay in (0, 1); got interpolation = "
                f"{self.interpolation}, temperature = {self.temperature}, decay = {self.decay:g}"
            )

    @property
    def members(self) -> int:
        """One network."""
        return 1

    @property
    def average(self) -> float:
        """See `trainers.contract.average_of`."""
        return self.decay

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        own = cohort.once(lambda: cohort.averaged(0, x))
        target = self.rectified(own, y, cohort.progress)
        x_adv = cohort.attack(0, x, target, self.inner, soft_cross_entropy)
        classes, smoothing = target.shape[1], cohort.label_smoothing
        return [soft_cross_entropy(cohort.logits(0, x_adv), (1 - smoothing) * target + smoothing / classes).mean()]

    def rectified(self, average: Tensor, y: Tensor, progress: float) -> Tensor:
        """Logits [B, K] of the average on x, y [B], the share of the training in (0, 1] -> labels q [B, K]."""
        share, cold = (annealed(*ends, progress) for ends in (self.interpolation, self.temperature))
        p = (average / cold).softmax(1)
        lead = p.amax(1, keepdim=True) - p.gather(1, y[:, None])
        share_of_each = (share - lead).clamp(0, 1)
        return share_of_each * p + (1 - share_of_each) * torch.nn.functional.one_hot(y, p.shape[1])


def annealed(first: float, last: float, progress: float) -> float:
    """From first (progress 0) to last (1) along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """logits [B, K], target [B, K] probabilities -> -sum_k q_k log p_k, for each image."""
    return -(target * logits.log_softmax(1)).sum(1)
