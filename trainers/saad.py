"""SAAD, sample-wise adaptive adversarial distillation: Lee & Chung, TMLR 2026, https://arxiv.org/abs/2512.10275.

IGDM with a weight for each image: how unsure the teacher is of x' stands for how well x' transfers to it; what it is
sure of teaches little. The teacher is not asked in the attack but once: its logits at x, of which the true one moves
along its gradient. The formulas are those of the authors' code (https://github.com/HongsinLee/saad, saad.py); the
paper was not read. The weights are relative to the batch, as there. Differs from the code: with beta = 0,
the script's, the student does not see clean images, which there moves batch norm and nothing else; the average of
weights that theirs keeps once an epoch from the 95th on (SWA, with batch norm estimated anew) is `schedule.ema` here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.losses import kl_divergence
from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class SAAD:
    """min mean [w (KL(p_T(x + d) || p(x + d)) + alpha t S) + beta (1 - v) KL(p_T(x) || p(x))], S the KL of differences
    in IGDM (see `trainers.igdm`), w = scale (H - its least in the batch), v = w / its largest there.

    H: the entropy of p_T(x + d), in nats. x + d = x' maximises KL(p_g(x') || p(x')), p_g of the teacher's logits at x
    whose true one is moved by slope (x' - x) . (its gradient at x). f_T: the frozen teacher. t: the share of the
    training that is done with this epoch. alpha, beta, scale, slope >= 0: the script's and the code's. Raises
    ValueError.
    """

    inner: Inner
    alpha: float = 1.0
    beta: float = 0.0
    scale: float = 5.0
    slope: float = 1.0
    version: int = 1

    def __post_init__(self) -> None:
        given = {name: float(getattr(self, name)) for name in ("alpha", "beta", "scale", "slope")}
        if not all(value >= 0 for value in given.values()):
            told = ", ".join(f"{name} = {value:g}" for name, value in given.items())
            raise ValueError(f"SAAD needs alpha, beta, scale, slope >= 0; got {told}")

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
        taught, slope = cohort.taught_slope(x, y, true_logit)
        plus = cohort.attack_seeing(0, x, self.goal(taught, slope, x, y), self.inner, moving_kl)
        images = [plus, x - (plus - x), *([x] if self.beta > 0 else [])]
        teacher = [*(cohort.taught(one) for one in images[:2]), taught][: len(images)]
        return [self.loss([cohort.logits(0, one) for one in images], teacher, cohort.progress)]

    def goal(self, taught: Tensor, slope: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """What `moving_kl` compares with: [B, K + 1 + C H W], the logits at x = 0 of the line, the label, its slope."""
        steep = self.slope * slope.flatten(1)
        at_zero = taught.scatter_add(1, y[:, None], -(steep * x.flatten(1)).sum(1, keepdim=True).to(taught))
        return torch.cat([at_zero, y[:, None].to(taught), steep.to(taught)], 1)

    def loss(self, student: list[Tensor], teacher: list[Tensor], progress: float) -> Tensor:
        """Logits [B, K] of both on x + d, on x - d and, where beta > 0, on x; progress: t -> the scalar loss."""
        answer = teacher[0].log_softmax(1)
        entropy = -(answer.exp() * answer).sum(1)
        weight = self.scale * (entropy - entropy.min())
        slopes = kl_divergence(student[0] - student[1], teacher[0] - teacher[1])
        total = weight * (kl_divergence(student[0], teacher[0]) + self.alpha * progress * slopes)
        if self.beta > 0:
            rest = 1 - weight / weight.max().clamp_min(1e-8)
            total = total + self.beta * rest * kl_divergence(student[2], teacher[2])
        return total.mean()


def true_logit(logits: Tensor, y: Tensor) -> Tensor:
    """f_y, for each image."""
    return logits.gather(1, y[:, None]).squeeze(1)


def moving_kl(logits: Tensor, images: Tensor, goal: Tensor) -> Tensor:
    """KL(p_g || p) at images [B, C H W]; goal: see `SAAD.goal`."""
    classes = logits.shape[1]
    at_zero, y, steep = goal.split([classes, 1, images.shape[1]], 1)
    moved = at_zero.scatter_add(1, y.long(), (steep * images).sum(1, keepdim=True).to(at_zero))
    return kl_divergence(logits, moved)
