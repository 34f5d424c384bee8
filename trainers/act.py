"""ACT, adversarial concurrent training: Arani, Sarfraz, Zonooz 2020, https://arxiv.org/abs/2008.07015.

A robust network G and a natural network F teach each other. The formulas are those of the authors' code
(https://github.com/NeurAI-Lab/ACT). Differs from it: both networks step from the same values (theirs step one after
the other from the same logits, which is the same), crops are padded with zeros, and eps is written out (theirs is
0.031).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.losses import Loss, cross_entropy, kl_divergence
from trainers.contract import Cohort, Inner

G, F = 0, 1


@dataclass(frozen=True)
class ACT:
    """G: min (1 - a) CE(G(x'), y) + a T^2 KL(p_F(x) || p_G(x')); F: the same with b, x and the roles exchanged.

    Network 0 is the robust G, network 1 the natural F. x' is against G and maximises (1 - a) CE(G(x'), y) +
    a KL(p_F(x) || p_G(x')) at temperature 1. All teachers are constants. alpha_robust, alpha_natural: a and b in
    [0, 1]. temperature: T of both KL divergences > 0. attack_reduction: "mixed" is the authors' code, where in the
    attack the cross-entropy is a mean over the batch but the KL a sum, so that it is the KL almost alone; "mean" weighs
    both per image. Raises ValueError.
    """

    inner: Inner
    alpha_robust: float = 0.9
    alpha_natural: float = 0.9
    temperature: float = 4.0
    attack_reduction: Literal["mixed", "mean"] = "mixed"
    version: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.alpha_robust <= 1 and 0 <= self.alpha_natural <= 1 and self.temperature > 0):
            raise ValueError(
                "ACT needs alpha_robust and alpha_natural in [0, 1] and temperature > 0; got alpha_robust = "
                f"{self.alpha_robust:g}, alpha_natural = {self.alpha_natural:g}, temperature = {self.temperature:g}"
            )

    @property
    def members(self) -> int:
        """G and F."""
        return 2

    def against(self, n: int) -> tuple[Inner, ...]:
        """See `trainers.contract.perturbations`."""
        return (self.inner,) if n == G else ()

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        natural = cohort.logits(F, x)
        goal = torch.cat([natural.detach(), y[:, None].to(natural)], 1)
        x_adv = cohort.attack(G, x, goal, self.inner, self.ascent(len(x)))
        robust = cohort.logits(G, x_adv)
        return [
            self.loss(robust, natural.detach(), y, self.alpha_robust, cohort.label_smoothing),
            self.loss(natural, robust.detach(), y, self.alpha_natural, cohort.label_smoothing),
        ]

    def ascent(self, batch: int) -> Loss:
        """The loss of the attack: logits [B, K], goal [B, K + 1] (F's logits and then the label) -> [B]."""
        share = (1 - self.alpha_robust) / (batch if self.attack_reduction == "mixed" else 1)

        def loss(logits: Tensor, goal: Tensor) -> Tensor:
            label = cross_entropy(logits, goal[:, -1].long())
            return share * label + self.alpha_robust * kl_divergence(logits, goal[:, :-1])

        return loss

    def loss(self, student: Tensor, teacher: Tensor, y: Tensor, alpha: float, smoothing: float = 0.0) -> Tensor:
        """student, teacher: logits [B, K]; y [B] -> the scalar loss."""
        taught = kl_divergence(student / self.temperature, teacher / self.temperature).mean()
        return (1 - alpha) * cross_entropy(student, y, smoothing).mean() + alpha * self.temperature**2 * taught
