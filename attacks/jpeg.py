"""JPEG of adversarial shape: Kang et al. 2019, https://arxiv.org/abs/1908.08016.

The variables are added to the quantised DCT coefficients of the image; nothing is rounded, so eps = 0 changes nothing
but the colour resolution, which is halved (4:2:0). DCT, colour space and tables are those of the JPEG standard, ITU-T
T.81 (https://www.w3.org/Graphics/JPEG/itu-t81.pdf), annex K, and JFIF 1.02.

Differs from the authors' code: any image size (edges are repeated up to whole blocks), grey images have luminance only.
See `attacks.latent` for what differs in the loop.
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

BLOCK = 8
CHANGE = 0.5  # a variable of 1 moves its coefficient by half a quantisation step
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


@dataclass(frozen=True)
class JPEG:
    """x' = decode(encode(x) + r / 2), each of the variables r in [-eps, eps].

    threat: norm "own", eps in half quantisation steps (Kang's CIFAR-10 radii: 0.03125 to 1). steps: N. step: of each
    variable; None is eps / sqrt(N). stop: see `attacks.latent`. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    channels: ClassVar[tuple[int, ...]] = (1, 3)
    threat: ThreatModel
    steps: int = 200
    step: float | None = None
    stop: Stop = "first"
    version: int = 1

    def __post_init__(self) -> None:
        check_settings("jpeg", self.threat, self.steps, self.step)

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.steps, self.steps, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; C is 1 or 3. See `attacks.contract.Attack`."""
        coefficients = encode(x)
        eps = x.new_tensor(self.threat.eps)
        start = ((2 * noise.fork("jpeg").uniform(coefficients.shape[1]) - 1) * self.threat.eps).to(x)
        step = eps / math.sqrt(self.steps) if self.step is None else x.new_tensor(self.step)
        scene = Scene(start, self.render, step, low=-eps, high=eps, given=(coefficients,))
        return ascend(target, x, y, scene, self.steps, self.stop)

    def render(self, latent: Tensor, x: Tensor, coefficients: Tensor) -> Tensor:
        """latent, coefficients [B, d], x [B, C, H, W] -> images like x, in [0, 1]."""
        return decode(coefficients + CHANGE * latent, x.shape).clamp(0, 1)


def encode(x: Tensor) -> Tensor:
    """x [N, C, H, W] in [0, 1], C 1 or 3 -> [N, d] coefficients in quantisation steps. Raises ValueError."""
    if x.shape[1] not in (1, 3):
        raise ValueError(f"JPEG knows images of 1 or 3 channels; these have {x.shape[1]}")
    planes = 255 * x if x.shape[1] == 1 else torch.einsum("dc,nchw->ndhw", x.new_tensor(TO_YCBCR), 255 * x)
    parts = [_dct(planes[:, :1] - 128, LUMINANCE)]
    if x.shape[1] == 3:  # chrominance lies around 0 already; whole 2 x 2 squares first, then halved
        even = F.pad(planes[:, 1:], (0, x.shape[3] % 2, 0, x.shape[2] % 2), mode="replicate")
        parts += [_dct(plane, CHROMINANCE) for plane in F.avg_pool2d(even, 2).split(1, dim=1)]
    return torch.cat(parts, 1)


def decode(coefficients: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `encode` for images of that shape, up to the colour resolution; not clamped."""
    _, channels, height, width = shape
    bright = _blocks(height) * _blocks(width) * BLOCK**2
    plane = _inverse_dct(coefficients[:, :bright], height, width, LUMINANCE) + 128
    if channels == 1:
        return plane / 255
    half = ((height + 1) // 2, (width + 1) // 2)
    colours = [_inverse_dct(part, *half, CHROMINANCE) for part in coefficients[:, bright:].chunk(2, dim=1)]
    double = torch.cat(colours, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :height, :width]
    return torch.einsum("dc,nchw->ndhw", coefficients.new_tensor(TO_RGB), torch.cat([plane, double], 1)) / 255


def _blocks(length: int) -> int:
    return -(-length // BLOCK)


def _basis(like: Tensor) -> Tensor:
    """Orthonormal DCT-II: [frequency, place]."""
    place = torch.arange(BLOCK, device=like.device, dtype=like.dtype)
    waves = torch.cos(math.pi / BLOCK * place[:, None] * (place + 0.5)) * math.sqrt(2 / BLOCK)
    return torch.cat([waves[:1] / math.sqrt(2), waves[1:]])


def _dct(plane: Tensor, table: tuple[tuple[int, ...], ...]) -> Tensor:
    """plane [N, 1, H, W] -> [N, blocks * 64], divided by the table."""
    height, width = plane.shape[2:]
    whole = F.pad(plane, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    tiles = whole.view(len(plane), _blocks(height), BLOCK, _blocks(width), BLOCK)
    basis = _basis(plane)
    return (torch.einsum("ui,vj,nhiwj->nhwuv", basis, basis, tiles) / plane.new_tensor(table)).flatten(1)


def _inverse_dct(flat: Tensor, height: int, width: int, table: tuple[tuple[int, ...], ...]) -> Tensor:
    """[N, blocks * 64] -> plane [N, 1, H, W]."""
    tiles = flat.view(len(flat), _blocks(height), _blocks(width), BLOCK, BLOCK) * flat.new_tensor(table)
    basis = _basis(flat)
    plane = torch.einsum("ui,vj,nhwuv->nhiwj", basis, basis, tiles)
    return plane.reshape(len(flat), 1, _blocks(height) * BLOCK, _blocks(width) * BLOCK)[:, :, :height, :width]
