"""Whirlpool: Kaufmann, Kang, Sun et al., https://arxiv.org/abs/1908.08016, version 3 and later.

The paper was not read; formula and constants are of the authors' code (centerforaisafety/adversarial-corruptions),
whose whirl is that of scikit-image's `swirl`.

Whirlpools at random places turn the image, less with the distance; how much each turns are the variables.

Differs from the authors' code: how long the start is is drawn for each image, not for the batch; sizes need not be
square; where an image is sampled can be set; their Linf ball, which its settings do not use, is left out. As there, of
the ways that several whirlpools ask for the largest counts, down and across, not the longest. See `attacks.latent` for
what differs in the loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.contract import Budget, ThreatModel
from attacks.glitch import places
from attacks.latent import Scene, Stop, ascend, check_settings, unit_l2
from attacks.noise import Noise
from attacks.norms import per_image
from attacks.target import Target


@dataclass(frozen=True)
class Whirlpool:
    """x' = x sampled bilinearly where it comes from; around each centre by (|v| + least) exp(-r / R), outside black.

    threat: norm "own", eps the L2 length of the angles v of an image, in radians at the centre (the authors' CIFAR-10
    radii: 20, 100, 200). steps: N. step: of v in L2, along the gradient; None is eps / sqrt(N) (ours), the authors' on
    CIFAR-10 is 16. whirlpools: how many, each centre uniform in the image. radius: R is ln(2) / 5 of it, in half sides
    of the image. least: an angle that every whirlpool has, so eps = 0 is no identity but with 0. centres: False, the
    authors', the parity default, samples half a pixel up and left, see `attacks.glitch`. stop: see `attacks.latent`.
    Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    steps: int = 50
    step: float | None = None
    whirlpools: int = 8
    radius: float = 0.5
    least: float = 0.5
    centres: bool = False
    stop: Stop = "first"
    version: int = 1

    def __post_init__(self) -> None:
        check_settings("whirlpool", self.threat, self.steps, self.step)
        if self.whirlpools < 1 or not self.radius > 0 or not self.least >= 0:
            raise ValueError(
                "whirlpool needs whirlpools >= 1, radius > 0 and least >= 0; got "
                f"whirlpools = {self.whirlpools}, radius = {self.radius}, least = {self.least}"
            )

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.steps, self.steps, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        eps = self.threat.eps
        middles = (2 * noise.fork("centres").uniform(self.whirlpools, 2) - 1).to(x)
        direction = unit_l2(noise.fork("direction").uniform(self.whirlpools).to(x))
        start = direction * per_image(eps * noise.fork("length").uniform().to(x), direction)
        step = x.new_tensor(eps / math.sqrt(self.steps) if self.step is None else self.step)
        far = x.new_tensor(torch.inf)
        scene = Scene(start, self.render, step, -far, far, given=(middles,), along="gradient", radius=eps)
        return ascend(target, x, y, scene, self.steps, self.stop)

    def render(self, latent: Tensor, x: Tensor, middles: Tensor) -> Tensor:
        """latent [B, n], x [B, C, H, W], middles [B, n, 2] on [-1, 1], across first -> images like x, in [0, 1]."""
        across, down = (places(side, self.centres, x) for side in (x.shape[3], x.shape[2]))
        dx = across - middles[:, :, 0, None, None]
        dy = down[:, None] - middles[:, :, 1, None, None]
        angle = (latent.abs() + self.least)[:, :, None, None] * torch.exp(
            -(dx**2 + dy**2).sqrt() * 5 / (math.log(2) * self.radius)
        )
        turned = torch.stack([dx * angle.cos() - dy * angle.sin() - dx, dx * angle.sin() + dy * angle.cos() - dy], 4)
        grid = turned.amax(1) + torch.stack([across.expand(len(down), -1), down[:, None].expand(-1, len(across))], 2)
        return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)
