"""LBGAT, learnable boundary guided adversarial training: Cui, Liu, Wang, Jia 2021, https://arxiv.org/abs/2011.11164.

A naturally trained network draws the boundary while it is learnt: the robust network's logits on x' are pulled to its
logits on x, and it is pulled to them. The formulas are those of the authors' code
(https://github.com/dvlab-research/LBGAT); the paper was not read. Differs from the code: the clean softmax is constant
during the attack and computed once; with beta = 0 there is no training pass of the robust network on clean images,
which in theirs moves batch norm and nothing else; both networks have one schedule and no first epoch at a lower rate
(theirs has 0.02 in place of 0.1); eps is written out (theirs is 0.031).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.losses import cross_entropy, kl_divergence
from trainers.contract import Cohort, Inner

ROBUST, NATURAL = 0, 1


@dataclass(frozen=True)
class LBGAT:
    """min MSE(f(x'), g(x)) + CE(g(x), y) + beta KL(p_f(x) || p_f(x')), over the robust f and the natural g together.

    Network 0 is f, network 1 is g. MSE: the mean over images and classes, with a gradient in both networks. x' is
    against f and maximises KL(p_f(x) || p_f(x')), which has no gradient at x' = x, so a start of "none" is refused.
    beta >= 0: the code's default is 6 (CIFAR-100); its released networks for CIFAR-10 are named LBGAT0. Raises
    ValueError.
    """

    inner: Inner
    beta: float = 0.0
    version: int = 1

    def __post_init__(self) -> None:
        if self.inner.start == "none":
            raise ValueError(
                "LBGAT cannot start at the clean image, where its KL has no gradient; use start = 'gaussian'"
            )
        if not self.beta >= 0:
            raise ValueError(f"LBGAT needs beta >= 0; got beta = {self.beta:g}")

    @property
    def members(self) -> int:
        """f and g."""
        return 2

    def against(self, n: int) -> tuple[Inner, ...]:
        """See `trainers.contract.perturbations`."""
        return (self.inner,) if n == ROBUST else ()

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`. f's loss also has a gradient in g."""
        own = cohort.once(lambda: cohort.logits(ROBUST, x, self.inner.bn, grad=False))
        x_adv = cohort.attack(ROBUST, x, own, self.inner, kl_divergence)
        adversarial, natural = cohort.logits(ROBUST, x_adv), cohort.logits(NATURAL, x)
        clean = cohort.logits(ROBUST, x) if self.beta > 0 else None
        label = cross_entropy(natural, y, cohort.label_smoothing).mean()
        return [self.loss(adversarial, natural, clean), label]

    def loss(self, adversarial: Tensor, natural: Tensor, clean: Tensor | None) -> Tensor:
        """Logits [B, K] of f on x', of g on x, of f on x (None: beta is 0) -> the scalar loss of f."""
        pull = (adversarial - natural).square().mean()
        return pull if clean is None else pull + self.beta * kl_divergence(adversarial, clean).mean()
