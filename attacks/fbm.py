"""FBM, fractional Brownian motion: Kaufmann, Kang, Sun et al., https://arxiv.org/abs/1908.08016, version 3 and later.

The paper was not read; formula and constants are of the authors' code (centerforaisafety/adversarial-corruptions).

Perlin noise (Perlin 2002, https://doi.org/10.1145/566654.566636) in octaves, each of twice the frequency and half the
height of the last, is added to the image; the gradient vectors at the corners of the grids are the variables.

Differs from the authors' code: how coarse the first grid is can be set, as its 8 cells leave no octave for an image of
8 pixels; sizes need not be square, and the crop is central for every size; the rendering after the last step is judged,
not the one before. See `attacks.latent` for what differs in the loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.contract import Budget, ThreatModel
from attacks.latent import Scene, Stop, ascend, check_settings
from attacks.noise import Noise
from attacks.target import Target


@dataclass(frozen=True)
class FBM:
    """x' = clamp(x + noise), the noise the same on all channels.

    threat: norm "own", eps the largest component of a gradient vector, in image units a cell (the authors' CIFAR-10
    radii: 0.02, 0.04, 0.08); at 0 the image is itself. steps: N. step: of each component in [-eps, eps]; None is eps /
    sqrt(N) (ours), the authors' on CIFAR-10 is 0.006. cells: of the coarsest grid, a side, a power of 2; the finest
    grid has cells of 2 pixels. stop: see `attacks.latent`. Raises ValueError, also for images of less than 2 cells.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    steps: int = 30
    step: float | None = None
    cells: int = 8
    stop: Stop = "first"
    version: int = 1

    def __post_init__(self) -> None:
        check_settings("fbm", self.threat, self.steps, self.step)
        if self.cells < 1 or self.cells & (self.cells - 1):
            raise ValueError(f"fbm needs cells that are a power of 2, such as 8; got {self.cells}")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.steps, self.steps, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        eps = x.new_tensor(self.threat.eps)
        vectors = sum((n + 1) ** 2 for n in self.grids(x))
        start = eps * noise.fork("fbm").uniform(2 * vectors).to(x)
        step = eps / math.sqrt(self.steps) if self.step is None else x.new_tensor(self.step)
        scene = Scene(start, self.render, step, low=-eps, high=eps)
        return ascend(target, x, y, scene, self.steps, self.stop)

    def grids(self, x: Tensor) -> list[int]:
        """Cells a side of each octave, for images like x [N, C, H, W]. Raises ValueError."""
        octaves = math.ceil(math.log2(max(x.shape[2:]))) - int(math.log2(self.cells))
        if octaves < 1:
            shown = " x ".join(map(str, x.shape[2:]))
            raise ValueError(
                f"fbm's cells are 2 pixels or more: {self.cells} a side are too many for images of {shown}"
            )
        return [self.cells << octave for octave in range(octaves)]

    def render(self, latent: Tensor, x: Tensor) -> Tensor:
        """latent [B, 2 * corners of all grids] in [-eps, eps], x [B, C, H, W] -> images like x, in [0, 1]."""
        grids = self.grids(x)
        side = 2 * grids[-1]
        parts = latent.split([2 * (n + 1) ** 2 for n in grids], 1)
        heights = [0.5**octave for octave in range(len(grids))]
        octaves = [
            height * perlin(part.view(-1, n + 1, n + 1, 2), side)
            for height, part, n in zip(heights, parts, grids, strict=True)
        ]
        top, left = (side - x.shape[2]) // 2, (side - x.shape[3]) // 2
        noise = torch.stack(octaves).sum(0)[:, None, top : top + x.shape[2], left : left + x.shape[3]]
        return (x + noise).clamp(0, 1)


def perlin(vectors: Tensor, side: int) -> Tensor:
    """vectors [B, n + 1, n + 1, 2] (down, across) at the corners of n x n cells -> noise [B, side, side].

    sqrt(2) times the four corners' products <vector, way from the corner>, in cells, blended by
    6 t^5 - 15 t^4 + 10 t^3 down and across.
    """
    n = vectors.shape[1] - 1
    t = torch.arange(side // n, dtype=vectors.dtype, device=vectors.device) / (side // n)
    fade = t**3 * (6 * t**2 - 15 * t + 10)
    weights = (1 - fade, fade)
    noise = vectors.new_zeros(len(vectors), n, side // n, n, side // n)
    for down in (0, 1):
        for across in (0, 1):
            way = torch.stack([(t - down)[:, None].expand(-1, len(t)), (t - across).expand(len(t), -1)])
            share = weights[down][:, None] * weights[across]
            corner = vectors[:, down : down + n, across : across + n]
            noise = noise + torch.einsum("bijc,cuv->biujv", corner, way * share)
    return math.sqrt(2) * noise.reshape(len(vectors), side, side)
