"""MAT, mutual adversarial training: Liu et al. 2021, https://arxiv.org/abs/2112.05005v1, eqs. 1-5 and algorithm 1.

No official code was found. Equation 5 prints M - 1, which only makes sense as N - 1; both agree for two networks. What
the paper leaves open is a setting here, with the default that reads it literally; see the fields. `first` is the
choice of section 3.2.5 between its two online scenarios (robust-robust and natural-robust).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from attacks.losses import LOSSES, boosted_cross_entropy, kl_divergence
from trainers.contract import Cohort, Inner, Mode


@dataclass(frozen=True)
class MAT:
    """min (1 - alpha) sum_n BCE(p_n(x'_n), y) + alpha / (N - 1) sum_n sum_{m != n} KL(p_m(x) || p_n(x'_n)).

    Each network attacks itself; its teachers see the clean image. alpha: 0.6 for CIFAR-10, 0.45 for CIFAR-100 in the
    paper. networks: N >= 2. inner_loss: "bce" as the text says, "ce" as the code it was probably built on.
    teacher_grad: "flow" lets the KL move the teacher too, as algorithm 1 differentiates the whole loss; "detach" is
    what DML, ACT and CAT do. first: "natural" trains the first network on x in place of x'_1, with the same loss.
    Not stated in the paper, ours: teacher_bn "train", reduction "batchmean" ("mean" also divides by K), inner.start
    "uniform", inner.bn "eval", and which epoch counts (both are kept; tables take the best by validation). The table
    `switches` decides them otherwise. Raises ValueError.
    """

    inner: Inner
    alpha: float = 0.6
    networks: int = 2
    inner_loss: Literal["bce", "ce"] = "bce"
    teacher_grad: Literal["flow", "detach"] = "flow"
    teacher_bn: Mode = "train"
    reduction: Literal["batchmean", "mean"] = "batchmean"
    first: Literal["robust", "natural"] = "robust"
    version: int = 1

    def __post_init__(self) -> None:
        if self.networks < 2 or not 0 <= self.alpha <= 1:
            raise ValueError(
                f"MAT needs networks >= 2 and alpha in [0, 1]; got networks = {self.networks}, alpha = {self.alpha:g}"
            )

    @property
    def members(self) -> int:
        """N networks."""
        return self.networks

    def against(self, n: int) -> tuple[Inner, ...]:
        """See `trainers.contract.perturbations`."""
        return () if n == 0 and self.first == "natural" else (self.inner,)

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`. With "flow" a loss also has a gradient in the other networks."""
        ascent, every = LOSSES[self.inner_loss], range(self.networks)
        flow, natural = self.teacher_grad == "flow", [n for n in every if not self.against(n)]
        x_adv = [x if n in natural else cohort.attack(n, x, y, self.inner, ascent) for n in every]
        clean = [cohort.logits(n, x, self.teacher_bn, grad=flow or n in natural) for n in every]
        shared = natural if self.teacher_bn == "train" else []  # one pass is teacher and student
        student = [clean[n] if n in shared else cohort.logits(n, x_adv[n]) for n in every]
        teachers = clean if flow else [logits.detach() for logits in clean]
        return [self.loss(n, student[n], teachers, y, cohort.label_smoothing) for n in every]

    def loss(self, n: int, adversarial: Tensor, clean: list[Tensor], y: Tensor, smoothing: float = 0.0) -> Tensor:
        """Network n's part of equation 5: its logits [B, K] on x'_n (natural: on x), everyone's on x -> scalar."""
        label = boosted_cross_entropy(adversarial, y, smoothing).mean()
        taught = sum((kl_divergence(adversarial, clean[m]).mean() for m in range(self.networks) if m != n), label * 0)
        if self.reduction == "mean":
            taught = taught / adversarial.shape[1]
        return (1 - self.alpha) * label + self.alpha / (self.networks - 1) * taught
