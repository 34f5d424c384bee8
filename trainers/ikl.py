"""IKL, improved Kullback-Leibler loss: Cui, Tian, Zhong, Qi, Yu, Zhang, NeurIPS 2024, https://arxiv.org/abs/2305.13948.

TRADES' KL has the gradients of two terms: a squared error between differences of logits, weighted by the clean
probabilities, which moves the clean side alone, and a cross-entropy with the clean answer as a soft label, which moves
the adversarial side alone (DKL). IKL lets the squared error move both sides, and weighs it by what images of the label
are taken for on the average of the last epoch, not by what this one is. The formulas are those of the authors' code
(https://github.com/jiequancui/DKL, its DKLv1; the later GKL of DKLv2 also raises the weights to a power); the paper was
not read. Written out here: sum_jk s_j s_k (d_j - d_k)^2 / 4 with sum s = 1 is half the variance of d under s.

Differs from the code: its radius rises with the epoch, in every epoch with 5 steps of half of it (its option for fewer
steps in earlier epochs is overwritten by the next lines); it attacks the same KL, with clean logits computed anew at
each step; its AWP (0.005 from epoch 10 on) and averaged weights (0.9996, from epoch 150 on) are `schedule` here, and
its augmentations are not offered. A class without an image in an epoch has uniform weights; there 0 / 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.losses import cross_entropy, kl_divergence
from trainers.contract import Cohort, Inner

USED, SUMS, WHEN = "class weights", "sums of this epoch", "progress of these sums"


@dataclass(frozen=True)
class IKL:
    """min CE(f(x), y) + beta Var_s(f(x) - f(x')) / 2 + alpha sum_k -p_k(x) log p_k(x'), p(x) constant in the last term.

    Var_s: of the K differences of logits, under the weights s of the label y: the mean of softmax(f(x) / T) over images
    of that label in the last epoch, uniform in the first. It moves both sides. x' maximises KL(p(x) || p(x')), which
    has no gradient at x' = x, so a start of "none" is refused. alpha, beta >= 0 and T = temperature > 0: the code's 4,
    20 and 4. Raises ValueError.
    """

    inner: Inner
    alpha: float = 4.0
    beta: float = 20.0
    temperature: float = 4.0
    version: int = 1

    def __post_init__(self) -> None:
        if self.inner.start == "none":
            raise ValueError(
                "IKL cannot start at the clean image, where its KL has no gradient; use start = 'gaussian'"
            )
        if not (min(self.alpha, self.beta) >= 0 and self.temperature > 0):
            raise ValueError(
                f"IKL needs alpha, beta >= 0 and temperature > 0; got alpha = {self.alpha:g}, beta = {self.beta:g}, "
                f"temperature = {self.temperature:g}"
            )

    @property
    def members(self) -> int:
        """One network."""
        return 1

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        goal = cohort.once(lambda: cohort.logits(0, x, self.inner.bn, grad=False))
        x_adv = cohort.attack(0, x, goal, self.inner, kl_divergence)
        clean, adversarial = cohort.logits(0, x), cohort.logits(0, x_adv)
        return [self.loss(clean, adversarial, y, self.weights(cohort, clean, y), cohort.label_smoothing)]

    def weights(self, cohort: Cohort, clean: Tensor, y: Tensor) -> Tensor:
        """The class weights [K, K] of this epoch, a row for each label; the batch enters those of the next one."""
        progress = torch.tensor(cohort.progress, dtype=torch.float64)
        used, sums, when = (cohort.recall(name) for name in (USED, SUMS, WHEN))
        if used is None or sums is None or when is None:
            sums = clean.new_zeros(clean.shape[1], clean.shape[1]).detach()
            used = normalised(sums)
        elif when < progress:
            used, sums = normalised(sums), torch.zeros_like(sums)
        labels = torch.nn.functional.one_hot(y, clean.shape[1]).to(clean.dtype)
        cohort.note(USED, used)
        cohort.note(SUMS, sums + labels.T @ (clean.detach() / self.temperature).softmax(1))
        cohort.note(WHEN, progress)
        return used

    def loss(self, clean: Tensor, adversarial: Tensor, y: Tensor, weights: Tensor, smoothing: float = 0.0) -> Tensor:
        """clean, adversarial: logits [B, K]; y [B]; weights [K, K], rows sum to 1 -> the scalar loss."""
        s, apart = weights[y], clean - adversarial
        middle = (s * apart).sum(1, keepdim=True)
        spread = (s * (apart - middle).square()).sum(1) / 2
        soft = -(clean.detach().softmax(1) * adversarial.log_softmax(1)).sum(1)
        return cross_entropy(clean, y, smoothing).mean() + (self.beta * spread + self.alpha * soft).mean()


def normalised(sums: Tensor) -> Tensor:
    """Rows that sum to 1; uniform where nothing is."""
    seen, classes = sums.sum(1, keepdim=True), sums.shape[1]
    return torch.where(seen > 0, sums / seen.clamp_min(1e-12), torch.full_like(sums, 1 / classes))
