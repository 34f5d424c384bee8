"""Per-image losses of attacks. One sign for all: larger = closer to fooling the model.

logits [B, K] float32; the second argument is what they are compared with: labels [B] int64 unless stated otherwise.
Each returns [B]. Training methods build their losses from the same functions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
DLR_GUARD = 1e-12  # where all logits are equal; that of the authors' code


def cross_entropy(logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """-log p_y; with smoothing s, -(1 - s) log p_y - s / K sum_k log p_k (Szegedy et al. 2016, arXiv:1512.00567).

    Attacks leave it at 0.
    """
    return F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """log((1 - p_y) / p_y): rises and falls with the cross-entropy, and does not vanish on confident models.

    Its gradient is that of the cross-entropy divided by 1 - p_y.
    """
    true = logits.gather(1, y[:, None]).squeeze(1)
    return logits.scatter(1, y[:, None], -torch.inf).logsumexp(1) - true


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best wrong logit minus the true one; > 0 means fooled (Carlini & Wagner 2017, with kappa = 0)."""
    true = logits.gather(1, y[:, None]).squeeze(1)
    wrong = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return wrong - true


def targeted_margin(logits: Tensor, pair: Tensor) -> Tensor:
    """pair [B, 2] = (label, target class) -> target logit minus the true one (Gowal et al. 2019, arXiv:1910.09338)."""
    true, target = logits.gather(1, pair).unbind(1)
    return target - true


def likeliest_wrong(logits: Tensor, y: Tensor) -> Tensor:
    """max_{k != y} p_k: one of the two terms of `probability_margin`."""
    return _without(logits.softmax(1), y).amax(1)


def minus_true(logits: Tensor, y: Tensor) -> Tensor:
    """-p_y: the other one."""
    return -logits.softmax(1).gather(1, y[:, None]).squeeze(1)


def probability_margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{k != y} p_k - p_y; > 0 means fooled (Xie et al. 2025, arXiv:2411.15210). Its gradient weighs a class by its
    probability, where that of the margin of logits sees two classes only.
    """
    p = logits.softmax(1)
    return _without(p, y).amax(1) - p.gather(1, y[:, None]).squeeze(1)


def _without(p: Tensor, y: Tensor) -> Tensor:
    """Probabilities, with that of the label below all others."""
    return p.scatter(1, y[:, None], -1.0)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, -(z_y - max_{k != y} z_k) / (z_(1) - z_(3)): Croce & Hein 2020, eq. 6.

    Does not change when all logits are shifted or scaled. With two classes z_(2) stands in for the third logit.
    """
    top = logits.topk(min(3, logits.shape[1]), dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, -1] + DLR_GUARD)


def targeted_dlr(logits: Tensor, pair: Tensor) -> Tensor:
    """pair [B, 2] = (label, target class) -> -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2): Croce & Hein 2020, eq. 7.

    With fewer than four classes the smallest logit stands in for those that are missing.
    """
    top = logits.topk(min(4, logits.shape[1]), dim=1).values
    return targeted_margin(logits, pair) / (top[:, 0] - (top[:, 2:3].sum(1) + top[:, -1]) / 2 + DLR_GUARD)


def boosted_cross_entropy(logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """-log p_y - log(1 - max_{k != y} p_k): the loss of MART (Wang et al. 2020, eq. 5) and of MAT (eq. 1).

    Exact form without the guards of the released code: -log(1 - p_k) = LSE(z) - LSE(z without k), with k the best
    wrong class; finite for every finite logit and safe in mixed precision. smoothing: of the cross-entropy alone.
    """
    wrong = logits.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    rest = logits.scatter(1, wrong, -torch.inf)
    return cross_entropy(logits, y, smoothing) + logits.logsumexp(1) - rest.logsumexp(1)


def kl_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """reference [B, K] logits -> KL(softmax(reference) || softmax(logits)), summed over classes."""
    log_p, log_q = reference.log_softmax(1), logits.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


LOSSES: dict[str, Loss] = {
    "ce": cross_entropy,
    "margin": margin,
    "bce": boosted_cross_entropy,
    "dlr": dlr,
}
# what training methods compare with the label, smoothing included
LABEL_LOSSES: dict[str, Callable[..., Tensor]] = {"ce": cross_entropy, "bce": boosted_cross_entropy}
