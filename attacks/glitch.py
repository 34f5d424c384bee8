"""Glitch: Kaufmann, Kang, Sun et al., https://arxiv.org/abs/1908.08016, version 3 and later.

The paper was not read; formula and constants are of the authors' code (centerforaisafety/adversarial-corruptions).

The image is cut into horizontal lines, and in each line each colour channel slides sideways by its own way.

Differs from the authors' code: the lines need not divide the height; its greying, which its CIFAR-10 and ImageNet
settings switch off, is left out; where an image is sampled can be set. See `attacks.latent` for what differs in the
loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.contract import Budget, ThreatModel
from attacks.latent import Scene, Stop, ascend, check_settings
from attacks.noise import Noise
from attacks.target import Target


@dataclass(frozen=True)
class Glitch:
    """x' = each channel of each line sampled bilinearly at a way to the side; beyond the border the image is reflected.

    threat: norm "own", eps the longest way in half widths of the image, so that 2 is the whole of it (the authors'
    CIFAR-10 radii: 0.03, 0.05, 0.1). steps: N. step: of each way in [-eps, eps]; None is eps / sqrt(N) (ours), the
    authors' on CIFAR-10 is 0.0025. lines: row r of H lies in line floor(r lines / H). centres: False is the authors'
    code, the parity default, which takes the upper left corner of a pixel for its place: the image moves by half a
    pixel and loses some sharpness even at eps = 0. True samples at the centres of pixels, and eps = 0 is the identity.
    stop: see `attacks.latent`. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    widest: ClassVar[float] = 2.0
    threat: ThreatModel
    steps: int = 60
    step: float | None = None
    lines: int = 16
    centres: bool = False
    stop: Stop = "first"
    version: int = 1

    def __post_init__(self) -> None:
        check_settings("glitch", self.threat, self.steps, self.step)
        if self.lines < 1:
            raise ValueError(f"glitch needs lines >= 1; got {self.lines}")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.steps, self.steps, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        eps = x.new_tensor(self.threat.eps)
        start = eps * noise.fork("glitch").uniform(x.shape[1], self.lines).to(x)
        step = eps / math.sqrt(self.steps) if self.step is None else x.new_tensor(self.step)
        scene = Scene(start, self.render, step, low=-eps, high=eps)
        return ascend(target, x, y, scene, self.steps, self.stop)

    def render(self, latent: Tensor, x: Tensor) -> Tensor:
        """latent [B, C, lines] in [-eps, eps], x [B, C, H, W] -> images like x, in [0, 1]."""
        batch, channels, height, width = x.shape
        line = torch.arange(height, device=x.device) * self.lines // height
        across = places(width, self.centres, x) + latent[:, :, line, None]
        down = places(height, self.centres, x)[:, None].expand_as(across)
        grid = torch.stack([across, down], 4).flatten(0, 1)
        alone = x.reshape(batch * channels, 1, height, width)
        return F.grid_sample(alone, grid, padding_mode="reflection", align_corners=False).view_as(x).clamp(0, 1)


def places(side: int, centres: bool, like: Tensor) -> Tensor:
    """[side]: where the pixels of a row are on [-1, 1], by their centres or by their left edges."""
    return (2 * torch.arange(side, dtype=like.dtype, device=like.device) + centres) / side - 1
