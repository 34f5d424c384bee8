"""Per-image randomness: the n-th number of an image is a hash of (seed, names, image id, n).

So an image gets the same noise alone, in a batch, in another order, on another device or machine. The hash is the
output function of SplitMix64 (Steele, Lea, Flood 2014, https://doi.org/10.1145/2660193.2660195), evaluated for all
images and positions at once; no generator has a state, and the global one is never touched.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64: the increment of SplitMix64
MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
CHUNK = 1 << 21  # numbers hashed at a time, so that a whole test set needs no more than some MB of int64


def derive_seed(*names: object) -> int:
    """A 63-bit seed made of names and numbers, in this order."""
    text = "\x1f".join(str(name) for name in names)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Noise:
    """Random numbers for N images. Stateless: the same call gives the same numbers, so fork() before drawing twice.

    seed: derived with `derive_seed`.
    ids: [N] int64, the images' numbers in their data set, on the device where the noise is wanted.
    """

    seed: int
    ids: Tensor

    def fork(self, *names: object) -> Noise:
        """An independent stream for the same images, e.g. fork("restart", 3)."""
        return Noise(derive_seed(self.seed, *names), self.ids)

    def __getitem__(self, rows: Tensor | slice) -> Noise:
        """The noise of some of the images: rows is a bool mask [N], int64 indices or a slice."""
        return Noise(self.seed, self.ids[rows])

    def uniform(self, *shape: int) -> Tensor:
        """[N, *shape] float32, uniform in [0, 1): multiples of 2**-24."""
        count = math.prod(shape)
        out = torch.empty(len(self.ids), count, dtype=torch.float32, device=self.ids.device)
        keys = _mix(_mix(self.ids + GOLDEN).bitwise_xor_(self.seed))
        position = torch.arange(1, count + 1, device=self.ids.device) * GOLDEN
        images = max(1, CHUNK // max(1, count))
        for first in range(0, len(out), images):
            bits = _mix(keys[first : first + images, None] + position)
            out[first : first + images] = bits.bitwise_right_shift_(40).bitwise_and_(_low(24))
        return out.mul_(2.0**-24).view(len(self.ids), *shape)

    def normal(self, *shape: int) -> Tensor:
        """[N, *shape] float32, standard normal by inversion of the distribution function."""
        inside = self.uniform(*shape).double().add_(2.0**-25)  # the middle of each cell: never 0 or 1
        return torch.special.ndtri(inside, out=inside).float()

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """[N, *shape] int64, uniform on low..high, both included."""
        return whole(self.uniform(*shape), low, high)


def whole(draws: Tensor, low: int, high: int) -> Tensor:
    """Numbers in [0, 1) -> int64 in low..high, both included."""
    return low + (draws.double() * (high - low + 1)).long()


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's output function on int64 (products wrap around), in place."""
    for places, factor in ((30, MIX_1), (27, MIX_2), (31, 1)):
        shifted = (bits >> places).bitwise_and_(_low(64 - places))  # torch's >> copies the sign bit
        bits.bitwise_xor_(shifted).mul_(factor)
    return bits


def _low(places: int) -> int:
    """A mask of the lowest places."""
    return (1 << places) - 1
