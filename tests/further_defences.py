"""More defences that look robust and are not, of other kinds than those of `broken_defences`: what they remember, what
they know, and what they do to the backward pass. Each hides a naturally trained network (one an AT network).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from broken_defences import EPS, base, digits
from torch import Tensor, nn

from bench.subjects.data import Images

REMEMBERED = 50.0  # added to the logit of the class that is remembered


class Wrapped(nn.Module):
    """Around a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class Known(Wrapped):
    """Labels known by heart: of stored images, for everything near one of them. The gradient is the network's own."""

    def __init__(self, network: nn.Module, images: Images, radius: float = 2 * EPS) -> None:
        super().__init__(network)
        self.register_buffer("known", images.x.flatten(1))
        self.register_buffer("labels", F.one_hot(images.y, 10).float())
        self.radius = radius

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            distance, nearest = torch.cdist(x.flatten(1), self.known, p=torch.inf).min(1)
        return self.network(x) + REMEMBERED * (distance <= self.radius)[:, None] * self.labels[nearest]


class Remembering(Wrapped):
    """Remembers the images it was asked in a plain attribute, and answers what it said to the nearest of them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.own: dict[str, Tensor] = {}

    def store(self) -> dict[str, Tensor]:
        """images [M, H W] and the classes [M, 10] that were said of them."""
        return self.own

    def forward(self, x: Tensor) -> Tensor:
        answers, flat, store = self.network(x), x.detach().flatten(1), self.store()
        said = F.one_hot(answers.argmax(1), 10).float()
        images, classes = store.get("images", flat[:0]), store.get("classes", said[:0])
        new = (torch.cdist(flat, images, p=torch.inf) > 2 * EPS).all(1)
        store["images"], store["classes"] = torch.cat([images, flat[new]]), torch.cat([classes, said[new]])
        nearest = torch.cdist(flat, store["images"], p=torch.inf).argmin(1)
        return answers + REMEMBERED * store["classes"][nearest]


class SharedMemory(Remembering):
    """The same, in an attribute of the class: every copy has seen what any has seen."""

    everything: ClassVar[dict[str, Tensor]] = {}

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.everything.clear()

    def store(self) -> dict[str, Tensor]:
        return self.everything


class Adapting(Wrapped):
    """Normalises by a running mean of what it was asked, kept in a plain attribute."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.mean = torch.tensor(0.3)

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        return self.network(x - (self.mean - 0.3))


class Backwards(torch.autograd.Function):
    """The identity, with another slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return ctx.change(slope), None


class Replaced(Wrapped):
    """The slope at the image goes through a function."""

    def __init__(self, network: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(network)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.network(Backwards.apply(x, self.change))


class HalfDetached(Wrapped):
    """Autograd follows every second pixel only, as on a chessboard; the others are cut off."""

    def forward(self, x: Tensor) -> Tensor:
        odd = (torch.arange(x.shape[-1]) + torch.arange(x.shape[-2])[:, None]) % 2
        return self.network(torch.where(odd.bool(), x, x.detach()))


class Squeezed(Wrapped):
    """Feature squeezing to eight levels; the straight-through slope has the wrong sign."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(Backwards.apply(x, torch.neg) + ((x * 7).round() / 7 - x).detach())


class ErrorCorrecting(Wrapped):
    """Output codes: 31 bits by hard thresholds, and the distance to each class's code word."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("bits", torch.randn(10, 31, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        code = (200 * torch.eye(10) @ self.bits).tanh()
        return (200 * self.network(x).softmax(1) @ self.bits).tanh() @ code.T


class ColdWhenSure(Wrapped):
    """A low temperature where the network is sure, and none elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        answers = self.network(x)
        sure = answers.softmax(1).amax(1, keepdim=True) > 0.9
        return torch.where(sure, 1e3 * answers, answers)


class Clamped(Wrapped):
    """Logits cut off at both ends."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).clamp(-0.5, 0.5) + 1e-6 * self.network(x).detach()


class Detecting(Wrapped):
    """Where an image looks noisy, the answer is that of a smoothed one, without a slope."""

    def forward(self, x: Tensor) -> Tensor:
        smooth = (x * 4).round() / 4
        noisy = (x - smooth).abs().flatten(1).mean(1) > 0.03
        return torch.where(noisy[:, None], self.network(smooth).detach() + 0 * self.network(x), self.network(x))


class Dropping(Wrapped):
    """Drops a fifth of the pixels; which ones is a hash of the image: the same image, the same answer."""

    def forward(self, x: Tensor) -> Tensor:
        wave = (1e4 * x.detach().flatten(1).sum(1))[:, None] * (1 + torch.arange(x[0].numel()))
        kept = (torch.sin(wave) * 43758.5453).frac().abs() > 0.2
        return self.network(x * kept.reshape(x.shape) / 0.8)


class Rippled(Wrapped):
    """A fine ripple on every pixel: the slope is the ripple's."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + 0.004 * torch.sin(2000 * x))


class Resized(Wrapped):
    """Shifted at random; the draw is cached, one for each size of batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.cache: dict[int, int] = {}

    def forward(self, x: Tensor) -> Tensor:
        shift = self.cache.setdefault(len(x), len(self.cache) % 3 - 1)
        return self.network(x.roll(shift, 3))


def clipping_hooks(network: nn.Module) -> nn.Module:
    """Backward hooks that let nothing above a thousandth pass, and round what is left."""

    def clip(module: nn.Module, slope: tuple[Tensor, ...], _: Any) -> tuple[Tensor, ...]:
        return tuple(1e-3 * (1e3 * one).clamp(-1, 1).round() for one in slope if one is not None)

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_full_backward_hook(clip)
    return network


def every_image() -> Images:
    """The whole data set."""
    parts = (digits().train, digits().validation, digits().test)
    return Images(*(torch.cat([getattr(part, name) for part in parts]) for name in ("x", "y", "ids")))


def natural() -> nn.Module:
    return base("natural")


FURTHER: dict[str, Callable[[], nn.Module]] = {
    "test set by heart": lambda: Known(natural(), digits().test),
    "test set by heart, AT": lambda: Known(base("at"), digits().test),
    "judged images by heart": lambda: Known(natural(), digits().test.head(100)),
    "all images by heart": lambda: Known(natural(), every_image()),
    "memory": lambda: Remembering(natural()),
    "memory of all copies": lambda: SharedMemory(natural()),
    "adapting mean": lambda: Adapting(natural()),
    "clipping hooks": lambda: clipping_hooks(natural()),
    "noise in the slope": lambda: Replaced(natural(), torch.randn_like),
    "half detached": lambda: HalfDetached(natural()),
    "squeezing, wrong sign": lambda: Squeezed(natural()),
    "output codes": lambda: ErrorCorrecting(natural()),
    "cold when sure": lambda: ColdWhenSure(natural()),
    "clamped logits": lambda: Clamped(natural()),
    "noise detector": lambda: Detecting(natural()),
    "dropped by hash": lambda: Dropping(natural()),
    "ripple": lambda: Rippled(natural()),
    "cached shift": lambda: Resized(natural()),
}
