"""A training's checkpoint, made small enough to travel, and as exact as fits.

Weights, momenta and the best epoch are each kept with so many of the 23 bits of a float32's mantissa (7 are bfloat16),
rounded to nearest, and then deflated byte by byte: sign and exponent of a network's weights take 4 bits, not 9. The
best epoch is near the weights of now, so of it the distance to them is kept, in steps of the last bit. So is the last
epoch where it is whole; inside an epoch it is left out, as it is replaced before anything looks at it.
Buffers, counters, random states and what has fewer than SMALL values are never rounded.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.ground.config import UserError

ALL = 23  # bits of a float32's mantissa
INEXACT = "not to the bit"
SMALL = 1024  # values
State = dict[str, Any]


class Bits(NamedTuple):
    """Bits of the mantissa that are kept. best: also of averaged weights (EMA)."""

    weights: int = ALL
    momenta: int = ALL
    best: int = ALL

    @property
    def words(self) -> str:
        """How exactly a training goes on, in a sentence."""
        if self == Bits():
            return "exactly: every bit is kept"
        kept = {"weights": self.weights, "momenta": self.momenta, "best epoch so far": self.best}
        return f"{INEXACT}: " + ", ".join(f"{what} in {_format(bits)}" for what, bits in kept.items())


def _format(bits: int) -> str:
    """In words, with the largest relative error."""
    if bits == ALL:
        return "float32"
    name = "bfloat16" if bits == 7 else f"{bits} of 23 bits of the mantissa"
    return f"{name} (each off by at most {100 * 2.0 ** -(bits + 1):.2g} %)"


LADDER = (  # the first that fits is taken: momenta are forgotten within tens of steps, so they give way first
    Bits(), Bits(23, 7, 23), Bits(23, 7, 15), Bits(23, 7, 11), Bits(23, 7, 7), Bits(23, 3, 7), Bits(15, 7, 7),
    Bits(15, 3, 7), Bits(11, 3, 7), Bits(11, 1, 7), Bits(9, 1, 7), Bits(7, 3, 7), Bits(7, 1, 7), Bits(7, 0, 7),
)  # fmt: skip


def shrink(content: Mapping[str, Any], most: int) -> tuple[bytes, Bits]:
    """The checkpoint's content in at most `most` bytes, and what was kept of it. Raises UserError."""
    parts = _Parts(content)
    for bits in LADDER:
        if parts.fit(bits, most) and len(blob := _saved(parts.made(bits))) <= most:
            return blob, bits
    raise UserError(
        f"the state of this training takes {parts.size(LADDER[-1]) / 2**20:.1f} MiB at the coarsest, and "
        f"{most / 2**20:.1f} MiB may travel; give more with --most, or train fewer or smaller networks"
    )


def grow(blob: bytes) -> dict[str, Any]:
    """The reverse of `shrink`: the content of a checkpoint."""
    content = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    networks = [_unpacked(state) for state in content["networks"]]
    averages = [_unpacked(*pair) for pair in zip(content["averages"], networks, strict=False)]
    judged = averages or networks
    momenta = [one | {"state": _unpacked(one["state"])} for one in content["optimizers"]]
    content |= {"networks": networks, "averages": averages, "optimizers": momenta}
    for name in ("best", "last"):
        kept = zip(content[name], judged, strict=False)
        content[name] = [one | {"state": _unpacked(one["state"], like)} for one, like in kept]
    return dict(content)


class _Parts:
    """Each part of a checkpoint at any number of bits, made once."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.weights, self.momenta, self.averages, self.snapshots = map(
            cache, (self._weights, self._momenta, self._averages, self._snapshots)
        )

    def made(self, bits: Bits) -> dict[str, Any]:
        """What is written."""
        return {
            **self.content,
            "networks": self.weights(bits.weights),
            "optimizers": self.momenta(bits.momenta),
            "averages": self.averages(bits.weights, bits.best),
            "best": self.snapshots("best", bits.weights, bits.best),
            "last": self.snapshots("last", bits.weights, bits.best),
        }

    def size(self, bits: Bits) -> int:
        """Bytes of its tensors, without names and headers."""
        return _bytes_of(self.made(bits))

    def fit(self, bits: Bits, most: int) -> bool:
        """Whether they are at most so many; what needs no look at the rest gets none."""
        spent = _bytes_of(self.weights(bits.weights))
        return spent <= most and spent + _bytes_of(self.momenta(bits.momenta)) <= most and self.size(bits) <= most

    def _weights(self, bits: int) -> list[State]:
        return [_packed(state, bits) for state in self.content["networks"]]

    def _momenta(self, bits: int) -> list[State]:
        return [one | {"state": _packed(one["state"], bits)} for one in self.content["optimizers"]]

    def _averages(self, of_weights: int, bits: int) -> list[State]:
        kept = [_unpacked(state) for state in self.weights(of_weights)]
        return [_packed(state, bits, like) for state, like in zip(self.content["averages"], kept, strict=False)]

    def _snapshots(self, name: str, of_weights: int, bits: int) -> list[State]:
        networks = [_unpacked(state) for state in self.weights(of_weights)]
        averages = [_unpacked(*pair) for pair in zip(self.averages(of_weights, bits), networks, strict=False)]
        given = self.content[name]
        if name == "last" and self.content["partial"]["batches"]:
            return [one | {"state": {}} for one in given]
        pairs = zip(given, averages or networks, strict=False)
        return [one | {"state": _packed(one["state"], bits, like)} for one, like in pairs]


def _saved(content: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(dict(content), file)
    return file.getvalue()


def _bytes_of(value: Any) -> int:
    """Bytes of all tensors in it."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_bytes_of, value.values()))
    return sum(map(_bytes_of, value)) if isinstance(value, list | tuple) else 0


def _packed(state: Any, bits: int, like: Any = None) -> Any:
    """Every float32 tensor of SMALL values or more in it, at any depth, packed."""
    if isinstance(state, Mapping):
        return {key: _packed(value, bits, like.get(key) if like else None) for key, value in state.items()}
    if not isinstance(state, Tensor) or state.dtype != torch.float32 or state.numel() < SMALL:
        return state
    return {"packed": list(state.shape), "bits": bits, "planes": _deflated(_distance(_levels(state, bits), like, bits))}


def _unpacked(state: Any, like: Any = None) -> Any:
    """The reverse."""
    if not isinstance(state, Mapping):
        return state
    if "packed" not in state:
        return {key: _unpacked(value, like.get(key) if like else None) for key, value in state.items()}
    bits, shape = state["bits"], state["packed"]
    levels = _inflated(state["planes"], int(np.prod(shape)))
    if like is not None:
        levels = (levels >> 1) ^ -(levels & 1)
        levels = levels + _levels(like, bits)
    values = (levels & ((1 << (bits + 9)) - 1)) << (ALL - bits)
    return torch.from_numpy(values.astype(np.uint32).view(np.float32)).reshape(shape)


def _levels(values: Tensor, bits: int) -> np.ndarray:
    """float32 -> int64 in 0..2^(bits + 9) - 1: sign, exponent and so many bits of the mantissa, rounded to nearest."""
    drop = ALL - bits
    words = values.detach().cpu().contiguous().flatten().numpy().view(np.uint32).astype(np.int64)
    finite = (words & 0x7F800000) != 0x7F800000
    return np.where(finite, words + ((1 << drop) >> 1), words) >> drop


def _distance(levels: np.ndarray, like: Tensor | None, bits: int) -> np.ndarray:
    """As it is, or from those of `like`, folded so that small distances of either sign are small numbers."""
    if like is None:
        return levels
    apart = levels - _levels(like, bits)
    return (apart << 1) ^ (apart >> 63)


def _deflated(levels: np.ndarray) -> list[Tensor]:
    """Non-negative int64 [N] -> its bytes, lowest first, each plane deflated; planes of zeros at the top left out."""
    count = max(1, (int(levels.max(initial=0)).bit_length() + 7) // 8)
    planes = [((levels >> (8 * place)) & 255).astype(np.uint8).tobytes() for place in range(count)]
    return [torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in _at_once(_deflate, planes)]


def _inflated(planes: list[Tensor], count: int) -> np.ndarray:
    """The reverse."""
    found = _at_once(lambda plane: zlib.decompress(plane.numpy().tobytes()), planes)
    levels = np.zeros(count, dtype=np.int64)
    for place, plane in enumerate(found):
        levels |= np.frombuffer(plane, dtype=np.uint8).astype(np.int64) << (8 * place)
    return levels


def _deflate(plane: bytes) -> bytes:
    """Runs and Huffman codes: matches are rare in such bytes, and looking for them is slow."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return deflater.compress(plane) + deflater.flush()


def _at_once(make: Callable[[Any], bytes], planes: Iterable[Any]) -> list[bytes]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(make, planes))
