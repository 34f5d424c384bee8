"""An attack: random corners of the Linf ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attacks.contract import Budget, ThreatModel
from attacks.noise import Noise
from attacks.target import Target


@dataclass(frozen=True)
class Corners:
    """x + eps s with random signs s, drawn until one fools, `tries` times at most."""

    closest: ClassVar[bool] = False
    threat: ThreatModel
    tries: int = 20
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm != "Linf":
            raise ValueError(f"corners are those of a ball in Linf, not in {self.threat.norm}")
        if self.tries < 1:
            raise ValueError(f"tries = {self.tries}; one or more are needed")

    def passes(self, classes: int) -> Budget:
        """Optional: what an image costs at most, forward and backward, so that the time of a run can be estimated."""
        return Budget(1 + self.tries, 0)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W] in [0, 1], y [N] -> x_adv [N, C, H, W]."""
        x_adv = x.clone()
        standing = (target.logits(x).argmax(1) == y).nonzero().squeeze(1)
        for one in range(self.tries):
            if len(standing) == 0:
                break
            signs = noise[standing].fork("corner", one).normal(*x.shape[1:]).to(x).sign()
            x_adv[standing] = (x[standing] + self.threat.eps * signs).clamp(0, 1)
            right = target[standing].logits(x_adv[standing]).argmax(1) == y[standing]
            standing = standing[right]
        return x_adv
