"""Pixel: Kaufmann, Kang, Sun et al., https://arxiv.org/abs/1908.08016, version 3 and later.

The paper was not read; formula and constants are of the authors' code (centerforaisafety/adversarial-corruptions).

Each block of the image is mixed with the one colour of its upper left pixel; how much, block by block and channel by
channel, are the variables.

Differs from the authors' code: blocks at the right and the lower border are cut off where the size is no multiple of
theirs (theirs stretches the image first); how long the start is is drawn for each image, not for the batch; their Linf
ball, which its settings do not use, is left out. See `attacks.latent` for what differs in the loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attacks.contract import Budget, ThreatModel
from attacks.latent import Scene, Stop, ascend, check_settings, unit_l2
from attacks.noise import Noise
from attacks.norms import per_image
from attacks.target import Target


@dataclass(frozen=True)
class Pixel:
    """x' = (1 - v) x + v (the upper left pixel of the block), v in [0, 1].

    threat: norm "own", eps the L2 length of all v of an image (the authors' CIFAR-10 radii: 1, 5, 10; sqrt of their
    number is the whole); at 0 the image is itself. steps: N. step: of v in L2, along the gradient; None is eps /
    sqrt(N) (ours), the authors' on CIFAR-10 is 1. size: of a block, in pixels. stop: see `attacks.latent`. Raises
    ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    steps: int = 60
    step: float | None = None
    size: int = 4
    stop: Stop = "first"
    version: int = 1

    def __post_init__(self) -> None:
        check_settings("pixel", self.threat, self.steps, self.step)
        if self.size < 1:
            raise ValueError(f"pixel needs blocks of size >= 1; got size = {self.size}")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.steps, self.steps, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        eps, blocks = self.threat.eps, [-(-side // self.size) for side in x.shape[2:]]
        direction = unit_l2(noise.fork("direction").uniform(x.shape[1], *blocks).to(x))
        start = (direction * per_image(eps * noise.fork("length").uniform().to(x), direction)).clamp(0, 1)
        step = x.new_tensor(eps / math.sqrt(self.steps) if self.step is None else self.step)
        low, high = x.new_tensor(0.0), x.new_tensor(1.0)
        scene = Scene(start, self.render, step, low, high, along="gradient", radius=eps)
        return ascend(target, x, y, scene, self.steps, self.stop)

    def render(self, latent: Tensor, x: Tensor) -> Tensor:
        """latent [B, C, blocks down, blocks across] in [0, 1], x [B, C, H, W] -> images like x, in [0, 1]."""
        share, flat = self._spread(latent, x), self._spread(x[:, :, :: self.size, :: self.size], x)
        return (x + share * (flat - x)).clamp(0, 1)

    def _spread(self, blocks: Tensor, x: Tensor) -> Tensor:
        """A value for each block -> one for each pixel of x."""
        whole = blocks.repeat_interleave(self.size, 2).repeat_interleave(self.size, 3)
        return whole[:, :, : x.shape[2], : x.shape[3]]
