"""ALP, adversarial logit pairing: Kannan, Kurakin, Goodfellow 2018, https://arxiv.org/abs/1803.06373.

This is the form that is used on CIFAR: the attack is untargeted and ascends the cross-entropy of the label. Differs
from the authors' code, which is for ImageNet: theirs attacks towards the least likely class, smooths labels by 0.1,
and passes clean and adversarial images as one batch, so that batch norm sees them together. ALP's robustness falls to
longer attacks (Engstrom et al. 2018, https://arxiv.org/abs/1807.10272): judge it by many steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.losses import cross_entropy
from trainers.contract import Alone, Cohort, Inner


@dataclass(frozen=True)
class ALP:
    """min (CE(f(x), y) + CE(f(x'), y)) / 2 + weight MSE(f(x), f(x')), x' the maximiser of the cross-entropy.

    weight: the paper's lambda; the squared error is a mean over images and logits, so lambda means less where there
    are more classes. Gradient flows into both sides of it.
    """

    inner: Inner
    weight: float = 0.5
    version: int = 1

    @property
    def members(self) -> int:
        """One network."""
        return 1

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        return [self.alone(cohort, 0, x, y).loss]

    def alone(self, cohort: Cohort, n: int, x: Tensor, y: Tensor) -> Alone:
        """The method on network n."""
        x_adv = cohort.attack(n, x, y, self.inner, cross_entropy)
        clean, adversarial = cohort.logits(n, x), cohort.logits(n, x_adv)
        return Alone(self.loss(clean, adversarial, y, cohort.label_smoothing), x_adv, adversarial)

    def loss(self, clean: Tensor, adversarial: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
        """clean, adversarial: logits [B, K]; y [B] -> the scalar loss."""
        label = (cross_entropy(clean, y, smoothing).mean() + cross_entropy(adversarial, y, smoothing).mean()) / 2
        return label + self.weight * (clean - adversarial).square().mean()
