"""Fog of adversarial shape: Kang et al. 2019, https://arxiv.org/abs/1908.08016.

The fog is a plasma fractal (diamond-square, Fournier, Fussell, Carpenter 1982,
https://doi.org/10.1145/358523.358553) whose random offsets are the variables: 4^L - 1 numbers in [0, 1], L =
floor(log2(longer side)) + 1.

Differs from the authors' code (github.com/ddkang/advex-uar): the map is not scaled by the extremes of the
batch, because an image's result must not depend on the others, but by a constant that stands for those of a
large batch (`normalization`); the crop is central for every size. See `attacks.latent` for what differs in the
loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks.contract import Budget, ThreatModel
from attacks.latent import Scene, Stop, ascend, check_settings
from attacks.noise import Noise
from attacks.norms import TINY
from attacks.target import Target

Normalization = Literal["global", "image"]
WIBBLE = 100.0  # offset of the coarsest level, the authors'
# The largest |height| that maps to [0, 1] when all images share one scale. Of random maps with decay 2 for 32x32 images
# the extremes are about 60 in one map, 128 in a batch of 20, 139 in one of 100, 146 in one of 200; ascent raises them.
HIGHEST = 155.0


@dataclass(frozen=True)
class Fog:
    """x' = clamp((x + e fog) / (max of the channel + e)), e = eps / 255, fog in [0, 1].

    threat: norm "own", eps in grey levels of 255 (Kang's unit; ImageNet radii 128 to 8192, none published for
    CIFAR-10; MAT's is unpublished, 128 is inferred). steps: N. step: of each variable in [0, 1]; None is
    sqrt(0.001 / N): Kang's 0.002236 at N = 200; no rule for other N is stated, this one is inferred from step
    = eps / sqrt(N) of the sibling attacks. decay: each level's offsets are this many times smaller than the
    last one's. roll: the authors' diamond step looks 2 cells back for its second centre, which is the parity
    default; the correct fractal is 1. normalization: "global" divides every map by the same constant, which is
    within a few images of the authors' code; "image" stretches each map to its own extremes, which is an attack
    with about 2.5 times the contrast. stretch: the authors' image, whose contrast is stretched so that at eps
    -> 0 it is x / (max of the channel); False multiplies by that maximum, so that eps -> 0 is the identity.
    stop: see `attacks.latent`. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    steps: int = 200
    step: float | None = None
    decay: float = 2.0
    roll: int = 2
    normalization: Normalization = "global"
    stretch: bool = True
    stop: Stop = "first"
    version: int = 2

    def __post_init__(self) -> None:
        check_settings("fog", self.threat, self.steps, self.step)
        if self.roll not in (1, 2) or not self.decay >= 1:
            raise ValueError(f"fog needs roll 1 or 2 and decay >= 1; got roll = {self.roll}, decay = {self.decay}")
        if self.normalization not in ("global", "image"):
            raise ValueError(f"normalization = {self.normalization!r} is not one of 'global', 'image'")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.steps, self.steps, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        levels = math.floor(math.log2(max(x.shape[2:]))) + 1
        start = noise.fork("fog").uniform(4**levels - 1).to(x)
        step = math.sqrt(0.001 / self.steps) if self.step is None else self.step
        scene = Scene(start, self.render, x.new_tensor(step), low=x.new_tensor(0.0), high=x.new_tensor(1.0))
        return ascend(target, x, y, scene, self.steps, self.stop)

    def render(self, latent: Tensor, x: Tensor) -> Tensor:
        """latent [B, 4^L - 1] in [0, 1], x [B, C, H, W] -> foggy images like x, in [0, 1]."""
        eps = self.threat.eps / 255
        side = math.isqrt(latent.shape[1] + 1)
        top, left = (side - x.shape[2]) // 2, (side - x.shape[3]) // 2
        whole = scaled(plasma(latent, self.decay, self.roll), self.normalization)
        fog = whole[:, None, top : top + x.shape[2], left : left + x.shape[3]]
        brightest = x.amax((2, 3), keepdim=True)
        scale = (1.0 if self.stretch else brightest) / (brightest + eps).clamp_min(TINY)
        return ((x + eps * fog) * scale).clamp(0, 1)


def plasma(latent: Tensor, decay: float, roll: int) -> Tensor:
    """Diamond-square on a torus. latent [B, 4^L - 1] in [0, 1] -> maps of heights around 0, [B, 2^L, 2^L].

    Level i turns a grid of n x n corners, n = 2^i, into one of 2n x 2n. Each new point is the mean of its
    four neighbours plus wibble * (2 v - 1), with n x n variables v for the centres, then for the points right
    of a corner, then for those below one.
    """
    corners = latent.new_zeros(len(latent), 1, 1)
    wibble, used = WIBBLE, 0
    while used < latent.shape[1]:
        n = corners.shape[1]
        offsets = wibble * (2 * latent[:, used : used + 3 * n * n].view(-1, 3, n, n) - 1)
        pairs = corners + corners.roll(-1, 1)
        centres = (pairs + pairs.roll(-1, 2)) / 4 + offsets[:, 0]
        right = (centres + centres.roll(roll, 1) + corners + corners.roll(-1, 2)) / 4 + offsets[:, 1]
        below = (centres + centres.roll(roll, 2) + corners + corners.roll(-1, 1)) / 4 + offsets[:, 2]
        even = torch.stack([corners, right], 3).flatten(2)
        odd = torch.stack([below, centres], 3).flatten(2)
        corners = torch.stack([even, odd], 2).flatten(1, 2)
        wibble, used = wibble / decay, used + 3 * n * n
    return corners


def scaled(heights: Tensor, normalization: Normalization) -> Tensor:
    """Maps [B, S, S] of heights -> in [0, 1]: 0 at 1/2 and HIGHEST at 1, or each from its lowest to its highest."""
    if normalization == "global":
        return (heights / HIGHEST + 1).clamp(0, 2) / 2
    lowest = heights.amin((1, 2), keepdim=True)
    return (heights - lowest) / (heights.amax((1, 2), keepdim=True) - lowest).clamp_min(TINY)
