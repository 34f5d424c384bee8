"""What the laws are tried on: small networks and images on which a mistake shows, and a guard of global randomness."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from trainers.contract import Inner
from trainers.validation import Split

INNER = Inner(eps=0.05, steps=2, step=0.03, start="gaussian")
THREE = (
    INNER,
    Inner(eps=0.3, norm="L2", steps=2, step=0.2, start="gaussian"),
    Inner(eps=1.4, norm="L1", steps=2, step=1.0, start="gaussian"),
)


class Broken(AssertionError):
    """A promise that is not kept: which, and what to do."""


def require(kept: bool, promise: str, otherwise: str) -> None:
    """Raises Broken. promise: what was promised; otherwise: what was found, and what to do."""
    if not kept:
        raise Broken(f"promised: {promise}. But {otherwise}")


def small_cnn(channels: int = 3, classes: int = 10, seed: int = 0) -> nn.Module:
    """A small network with smooth activations and weights scaled so that a few hundredths of eps change labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second, head = nn.Conv2d(channels, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Linear(32, classes)
    with torch.no_grad():
        head.weight.mul_(20)
    smooth, pooled = nn.Softplus(beta=10), nn.AdaptiveAvgPool2d(2)
    return nn.Sequential(first, smooth, second, nn.Softplus(beta=10), pooled, nn.Flatten(), head).eval()


def saturated_images(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Random images [count, *shape] in which about a third of the pixels are exactly 0 or exactly 1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *shape, generator=generator)
    return torch.where(x < 0.17, 0.0, torch.where(x > 0.83, 1.0, x))


def stripes(count: int = 48, seed: int = 0) -> Split:
    """Two classes: light columns on the left or on the right."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.4 * torch.rand(count, 1, 8, 8, generator=generator)
    y = torch.arange(count) % 2
    x[y == 0, :, :, :4] += 0.5
    x[y == 1, :, :, 4:] += 0.5
    return Split(x, y, torch.arange(count))


def weights(model: nn.Module) -> Tensor:
    """Weights and buffers in one row."""
    return torch.cat([value.detach().flatten().float() for value in model.state_dict().values()])


@contextmanager
def no_global_randomness(who: str, instead: str) -> Iterator[None]:
    """What runs inside leaves the global generators as they are. instead: what to draw from. Raises Broken."""
    before = _states()
    yield
    moved = ", ".join(name for name, state in _states().items() if state != before[name])
    require(
        not moved,
        f"{who} draws nothing from global generators",
        f"it used {moved}: results would depend on what ran before; {instead}",
    )


def _states() -> dict[str, object]:
    kind, keys, place, *_ = np.random.get_state()
    return {
        "torch's generator": torch.get_rng_state().numpy().tobytes(),
        "numpy.random": (kind, np.asarray(keys).tobytes(), place),
        "Python's random": random.getstate(),
    }
