"""DML, deep mutual learning: Zhang et al. 2018, https://arxiv.org/abs/1706.00384.

Natural training of networks that teach each other: the ancestor of MAT. Differs from the paper's algorithm: all
networks step at once from the same values, where theirs step one after the other. Their code sums over the peers where
the paper takes the mean: with N networks that is weight = N - 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attacks.losses import cross_entropy, kl_divergence
from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class DML:
    """min CE(f_n(x), y) + weight / (N - 1) sum_{m != n} KL(p_m(x) || p_n(x)), the peers m constants.

    inner: only for the robust accuracy that is reported after each epoch, as in natural training. networks: N >= 2.
    weight: the paper's 1. Raises ValueError.
    """

    inner: Inner
    networks: int = 2
    weight: float = 1.0
    version: int = 1

    def __post_init__(self) -> None:
        if self.networks < 2:
            raise ValueError(f"DML needs networks >= 2, which teach each other; got networks = {self.networks}")

    @property
    def members(self) -> int:
        """N networks."""
        return self.networks

    def against(self, n: int) -> tuple[Inner, ...]:
        """See `trainers.contract.perturbations`: nothing."""
        return ()

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        clean = [cohort.logits(n, x) for n in range(self.networks)]
        return [self.loss(n, clean, y, cohort.label_smoothing) for n in range(self.networks)]

    def loss(self, n: int, clean: list[Tensor], y: Tensor, smoothing: float = 0.0) -> Tensor:
        """Network n's loss: everyone's logits [B, K] on x, y [B] -> scalar."""
        label = cross_entropy(clean[n], y, smoothing).mean()
        peers = [peer.detach() for m, peer in enumerate(clean) if m != n]
        taught = sum((kl_divergence(clean[n], peer).mean() for peer in peers), label * 0)
        return label + self.weight / (self.networks - 1) * taught
