"""RegMix: Liu & Ojha 2025, https://arxiv.org/abs/2510.05317. Derived in part: not a reproduction.

Two regularisers instead of the squared error between the logits at the final and at the initial adversarial point.
AMR (weighted adversarial mutual regularisation) was read in a review of the paper, not in the paper itself. DERIVED
here, because the formulas were not seen: AGR (adversarial generalisation regularisation), of which only is known that
it adds the clean output as another target; how the terms are added up; where gradient is stopped; and every weight. The
authors' code could not be read.

The paper builds on fast adversarial training from a prior: an initial perturbation that each image keeps over epochs,
then one FGSM step (FGSM-PGK). Here the initial point is the attack's random start, drawn anew: the state of a training
is its weights. inner.steps = 1 with inner.step = eps is the fast base (FGSM-PGK attacks with batch norm in training
mode and averages weights: `inner.bn`, `schedule.ema`); 10 steps are the PGD base.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from attacks.losses import cross_entropy, kl_divergence
from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class RegMix:
    """min CE(f(x_f), y) + alpha KL(p_f || p_i) + beta KL(p_i || p_f) + gamma KL(p_c || p_f).

    p_f, p_i, p_c: softmax at the final and at the initial adversarial point and at x. alpha, beta: AMR, unequal in the
    paper; 0 leaves a term out, and a pass that then nothing needs is not made. gamma: AGR (derived). All three values
    are ours and not tuned. target_mass: probability of the label in the cross-entropy, the rest is spread evenly on
    the other classes; 1 is no smoothing, FGSM-PGK has 0.5 on CIFAR-10 and 0.8 on CIFAR-100. detach: which of p_i and
    p_c are constants; "none", since the squared error lets gradient into both sides. agr: "forward" is the formula,
    "reverse" KL(p_f || p_c). The start must be random. Raises ValueError.
    """

    inner: Inner
    alpha: float = 4.0
    beta: float = 2.0
    gamma: float = 1.0
    target_mass: float = 1.0
    detach: Literal["none", "initial", "clean", "both"] = "none"
    agr: Literal["forward", "reverse"] = "forward"
    version: int = 1

    def __post_init__(self) -> None:
        if min(self.alpha, self.beta, self.gamma) < 0 or not 0 < self.target_mass <= 1:
            raise ValueError(
                f"RegMix needs alpha, beta, gamma >= 0 and target_mass in (0, 1]; got alpha = {self.alpha:g}, "
                f"beta = {self.beta:g}, gamma = {self.gamma:g}, target_mass = {self.target_mass:g}"
            )
        if self.inner.start == "none":
            raise ValueError("RegMix compares with the attack's random start; use start = 'uniform', not 'none'")

    @property
    def members(self) -> int:
        """One network."""
        return 1

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        x_adv = cohort.attack(0, x, y, self.inner, cross_entropy)
        initial = cohort.logits(0, cohort.start(0, x, self.inner)) if self.alpha or self.beta else None
        clean = cohort.logits(0, x) if self.gamma else None
        return [self.loss(cohort.logits(0, x_adv), initial, clean, y, cohort.label_smoothing)]

    def loss(
        self, final: Tensor, initial: Tensor | None, clean: Tensor | None, y: Tensor, smoothing: float = 0.0
    ) -> Tensor:
        """Logits [B, K] at the three points (None: its weights are 0), y [B] -> scalar."""
        total = self.label_loss(final, y, smoothing).mean()
        if initial is not None:
            initial = initial.detach() if self.detach in ("initial", "both") else initial
            total = total + self.alpha * kl_divergence(initial, final).mean()
            total = total + self.beta * kl_divergence(final, initial).mean()
        if clean is not None:
            clean = clean.detach() if self.detach in ("clean", "both") else clean
            pair = (final, clean) if self.agr == "forward" else (clean, final)
            total = total + self.gamma * kl_divergence(*pair).mean()
        return total

    def label_loss(self, logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy with `target_mass` on the label, [B]. smoothing: the schedule's, on top of that."""
        label, every = cross_entropy(logits, y), -logits.log_softmax(1).sum(1)
        own = self.target_mass * label + (1 - self.target_mass) / (logits.shape[1] - 1) * (every - label)
        return (1 - smoothing) * own + smoothing * every / logits.shape[1]
