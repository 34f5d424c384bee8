"""MART: Wang et al. 2020, https://openreview.net/forum?id=rklOg6EFwS, eq. 11.

Differs from the authors' code: the boosted cross-entropy is computed exactly from the logits; `eps_guard` brings back
their guards (1.0001 - p, 1e-12), which cap the margin term at 9.21. Their eps is 0.031; ours is written out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.losses import boosted_cross_entropy, cross_entropy, kl_divergence
from trainers.contract import Alone, Cohort, Inner


@dataclass(frozen=True)
class MART:
    """min BCE(p(x'), y) + weight mean[KL(p(x) || p(x')) (1 - p_y(x))], x' the maximiser of plain cross-entropy.

    weight: the paper's lambda. Gradient flows into p(x) in the KL and in the factor. eps_guard: the authors' guards.
    """

    inner: Inner
    weight: float = 5.0
    eps_guard: bool = False
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
        true = clean.softmax(1).gather(1, y[:, None]).squeeze(1)
        if self.eps_guard:
            p, q = clean.softmax(1), adversarial.softmax(1)
            best_wrong = q.scatter(1, y[:, None], -torch.inf).amax(1)
            label = cross_entropy(adversarial, y, smoothing) - (1.0001 - best_wrong + 1e-12).log()
            kl = (p * (p.clamp_min(1e-30).log() - (q + 1e-12).log())).sum(1)
            return label.mean() + self.weight * (kl * (1.0000001 - true)).mean()
        kl = kl_divergence(adversarial, clean)
        label = boosted_cross_entropy(adversarial, y, smoothing)
        return label.mean() + self.weight * (kl * (1 - true)).mean()
