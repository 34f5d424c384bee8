"""RAMP, robustness against multiple perturbations: Jiang & Singh, NeurIPS 2024, https://arxiv.org/abs/2402.06827.

The worse of two norms is trained on, and the answers to both are pulled together where the network is right, so that
learning one does not cost the other. The formulas are those of the authors' code
(https://github.com/uiuc-focal-lab/RAMP, RAMP.py); the paper was not read.

LEFT OUT: the gradient projection. At the end of every epoch that code mixes the weights, layer by layer, with those of
a copy that was trained naturally for that epoch from the same start. This loop has no such copy, so what is here is the
paper's other part, and no reproduction of its numbers is claimed.

Differs from the code: the attacks are PGD (theirs APGD of 10 steps, which starts at the image), and the worse norm of
an image is that of the larger loss in the training passes (theirs by the loss that APGD reached, in evaluation mode,
with a third training pass on these images). With more than two attacks, which the code does not have, the KL to all
others is averaged (ours). Their weight decay spares batch norm and biases.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.losses import cross_entropy, kl_divergence
from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class RAMP:
    """min mean max_m CE(f(x'_m), y) + weight KL(p(x'_1) || p(x'_m)), the KL averaged over the images whose x'_1 the
    network gets right, with a gradient in both sides.

    inners: the attacks, two or more; x'_1 is the first's, the code's Linf before L1. x'_m maximises the cross-entropy.
    weight >= 0: the code's 5, for training from scratch. Raises ValueError.
    """

    inners: tuple[Inner, ...]
    weight: float = 5.0
    version: int = 1

    def __post_init__(self) -> None:
        if len(self.inners) < 2:
            raise ValueError(f"RAMP needs inners with two attacks or more; got {len(self.inners)}")
        if not self.weight >= 0:
            raise ValueError(f"RAMP needs weight >= 0; got weight = {self.weight:g}")

    @property
    def inner(self) -> Inner:
        """The first attack."""
        return self.inners[0]

    @property
    def members(self) -> int:
        """One network."""
        return 1

    def against(self, n: int) -> tuple[Inner, ...]:
        """See `trainers.contract.perturbations`."""
        return self.inners

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        x_adv = [cohort.attack(0, x, y, inner, cross_entropy) for inner in self.inners]
        logits = [cohort.logits(0, each) for each in x_adv]
        which, right = cohort.once(lambda: self.seen(logits, y))
        return [self.loss(logits, y, which, right, cohort.label_smoothing)]

    def seen(self, logits: list[Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K] on each x'_m -> for each image the m of the largest loss, and whether x'_1 is right."""
        which = torch.stack([cross_entropy(one, y) for one in logits]).argmax(0)
        return which, logits[0].argmax(1) == y

    def loss(self, logits: list[Tensor], y: Tensor, which: Tensor, right: Tensor, smoothing: float = 0.0) -> Tensor:
        """logits [B, K] on each x'_m, y [B], which [B] int64 and right [B] bool as of `seen` -> the scalar loss."""
        label = torch.stack([cross_entropy(one, y, smoothing) for one in logits]).gather(0, which[None]).mean()
        apart = torch.stack([kl_divergence(other, logits[0]) for other in logits[1:]]).mean(0)
        return label + self.weight * (apart * right).sum() / right.sum().clamp_min(1)
