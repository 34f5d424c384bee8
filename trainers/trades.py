"""TRADES: Zhang et al. 2019, https://arxiv.org/abs/1901.08573, eq. 5.

Differs from the authors' code: the clean softmax is constant during the attack and computed once; the clean images go
through in training mode once, not twice, so batch norm counts them once; eps is written out (theirs is 0.031).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.losses import cross_entropy, kl_divergence
from trainers.contract import Alone, Cohort, Inner


@dataclass(frozen=True)
class TRADES:
    """min CE(f(x), y) + beta KL(p(x) || p(x')), x' the maximiser of the KL. beta: the paper's 1 / lambda.

    Gradient flows into both sides of the KL. The KL has no gradient at x' = x, so a start of "none" is refused.
    """

    inner: Inner
    beta: float = 6.0
    version: int = 1

    def __post_init__(self) -> None:
        if self.inner.start == "none":
            raise ValueError(
                "TRADES cannot start at the clean image, where its KL has no gradient; use start = 'gaussian'"
            )

    @property
    def members(self) -> int:
        """One network."""
        return 1

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        return [self.alone(cohort, 0, x, y).loss]

    def alone(self, cohort: Cohort, n: int, x: Tensor, y: Tensor) -> Alone:
        """The method on network n."""
        target = cohort.once(lambda: cohort.logits(n, x, self.inner.bn, grad=False))
        x_adv = cohort.attack(n, x, target, self.inner, kl_divergence)
        clean, adversarial = cohort.logits(n, x), cohort.logits(n, x_adv)
        return Alone(self.loss(clean, adversarial, y, cohort.label_smoothing), x_adv, adversarial)

    def loss(self, clean: Tensor, adversarial: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
        """clean, adversarial: logits [B, K]; y [B] -> the scalar loss."""
        return cross_entropy(clean, y, smoothing).mean() + self.beta * kl_divergence(adversarial, clean).mean()
