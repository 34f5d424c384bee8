"""Elastic deformation: Kang et al. 2019, https://arxiv.org/abs/1908.08016; after Xiao et al. 2018,
https://arxiv.org/abs/1801.02612.

Every pixel is fetched from a place up to eps pixels away; a Gaussian smooths the flow, so
neighbours move alike.

Differs from the authors' code (github.com/ddkang/advex-uar): the smoothing is two products with a small matrix,
which allows any kernel on any size of image; sizes need not be square. See `attacks.latent` for what differs
in the loop.
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
class Elastic:
    """x' = x sampled bilinearly at grid + smoothed flow; what lies outside the image is black.

    threat: norm "own", eps in pixels: no component of the flow is longer (Kang's CIFAR-10 radii: 0.125 to 8;
    MAT's is unpublished, 0.5 is inferred). A pixel is 2 / side of the grid, which runs from -1 to 1. steps: N.
    step: pixels; None is eps / sqrt(N), Kang's. kernel, std: the Gaussian, in pixels, kernel odd. 25 and 3 are
    Kang's for 224 pixels and were used at other sizes too by MAT's group (inferred for MAT); Kang's for 32
    pixels are 5 and 3 * 32 / 224 = 0.4286; for 8-pixel digits we suggest 5 and 1.0 (ours). Images smaller than
    the kernel are reflected as often as it takes. align_corners: False is what the authors' code gives in torch
    >= 1.3, and that of MAT's group: -1 and 1 are the outer edges of the image, so zero flow shrinks the image
    by 1 / side and blends its rim with black. With True they are the centres of its corner pixels: zero flow is
    the identity and the true bound eps * (side - 1) / side pixels, a weaker attack. stop: see `attacks.latent`.
    Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    steps: int = 200
    step: float | None = None
    kernel: int = 25
    std: float = 3.0
    align_corners: bool = False
    stop: Stop = "first"
    version: int = 2

    def __post_init__(self) -> None:
        check_settings("elastic", self.threat, self.steps, self.step)
        if self.kernel < 1 or self.kernel % 2 == 0 or not self.std > 0:
            raise ValueError(f"elastic needs an odd kernel and std > 0; got kernel = {self.kernel}, std = {self.std}")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.steps, self.steps, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        height, width = x.shape[2:]
        pixel = x.new_tensor([2 / width, 2 / height]).view(2, 1, 1)  # grid units, x first
        bound = self.threat.eps * pixel
        step = self.threat.eps / math.sqrt(self.steps) if self.step is None else self.step
        start = (2 * noise.fork("flow").uniform(2, height, width) - 1).to(x) * bound
        scene = Scene(start, self.render, step * pixel, low=-bound, high=bound)
        return ascend(target, x, y, scene, self.steps, self.stop)

    def render(self, latent: Tensor, x: Tensor) -> Tensor:
        """latent [B, 2, H, W] in grid units (x first), x [B, C, H, W] -> deformed images in [0, 1]."""
        return warp(x, smooth(latent, self.kernel, self.std), self.align_corners).clamp(0, 1)


def smooth(flow: Tensor, kernel: int, std: float) -> Tensor:
    """flow [B, 2, H, W] -> the same, convolved with a Gaussian that sums to 1; the borders are reflected."""
    down = reflected_gaussian(flow.shape[2], kernel, std).to(flow)
    across = reflected_gaussian(flow.shape[3], kernel, std).to(flow)
    return down @ flow @ across.T


def reflected_gaussian(side: int, kernel: int, std: float) -> Tensor:
    """[side, side] float64: row i holds a Gaussian around i, folded back where it leaves the line.

    Reflection without repeating the border (torch's "reflect"), as often as needed.
    """
    offset = torch.arange(kernel, dtype=torch.float64) - kernel // 2
    weight = torch.exp(-((offset / std) ** 2) / 2)
    period = max(1, 2 * (side - 1))
    place = (torch.arange(side)[:, None] + offset.long()) % period
    place = torch.minimum(place, period - place) if side > 1 else place
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add(1, place, (weight / weight.sum()).expand(side, -1).contiguous())


def warp(x: Tensor, flow: Tensor, align_corners: bool) -> Tensor:
    """x [B, C, H, W], flow [B, 2, H, W] in units of the grid -> x sampled at identity + flow."""
    across = torch.linspace(-1, 1, x.shape[3], dtype=x.dtype, device=x.device)
    down = torch.linspace(-1, 1, x.shape[2], dtype=x.dtype, device=x.device)
    grid = torch.stack([flow[:, 0] + across, flow[:, 1] + down[:, None]], 3)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=align_corners)
