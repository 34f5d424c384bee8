"""Gabor noise: Kang et al. 2019, https://arxiv.org/abs/1908.08016.

Sparse impulses convolved with one random Gabor kernel an image give a nearly binary pattern, which brightens
the image by 0 to eps / 255. After Co et al. 2019, https://arxiv.org/abs/1810.00470.

Differs from the authors' code (github.com/ddkang/advex-uar): each image draws its own impulses (theirs shares
a count over the batch); flat noise is 0 instead of 0 / 0; the Fourier round trip of the normalisation, which
is the identity, is left out; sizes need not be square. See `attacks.latent` for what differs in the loop.
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
from attacks.norms import TINY, per_image
from attacks.target import Target

KERNEL = 23  # pixels a side, on [-0.5, 0.5] x [-0.5, 0.5] whatever the size of the image
SIDES = 10  # at most so many rotations are summed
DENSITY = 1 / 14  # share of positions that hold an impulse at the start
FLOOR = 0.001  # keeps the gain of the normalisation finite


@dataclass(frozen=True)
class Gabor:
    """x' = clamp(x + eps / 255 * noise), noise in [0, 1], the same on all channels.

    threat: norm "own", eps in grey levels of 255 (Kang's unit; ImageNet radii 6.25 to 1600, none published
    for CIFAR-10; MAT's is unpublished, 12.5 is inferred). steps: N. step: of each variable in [-1, 1]; None
    is sqrt(0.001 / N): Kang's 0.002236 at N = 200; no rule for other N is stated, this one is inferred. mask:
    which variables move. "inverted" is what the authors' code does, the parity default: those that are 0 at
    the start, while the initial impulses are set to 0 by the first step; "support" moves the impulses only;
    "all" moves everything. stop: see `attacks.latent`. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    steps: int = 200
    step: float | None = None
    mask: Literal["inverted", "support", "all"] = "inverted"
    stop: Stop = "first"
    version: int = 1

    def __post_init__(self) -> None:
        check_settings("gabor", self.threat, self.steps, self.step)
        if self.mask not in ("inverted", "support", "all"):
            raise ValueError(f'gabor knows the masks "inverted", "support" and "all", not {self.mask!r}')

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(self.steps, self.steps, self.stop == "first")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        if len(x) == 0:  # Fourier transforms refuse to be empty
            return x
        support = noise.fork("support").uniform(*x.shape[2:]) < DENSITY
        start = (2 * noise.fork("impulses").uniform(*x.shape[2:]) - 1).to(x) * support
        free = {"inverted": (~support).to(x), "support": support.to(x), "all": None}[self.mask]
        step = math.sqrt(0.001 / self.steps) if self.step is None else self.step
        kernels = random_kernels(noise.fork("kernel")).to(x)
        one = x.new_tensor(1.0)
        scene = Scene(
            start,
            self.render,
            x.new_tensor(step),
            -one,
            one,
            given=(spectra(kernels, x.shape[2], x.shape[3]),),
            free=free,
        )
        return ascend(target, x, y, scene, self.steps, self.stop)

    def render(self, latent: Tensor, x: Tensor, kernels: Tensor) -> Tensor:
        """latent [B, H, W], x [B, C, H, W], kernels as `spectra` -> images like x, in [0, 1]."""
        return (x + self.threat.eps / 255 * spread(correlate(latent, kernels))[:, None]).clamp(0, 1)


def spectra(kernels: Tensor, height: int, width: int) -> Tensor:
    """kernels [N, 23, 23] -> their Fourier transforms for `correlate` with maps of that size, [N, ...] complex."""
    return torch.fft.rfft2(kernels.flip(1, 2), (height + KERNEL - 1, width + KERNEL - 1))


def correlate(maps: Tensor, kernels: Tensor) -> Tensor:
    """maps [B, H, W], each with its own kernel, zeros outside -> [B, H, W].

    By Fourier transform: a convolution layer with one kernel an image takes about three times as long.
    """
    _, height, width = maps.shape
    size = (height + KERNEL - 1, width + KERNEL - 1)
    edge = KERNEL // 2
    whole = torch.fft.irfft2(torch.fft.rfft2(maps, size) * kernels, size)
    return whole[:, edge : edge + height, edge : edge + width]


def random_kernels(noise: Noise) -> Tensor:
    """[N, 23, 23] float32: sigma in [0.1, 0.4], frequency in [3, 5.75], any angle, 1 to 10 rotations."""
    sigma, frequency, angle = noise.fork("shape").uniform(3).unbind(1)
    sides = noise.fork("sides").integers(1, SIDES)
    return gabor_kernels(0.1 + 0.3 * sigma, 3 + (KERNEL / 4 - 3) * frequency, math.pi * angle, sides)


def gabor_kernels(sigma: Tensor, frequency: Tensor, angle: Tensor, sides: Tensor) -> Tensor:
    """All [N] -> [N, 23, 23]: exp(-r^2 / (2 (sigma + 0.001)^2)) * sum over i < sides of cos(2 pi f u_i).

    u_i = column * cos(angle_i) + row * sin(angle_i), angle_i = angle + pi i / sides.
    """
    line = torch.linspace(-0.5, 0.5, KERNEL, dtype=sigma.dtype, device=sigma.device)
    row, column = line[:, None], line[None, :]
    wave = torch.zeros(len(sigma), KERNEL, KERNEL, dtype=sigma.dtype, device=sigma.device)
    for i in range(SIDES):
        turned = per_image(angle + math.pi * i / sides.to(angle), wave)
        phase = column * turned.cos() + row * turned.sin()
        wave += (2 * math.pi * per_image(frequency, wave) * phase).cos() * per_image(i < sides, wave)
    return wave * torch.exp(-(row**2 + column**2) / (2 * (per_image(sigma, wave) + 0.001) ** 2))


def spread(noise: Tensor) -> Tensor:
    """noise [B, H, W] -> [B, H, W] in [0, 1]: deviations from the mean made nearly equal, then min-max.

    m + (n - m) * 1.001 / (0.001 + C) with C = |n - m| / max |n - m|. Mean, gain, minimum and maximum are
    constants for the gradient, as in the authors' code.
    """
    with torch.no_grad():
        mean = noise.mean((1, 2), keepdim=True)
        size = (noise - mean).abs()
        gain = (1 + FLOOR) / (FLOOR + size / size.amax((1, 2), keepdim=True).clamp_min(TINY))
        lifted = mean + (noise - mean) * gain
        lowest = lifted.amin((1, 2), keepdim=True)
        width = (lifted.amax((1, 2), keepdim=True) - lowest).clamp_min(TINY)
    return (mean + (noise - mean) * gain - lowest) / width
