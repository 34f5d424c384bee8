"""Wood: Kaufmann, Kang, Sun et al., https://arxiv.org/abs/1908.08016, version 3 and later.

The paper was not read; formula and constants are of the authors' code (centerforaisafety/adversarial-corruptions).

Dark rings around the middle, as in wood, are drawn over the image; a coarse map that shifts them is the variable.

Differs from the authors' code: sizes need not be square; where a ring is black, and its slope infinite, the gradient is
0. See `attacks.latent` for what differs in the loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from attacks.contract import Budget, ThreatModel
from attacks.glitch import places
from attacks.latent import Scene, Stop, ascend, check_settings
from attacks.noise import Noise
from attacks.norms import TINY
from attacks.target import Target


@dataclass(frozen=True)
class Wood:
    """x' = x |sin(pi rings (r + shift))|^(1 / sharpness), r the distance from the middle in half sides.

    threat: norm "own", eps the largest shift of a ring, in half sides of the image (the authors' CIFAR-10 radii: 0.03,
    0.05, 0.1); at 0 the rings are circles, which is no identity. steps: N. step: of each variable in [-eps, eps]; None
    is eps / sqrt(N) (ours), the authors' on CIFAR-10 is 0.000625. resolution: variables a side; between them the shift
    is bilinear. stop: see `attacks.latent`. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    steps: int = 70
    step: float | None = None
    rings: int = 5
    sharpness: float = 8.0
    resolution: int = 16
    stop: Stop = "first"
    version: int = 1

    def __post_init__(self) -> None:
        check_settings("wood", self.threat, self.steps, self.step)
        if self.rings < 1 or self.resolution < 1 or not self.sharpness >= 1:
            raise ValueError(
                "wood needs rings, resolution and sharpness >= 1; got "
                f"rings = {self.rings}, resolution = {self.resolution}, sharpness = {self.sharpness}"
            )

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.steps, self.steps, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`. It draws nothing at random."""
        eps = x.new_tensor(self.threat.eps)
        start = x.new_zeros(len(x), 1, self.resolution, self.resolution)
        step = eps / math.sqrt(self.steps) if self.step is None else x.new_tensor(self.step)
        scene = Scene(start, self.render, step, low=-eps, high=eps)
        return ascend(target, x, y, scene, self.steps, self.stop)

    def render(self, latent: Tensor, x: Tensor) -> Tensor:
        """latent [B, 1, resolution, resolution] in [-eps, eps], x [B, C, H, W] -> images like x, in [0, 1]."""
        down, across = (places(side, False, x) for side in x.shape[2:])
        shift = F.interpolate(latent, x.shape[2:], mode="bilinear", align_corners=False)
        wave = (math.pi * self.rings * ((down[:, None] ** 2 + across**2).sqrt() + shift)).sin().abs()
        return (x * wave.clamp_min(TINY) ** (1 / self.sharpness) * (wave > 0)).clamp(0, 1)
