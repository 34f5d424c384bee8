"""Snow: Kaufmann, Kang, Sun et al., https://arxiv.org/abs/1908.08016, version 3 and later.

The paper was not read; formula and constants are of the authors' code (centerforaisafety/adversarial-corruptions).

Layers of flakes fall on an image whose colours are pulled towards white. A layer is a sparse map of impulses convolved
with a short line; how bright each flake is are the variables.

Differs from the authors' code: a flake is not blurred (their blur has one pixel on CIFAR-10, which is none); sizes need
not be square. As there, the start is drawn into the L2 ball before most of it is held at 0, and a variable may be
negative, which is as bright. See `attacks.latent` for what differs in the loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.contract import Budget, ThreatModel, check_channels
from attacks.latent import Scene, Stop, ascend, check_settings
from attacks.noise import Noise
from attacks.norms import project_l2
from attacks.target import Target

LUMINANCE = (0.2126, 0.7152, 0.0722)
THIN, THICK = 0.6, 0.9  # of a line's width: 1 below the first, 3 below the second, 5 above


@dataclass(frozen=True)
class Snow:
    """x' = clamp((1 - d) x + d max(x, 1.5 luminance + 0.5) + sum of layers of flakes v^power), d = discolour.

    threat: norm "own", eps the L2 length of all v of an image; v^power is a flake's brightness (the authors' CIFAR-10
    radii: 3, 4, 5). At 0 no snow falls, but the colours are pale: no identity unless discolour is 0. steps: N. step:
    of each v; None is eps / sqrt(N) (ours), the authors' on CIFAR-10 is 0.2. size: of a flake, in pixels, odd and at
    least 3. layers: of flakes, each with its own line. grid: one place in grid^2 holds a flake. stop: see
    `attacks.latent`. Raises ValueError. Images have 1 or 3 channels.
    """

    closest: ClassVar[bool] = False
    channels: ClassVar[tuple[int, ...]] = (1, 3)
    threat: ThreatModel
    steps: int = 20
    step: float | None = None
    size: int = 3
    layers: int = 5
    grid: float = 10.0
    discolour: float = 0.15
    power: int = 4
    stop: Stop = "first"
    version: int = 1

    def __post_init__(self) -> None:
        check_settings("snow", self.threat, self.steps, self.step)
        if self.size < 3 or self.size % 2 == 0 or self.layers < 1 or not self.grid >= 1 or self.power < 1:
            raise ValueError(
                "snow needs flakes of an odd size >= 3, and layers, grid and power >= 1; got "
                f"size = {self.size}, layers = {self.layers}, grid = {self.grid}, power = {self.power}"
            )
        if not 0 <= self.discolour <= 1:
            raise ValueError(f"snow's discolour is a share, 0 to 1; got {self.discolour}")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.steps, self.steps, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; C is 1 or 3. See `attacks.contract.Attack`."""
        check_channels(self, x)
        shape = (self.layers, *x.shape[2:])
        flakes = (noise.fork("places").uniform(*shape) < 1 / self.grid**2).to(x)
        start = project_l2(torch.exp(-noise.fork("brightness").uniform(*shape) / 5).to(x), self.threat.eps) * flakes
        step = x.new_tensor(self.threat.eps / math.sqrt(self.steps) if self.step is None else self.step)
        far, lines = x.new_tensor(torch.inf), random_lines(noise.fork("lines"), self.layers, self.size).to(x)
        scene = Scene(start, self.render, step, -far, far, (lines,), flakes, radius=self.threat.eps)
        return ascend(target, x, y, scene, self.steps, self.stop)

    def render(self, latent: Tensor, x: Tensor, lines: Tensor) -> Tensor:
        """latent [B, layers, H, W], x [B, C, H, W], lines [B, layers, size, size] -> images like x, in [0, 1]."""
        share = x.new_tensor(LUMINANCE if x.shape[1] == 3 else (1.0,)).view(-1, 1, 1)
        pale = torch.maximum(x, 1.5 * (x * share).sum(1, keepdim=True) + 0.5)
        return (x + self.discolour * (pale - x) + convolved(latent**self.power, lines)).clamp(0, 1)


def convolved(maps: Tensor, kernels: Tensor) -> Tensor:
    """maps [B, L, H, W], kernels [B, L, k, k] with k odd -> [B, 1, H, W]: each with its own, summed over L.

    Shift by shift: the layers of a library choose their way by the batch.
    """
    height, width, size = *maps.shape[2:], kernels.shape[2]
    wide = F.pad(maps, [size // 2] * 4)
    snow = maps.new_zeros(len(maps), height, width)
    for i in range(size):
        for j in range(size):
            snow = snow + (wide[:, :, i : i + height, j : j + width] * kernels[:, :, i, j, None, None]).sum(1)
    return snow[:, None]


def random_lines(noise: Noise, layers: int, size: int) -> Tensor:
    """[N, layers, size, size]: lines through the middle, of widths 1, 3, 5 for 60, 30, 10 % of them, all of an image
    leaning to one side.
    """
    reach = noise.fork("ends").integers(1, size // 2, layers, 2)
    drawn = noise.fork("width").uniform(layers)
    kernels = flake_lines(reach, 1 + 2 * (drawn >= THIN) + 2 * (drawn >= THICK), size)
    mirrored = noise.fork("side").uniform() < 0.5
    return torch.where(mirrored[:, None, None, None], kernels.flip(3), kernels)


def flake_lines(reach: Tensor, width: Tensor, size: int) -> Tensor:
    """reach [..., 2]: how far down and across each line ends from the middle; width [...] -> [..., size, size].

    Along its longer way, at a slope s of the other, a line has the value 1 + w / 2 - (distance from it), clamped to [0,
    1], with w = width sqrt(1 + s) / 2; from the middle to its end, and point by point on the other side.
    """
    mid = size // 2
    along, beside = reach.amax(-1)[..., None, None], reach.amin(-1)[..., None, None]
    slope = beside / along
    reached = width[..., None, None] * (1 + slope).sqrt() / 4
    place = torch.arange(mid + 1, device=reach.device)
    value = (1 + reached - (place - slope * place[:, None]).abs()).clamp(0, 1) * (place[:, None] <= along)
    downwards = (reach[..., 0] > reach[..., 1])[..., None, None]
    quarter = torch.where(downwards, value, value.mT)
    kernel = F.pad(quarter, [mid, 0, mid, 0])
    return torch.maximum(kernel, kernel.flip(-1, -2))
