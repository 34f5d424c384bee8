"""Common corruptions: Hendrycks & Dietterich 2019, https://arxiv.org/abs/1903.12261; the 15 of CIFAR-10-C and 4 more.

Nothing is looked for: a corruption sees no label and asks no network, and an image counts if it is right when corrupted
(see "corruptions" in `attacks.contract.ThreatModel`). The constants are those of the code that made CIFAR-10-C
(https://github.com/hendrycks/robustness, ImageNet-C/create_c/make_cifar_c.py, Apache-2.0).

Differs from that code: random numbers are the image's own; no OpenCV, scikit-image or ImageMagick; the pictures of
frost are not shipped (`attacks.distortions.frost`). So the images are close to the published ones, and none is equal.

Images are rounded to 8 bits before and cut down to 8 bits after, as there. The constants are for 32x32: of other sizes
only what the code itself measures in sides is scaled (elastic, pixelate, the map of fog); blurs and streaks in pixels
are not. Grey images: JPEG of luminance, the coloured spatter in its luminance; saturate leaves them as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from attacks import distortions
from attacks.contract import Budget, ThreatModel
from attacks.distortions import Array
from attacks.noise import Noise
from attacks.target import Target

Constants = tuple[float, ...]
BLOCK = 1 << 18  # pixels at a time, so that a test set needs no more than some MB of float64
SAFE = 1e-6  # of a level: rounding must not cut a whole level down
# what each is called, and its constants at severities 1 to 5, in the order in which the code unpacks them
CORRUPTIONS: dict[str, tuple[Constants, ...]] = {
    "gaussian-noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
    "shot-noise": ((500,), (250,), (100,), (75,), (50,)),
    "impulse-noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
    "defocus-blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass-blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion-blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom-blur": ((1.06,), (1.11,), (1.16,), (1.21,), (1.26,)),  # the end of a range in steps of 0.01
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
    "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
    "elastic-transform": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
    "jpeg-compression": ((80,), (65,), (58,), (50,), (40,)),
    # the four more, which no mean of CIFAR-10-C counts
    "speckle-noise": ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,)),
    "gaussian-blur": ((0.4,), (0.6,), (0.7,), (0.8,), (1,)),
    "spatter": (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
}
SEVERITIES = 5
DISTORT: dict[str, Callable[[Array, Noise, Constants], Array]] = {
    name: getattr(distortions, name.replace("-", "_")) for name in CORRUPTIONS
}


@dataclass(frozen=True)
class Corruption:
    """One of CORRUPTIONS at one severity, of every image.

    name: without "c-". severity: 1 to 5. published: SHA-256 of the images where they come from published files, which
    others read; "" makes them. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    name: str
    severity: int
    published: str = field(default="", metadata={"since": 2}, kw_only=True)
    version: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        if self.name not in CORRUPTIONS:
            raise ValueError(f"there is no corruption {self.name!r}; there are {', '.join(CORRUPTIONS)}")
        if not 1 <= self.severity <= SEVERITIES:
            raise ValueError(f"severity = {self.severity} of {self.name} is not one of 1 to {SEVERITIES}")

    @property
    def threat(self) -> ThreatModel:
        """Bounded by nothing that can be measured; its eps is the severity."""
        return ThreatModel("corruptions", self.severity)

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        return Budget(0, 0, leaves=False)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W] in [0, 1], C is 1 or 3 -> x_adv [N, C, H, W], multiples of 1/255. Raises ValueError.

        On the CPU in float64, so that an image is the same on every device. target and y are not looked at.
        """
        if self.published:
            raise ValueError(f"the images of {self.name} were read from a published file, which is not here")
        if x.shape[1] not in (1, 3):
            raise ValueError(f"{self.name} knows images of 1 or 3 channels; these have {x.shape[1]}")
        out, own = torch.empty_like(x), Noise(noise.seed, noise.ids.cpu())
        images = max(1, BLOCK // (x.shape[2] * x.shape[3]))
        for first in range(0, len(x), images):
            rows = slice(first, first + images)
            made = self.of_levels((255 * x[rows].detach().cpu().double()).round().numpy(), own[rows])
            out[rows] = (torch.from_numpy(made).to(out.dtype) / 255).to(out.device)
        return out

    def of_levels(self, levels: Array, noise: Noise) -> Array:
        """levels [N, C, H, W], whole numbers in 0..255 -> the same of the corrupted images."""
        made = DISTORT[self.name](levels / 255, noise.fork("corruption"), CORRUPTIONS[self.name][self.severity - 1])
        return np.floor(255 * made.clip(0, 1) + SAFE)
