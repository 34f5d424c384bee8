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


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log p_y."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best wrong logit minus the true one; > 0 means fooled (Carlini & Wagner 2017, with kappa = 0)."""
    true = logits.gather(1, y[:, None]).squeeze(1)
    wrong = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return wrong - true


def targeted_margin(logits: Tensor, pair: Tensor) -> Tensor:
    """pair [B, 2] = (label, target class) -> target logit minus the true one (Gowal et al. 2019, arXiv:1910.09338)."""
    true, target = logits.gather(1, pair).unbind(1)
    return target - true


def boosted_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log p_y - log(1 - max_{k != y} p_k): the loss of MART (Wang et al. 2020, eq. 5) and of MAT (eq. 1).

    Exact form without the guards of the released code: -log(1 - p_k) = LSE(z) - LSE(z without k), with k the best
    wrong class; finite for every finite logit and safe in mixed precision.
    """
    wrong = logits.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    rest = logits.scatter(1, wrong, -torch.inf)
    return cross_entropy(logits, y) + logits.logsumexp(1) - rest.logsumexp(1)


def kl_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """reference [B, K] logits -> KL(softmax(reference) || softmax(logits)), summed over classes."""
    log_p, log_q = reference.log_softmax(1), logits.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


LOSSES: dict[str, Loss] = {
    "ce": cross_entropy,
    "margin": margin,
    "bce": boosted_cross_entropy,
}
