"""Kaleidoscope: Kaufmann, Kang, Sun et al., https://arxiv.org/abs/1908.08016, version 3 and later.

The paper was not read; formula and constants are of the authors' code (centerforaisafety/adversarial-corruptions).

Circles, triangles and squares of bright colours lie on the image, each with an outline; the colours and the grey of
every pixel of the outlines are the variables.

Differs from the authors' code: shapes are cut out at the centres of pixels (derived; theirs rounds corners to whole
pixels and fills line by line); on images that are small for the shapes their corner is drawn as near to the middle as
fits; on grey images a colour is a grey value. See `attacks.latent` for what differs in the loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.contract import Budget, ThreatModel, check_channels
from attacks.hsv import to_rgb
from attacks.latent import Scene, Stop, ascend, check_settings
from attacks.noise import Noise
from attacks.target import Target, default_batch_size

CIRCLE, TRIANGLE, SQUARE = 0, 1, 2


@dataclass(frozen=True)
class Kaleidoscope:
    """x' = clamp(x where nothing lies, transparency x + colours of the shapes above, grey of the outlines over both).

    threat: norm "own", eps how far each colour of a shape may move and how bright an outline may be, in image units
    (the authors' CIFAR-10 radii: 0.05, 0.1, 0.15). At 0 the shapes are there in their first colours, with black
    outlines: no identity. steps: N. step: of each variable in [-eps, eps]; None is eps / sqrt(N) (ours), the authors'
    on CIFAR-10 is 0.005. shapes: how many. size: the diameter of circles and side of squares, in pixels; triangles have
    sides of 1.5 / sin 60 of it. edge: the outline reaches edge // 2 pixels out, edge odd. saturation, value: the least
    of a first colour. stop: see `attacks.latent`. Raises ValueError. Images have 1 or 3 channels.
    """

    closest: ClassVar[bool] = False
    widest: ClassVar[float] = 1.0
    channels: ClassVar[tuple[int, ...]] = (1, 3)
    threat: ThreatModel
    steps: int = 30
    step: float | None = None
    shapes: int = 5
    size: int = 4
    edge: int = 5
    transparency: float = 0.2
    saturation: float = 0.7
    value: float = 0.8
    stop: Stop = "first"
    version: int = 1

    def __post_init__(self) -> None:
        check_settings("kaleidoscope", self.threat, self.steps, self.step)
        if self.shapes < 1 or self.size < 1 or self.edge < 1 or self.edge % 2 == 0:
            raise ValueError(
                "kaleidoscope needs shapes and size >= 1 and an odd edge; got "
                f"shapes = {self.shapes}, size = {self.size}, edge = {self.edge}"
            )
        if not all(0 <= share <= 1 for share in (self.transparency, self.saturation, self.value)):
            raise ValueError("kaleidoscope's transparency, saturation and value are shares, 0 to 1")

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.steps, self.steps, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; C is 1 or 3. See `attacks.contract.Attack`."""
        check_channels(self, x)
        channels, height, width = x.shape[1:]
        eps = x.new_tensor(self.threat.eps)
        shifts = 2 * noise.fork("shift").uniform(self.shapes * channels) - 1
        start = eps * torch.cat([shifts, noise.fork("outline").uniform(height * width)], 1).to(x)
        step = eps / math.sqrt(self.steps) if self.step is None else x.new_tensor(self.step)
        given = (self.colours(noise.fork("colour"), channels).to(x), *self.masks(noise.fork("shapes"), x))
        scene = Scene(start, self.render, step, low=-eps, high=eps, given=given)
        return ascend(target, x, y, scene, self.steps, self.stop)

    def render(self, latent: Tensor, x: Tensor, colours: Tensor, inside: Tensor, outline: Tensor) -> Tensor:
        """latent [B, shapes C + H W], x [B, C, H, W], colours [B, shapes, C], inside [B, shapes, H, W] bool, outline
        [B, 1, H, W] bool -> images like x, in [0, 1].
        """
        shifts, grey = latent.split([colours[0].numel(), x[0, 0].numel()], 1)
        painted = torch.einsum("bsc,bshw->bchw", colours + shifts.view_as(colours), inside.to(x))
        under = torch.where(inside.any(1, keepdim=True), self.transparency * x, x)
        return torch.where(outline, grey.abs().view_as(outline), under + painted).clamp(0, 1)

    def colours(self, noise: Noise, channels: int) -> Tensor:
        """[N, shapes, channels]: any hue, the rest at least `saturation` and `value`."""
        hue, saturation, value = noise.uniform(3, self.shapes).unbind(1)
        hsv = [hue, self.saturation + (1 - self.saturation) * saturation, self.value + (1 - self.value) * value]
        return to_rgb(torch.stack(hsv, 1)).mT if channels == 3 else hsv[2][:, :, None]

    def masks(self, noise: Noise, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where each shape lies [N, shapes, H, W], and their outlines together [N, 1, H, W], both bool."""
        kinds = noise.fork("kind").integers(CIRCLE, SQUARE, self.shapes)
        drawn = noise.fork("place").uniform(self.shapes, 3)
        rows = torch.arange(len(x), device=x.device).split(default_batch_size(x))
        inside = torch.cat([self.cut(kinds[some], drawn[some], *x.shape[2:]) for some in rows])
        wider = [F.max_pool2d(inside[some].float(), self.edge, 1, self.edge // 2) > 0 for some in rows]
        return inside, (torch.cat(wider) & ~inside).any(1, keepdim=True)

    def cut(self, kinds: Tensor, drawn: Tensor, height: int, width: int) -> Tensor:
        """kinds [B, shapes], drawn [B, shapes, 3] in [0, 1): across, down, angle -> [B, shapes, H, W] bool.

        A circle has its middle on any pixel. A triangle or square has a corner on a pixel that is its side and more
        away from the border, and the two sides from there at any angle.
        """
        square = (kinds == SQUARE)[..., None, None]
        side = torch.where(square, self.size, int(1.5 * self.size / math.sin(math.pi / 3)))
        margin = torch.where((kinds == CIRCLE)[..., None, None], 0, side + 1)
        offset = []
        for i, pixels in enumerate((width, height)):
            edge = margin.clamp_max((pixels - 1) // 2)
            corner = edge + (drawn[..., i, None, None] * (pixels - 2 * edge)).floor()
            line = torch.arange(pixels, device=drawn.device)
            offset.append((line if i == 0 else line[:, None]) - corner)
        dx, dy = offset
        angle = 2 * math.pi * drawn[..., 2, None, None]
        between = torch.where(square, math.pi / 2, math.pi / 3)
        first = (dx * (angle + between).sin() - dy * (angle + between).cos()) / (side * between.sin())
        second = (dy * angle.cos() - dx * angle.sin()) / (side * between.sin())
        most = torch.where(square, torch.maximum(first, second), first + second)
        circle = dx**2 + dy**2 < (self.size / 2) ** 2
        return torch.where((kinds == CIRCLE)[..., None, None], circle, (first >= 0) & (second >= 0) & (most <= 1))
