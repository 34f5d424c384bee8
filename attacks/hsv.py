"""HSV: Kaufmann, Kang, Sun et al., https://arxiv.org/abs/1908.08016, version 3 and later.

The paper was not read; formula and constants are of the authors' code (centerforaisafety/adversarial-corruptions).

Smooth noise is added to hue, saturation and value (Smith 1978, https://doi.org/10.1145/800248.807361), so that a small
change of all colours moves every pixel.

Differs from the authors' code: the Gaussian is a product with a small matrix (`attacks.elastic.smooth`), so sizes need
not be square; their L2 ball, which its settings do not use, is left out. As there, the hue ends at 0 and 1 and does not
go round. See `attacks.latent` for what differs in the loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.contract import Budget, ThreatModel, check_channels
from attacks.elastic import smooth
from attacks.latent import Scene, Stop, ascend, check_settings
from attacks.noise import Noise
from attacks.norms import TINY
from attacks.target import Target


@dataclass(frozen=True)
class HSV:
    """x' = rgb(clamp(hsv(x) + noise)), the noise the variables after a Gaussian. Colour images only.

    threat: norm "own", eps the largest change of hue, saturation and value, each in [0, 1] (the authors' CIFAR-10
    radii: 0.01, 0.02, 0.03); at 0 the image is itself. steps: N. step: of each variable in [-eps, eps]; None is eps /
    sqrt(N) (ours), the authors' on CIFAR-10 is 0.003. kernel, std: the Gaussian, in pixels, kernel odd. stop: see
    `attacks.latent`. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    widest: ClassVar[float] = 1.0
    channels: ClassVar[tuple[int, ...]] = (3,)
    threat: ThreatModel
    steps: int = 20
    step: float | None = None
    kernel: int = 3
    std: float = 3.0
    stop: Stop = "first"
    version: int = 1

    def __post_init__(self) -> None:
        check_settings("hsv", self.threat, self.steps, self.step)
        if self.kernel < 1 or self.kernel % 2 == 0 or not self.std > 0:
            raise ValueError(f"hsv needs an odd kernel and std > 0; got kernel = {self.kernel}, std = {self.std}")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.steps, self.steps, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, 3, H, W], y [N] -> x_adv [N, 3, H, W]; see `attacks.contract.Attack`. Raises ValueError."""
        check_channels(self, x)
        eps = x.new_tensor(self.threat.eps)
        start = eps * noise.fork("hsv").uniform(*x.shape[1:]).to(x)
        step = eps / math.sqrt(self.steps) if self.step is None else x.new_tensor(self.step)
        scene = Scene(start, self.render, step, low=-eps, high=eps, given=(to_hsv(x),))
        return ascend(target, x, y, scene, self.steps, self.stop)

    def render(self, latent: Tensor, x: Tensor, hsv: Tensor) -> Tensor:
        """latent [B, 3, H, W] in [-eps, eps], x, hsv [B, 3, H, W] -> images like x, in [0, 1]."""
        return to_rgb((hsv + smooth(latent, self.kernel, self.std)).clamp(0, 1)).clamp(0, 1)


def to_hsv(x: Tensor) -> Tensor:
    """RGB [N, 3, ...] in [0, 1] -> hue, saturation, value [N, 3, ...] in [0, 1]; grey has hue 0, black saturation 0."""
    red, green, blue = x.unbind(1)
    value, lead = x.max(1)
    span = value - x.amin(1)
    sixth = torch.stack(
        [
            (green - blue) / span.clamp_min(TINY) % 6,
            2 + (blue - red) / span.clamp_min(TINY),
            4 + (red - green) / span.clamp_min(TINY),
        ]
    )
    hue = sixth.gather(0, lead[None])[0] * (span > 0) / 6
    return torch.stack([hue, span / value.clamp_min(TINY), value], 1)


def to_rgb(hsv: Tensor) -> Tensor:
    """The inverse of `to_hsv`: channel n in (5, 3, 1) is v - v s clamp(min(k, 4 - k), 0, 1), k = (n + 6 h) mod 6."""
    hue, saturation, value = hsv.unbind(1)
    around = [(n + 6 * hue) % 6 for n in (5, 3, 1)]
    return torch.stack([value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1) for k in around], 1)
