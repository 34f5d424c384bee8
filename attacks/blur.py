"""Blur of adversarial shape: Kaufmann, Kang, Sun et al., https://arxiv.org/abs/1908.08016, version 3 and later.

The paper was not read; formula and constants are of the authors' code (centerforaisafety/adversarial-corruptions).

Each pixel is mixed with the blurred image; how much of it is the variable, smoothed itself so that neighbours are
blurred alike.

Differs from the authors' code: both Gaussians are products with a small matrix (`attacks.elastic.smooth`), so that a
kernel may be larger than the image; sizes need not be square. See `attacks.latent` for what differs in the loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attacks.contract import Budget, ThreatModel
from attacks.elastic import smooth
from attacks.latent import Scene, Stop, ascend, check_settings
from attacks.noise import Noise
from attacks.target import Target


@dataclass(frozen=True)
class Blur:
    """x' = x + w (blurred x - x), w the variables after a Gaussian, the same on all channels.

    threat: norm "own", eps the largest share of the blurred image, 0 to 1 (the authors' CIFAR-10 radii: 0.1, 0.3, 0.6);
    at 0 the image is itself. steps: N. step: of each variable in [0, eps]; None is eps / sqrt(N) (ours), the authors'
    on CIFAR-10 is 0.015. kernel, std: the blur, in pixels; share_kernel, share_std: the Gaussian of the shares; both
    kernels are odd. stop: see `attacks.latent`. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    widest: ClassVar[float] = 1.0
    threat: ThreatModel
    steps: int = 20
    step: float | None = None
    kernel: int = 17
    std: float = 25.0
    share_kernel: int = 9
    share_std: float = 18.0
    stop: Stop = "first"
    version: int = 1

    def __post_init__(self) -> None:
        check_settings("blur", self.threat, self.steps, self.step)
        if self.threat.eps > self.widest:
            raise ValueError(f"blur's eps is a share of the blurred image, 0 to 1; got {self.threat.eps:g}")
        for kernel, std in ((self.kernel, self.std), (self.share_kernel, self.share_std)):
            if kernel < 1 or kernel % 2 == 0 or not std > 0:
                raise ValueError(f"blur needs odd kernels and deviations > 0; got a kernel of {kernel} with {std:g}")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.steps, self.steps, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        eps = x.new_tensor(self.threat.eps)
        start = eps * noise.fork("blur").uniform(1, *x.shape[2:]).to(x)
        step = eps / math.sqrt(self.steps) if self.step is None else x.new_tensor(self.step)
        blurred = smooth(x, self.kernel, self.std)
        scene = Scene(start, self.render, step, low=x.new_tensor(0.0), high=eps, given=(blurred,))
        return ascend(target, x, y, scene, self.steps, self.stop)

    def render(self, latent: Tensor, x: Tensor, blurred: Tensor) -> Tensor:
        """latent [B, 1, H, W] in [0, eps], x, blurred [B, C, H, W] -> images like x, in [0, 1]."""
        share = smooth(latent, self.share_kernel, self.share_std)
        return (x + share * (blurred - x)).clamp(0, 1)
