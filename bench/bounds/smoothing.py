"""Randomised smoothing: a certificate in L2 for the classifier that a network under Gaussian noise is, by vote.

Cohen et al. 2019, https://arxiv.org/abs/1902.02918. It is about that classifier, not about the network that attacks
are run on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.special import ndtri
from torch import Tensor

from attacks.noise import Noise, derive_seed
from attacks.target import Target
from bench.ground.config import UserError
from bench.ground.stats import clopper_pearson


@dataclass(frozen=True)
class Smoothing:
    """sigma: standard deviation of the noise, in image units. first: draws that choose the class; draws: that count
    for it; failure: the chance that an image's certificate is wrong.
    """

    sigma: float
    draws: int = 1000
    first: int = 100
    failure: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.sigma < float("inf"):
            raise UserError(f"smoothing needs a sigma above 0, not {self.sigma:g}; give one such as 0.25")
        if min(self.draws, self.first) < 1 or not 0 < self.failure < 0.5:
            raise UserError(f"smoothing needs draws and a chance of failure, not {self.draws} and {self.failure:g}")

    @property
    def farthest(self) -> float:
        """The radius where every draw votes alike: none is certified beyond."""
        return self.radius(self.draws)

    def radius(self, votes: int) -> float:
        """sigma Phi^-1(p), p the lower end of the share of the votes; 0 where that is at most 1/2. Cohen et al. 2019,
        theorem 1 and section 3.2.2 (R = sigma Phi^-1(p_A), with p_B = 1 - p_A).
        """
        return max(0.0, self.sigma * float(ndtri(share_at_least(votes, self.draws, self.failure))))


def share_at_least(votes: int, draws: int, failure: float) -> float:
    """The lower end of a one-sided interval of level 1 - failure: Clopper and Pearson 1934,
    https://doi.org/10.1093/biomet/26.4.404.
    """
    return 1 - clopper_pearson(draws - votes, draws, 1 - failure)


def votes(target: Target, x: Tensor, image: int, how: Smoothing, seed: int) -> tuple[int, int]:
    """x [C, H, W] and its number -> (class, votes for it of `how.draws`). The noise belongs to the image; it is not
    clipped to [0, 1], as the theorem asks.
    """
    noise = Noise(derive_seed("smoothing", seed), torch.tensor([image], device=x.device))
    chosen = _counts(target, x, noise.fork("first"), how.first, how.sigma).argmax()
    return int(chosen), int(_counts(target, x, noise.fork("draws"), how.draws, how.sigma, int(chosen) + 1)[chosen])


def _counts(target: Target, x: Tensor, noise: Noise, draws: int, sigma: float, least: int = 0) -> Tensor:
    """Votes for each class."""
    total = torch.zeros(0, dtype=torch.int64)
    for at, first in enumerate(range(0, draws, 1024)):
        count = min(1024, draws - first)
        noisy = x + sigma * noise.fork(at).normal(count, *x.shape)[0]
        chosen = target.true_logits(noisy).argmax(1).cpu()
        counts = chosen.bincount(minlength=max(least, len(total)))
        total = torch.cat([total, total.new_zeros(len(counts) - len(total))]) + counts
    return total
