"""Inside one pattern of signs a network of ReLUs is affine: that map, and its best image by a linear programme.

The map is read from outside, so that any arrangement of affine maps and ReLUs will do (batch norm in evaluation mode,
sums, average pooling): with each ReLU held on or off, what comes out for one pixel at a time are its columns. That it
is affine is tried, not believed. A programme has the pixels as variables and, of the values before the ReLUs, those
that can reach 0 inside the box as constraints; Tjeng et al. 2019, https://arxiv.org/abs/1711.07356, section 4, with
every binary variable held at its value. HiGHS solves it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attacks.model import ModelError
from attacks.target import Target

MOST_ENTRIES = 1 << 26  # pixels times ReLUs: a larger map takes a minute and gigabytes
SAME = 1e-3  # of the largest logit: float32 and batches of other sizes were never seen to part by so much
PROBES = 256  # pixels at a time
GAIN = 1e-6  # of the largest logit: a step that gains less is rounding
ATEN = torch.ops.aten
RELUS = {ATEN.relu.default: False, ATEN.relu_.default: True}  # and whether it writes into what it is given


class Affine(NamedTuple):
    """Around an image: values before ReLUs and their columns for the pixels that can move, the same of the logits.

    before [R]; columns [R, P]; logits [K]; slopes [K, P]; in float64.
    """

    before: np.ndarray[Any, Any]
    columns: csr_array
    logits: np.ndarray[Any, Any]
    slopes: np.ndarray[Any, Any]


class _ReLUs(TorchDispatchMode):
    """Notes what goes into every ReLU; those whose signs are given ([1, *shape] bool each) are held on or off."""

    def __init__(self, held: list[Tensor] | None = None) -> None:
        super().__init__()
        self.held, self.seen = held, list[Tensor]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be left out by the compiler would import it, four seconds for nothing."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in RELUS:
            return func(*args, **(kwargs or {}))
        before = args[0].clone()
        after = func(*args) if self.held is None else before * self.held[len(self.seen) % len(self.held)]
        self.seen.append(before)
        return args[0].copy_(after) if RELUS[func] else after


def check(target: Target, x: Tensor) -> None:
    """Raises ModelError where the network is not one of ReLUs, or too large for programmes. x [N, C, H, W], N >= 1."""
    image = x[:1]
    seen, _ = _run(target[:1], image)
    entries = image.numel() * sum(map(torch.numel, seen))
    if entries > MOST_ENTRIES:
        raise ModelError(
            f"patterns solves programmes of at most {MOST_ENTRIES:,} pixels times ReLUs, and the network has "
            f"{entries:,}; probes = 0 is its search without them"
        )
    signs = [before > 0 for before in seen]
    ramp = torch.linspace(0, 1, image.numel()).to(image).view_as(image)
    even = (torch.arange(image.numel(), device=image.device) % 2 == 0).view_as(image)
    points = [image, ramp, torch.where(even, image, ramp), torch.where(even, ramp, image), (image + ramp) / 2]
    _, held = _run(target[torch.zeros(5, dtype=torch.int64)], torch.cat(points), signs)
    together = held[0] + held[1]
    off = torch.maximum((together - held[2] - held[3]).abs(), (together - 2 * held[4]).abs()).amax()
    if not off <= SAME * held.abs().amax():
        raise ModelError(
            "patterns is for networks of affine maps and ReLUs, and with the signs of its ReLUs held this network is "
            "not affine (max pooling, another activation, a layer that normalises each image); probes = 0 is its "
            "search without programmes"
        )


def walk(
    target: Target, image: Tensor, pair: Tensor, box: tuple[Tensor, Tensor], probes: int
) -> tuple[Tensor, float, int]:
    """From an image to the best of its pattern, to the best of the pattern there, while the margin rises.

    image, and box from and to, [1, C, H, W]; pair [2] = (label, class); probes: passes that may be spent.
    -> (image, logit of the class minus that of the label, passes spent).
    """
    spent, best, now = 0, image, -np.inf
    price = int((box[0] < box[1]).sum()) + 2
    while spent + price <= probes:
        affine = read(target, image, box)
        spent += price
        margin = float(affine.logits[pair[1]] - affine.logits[pair[0]])
        if margin <= now + GAIN * np.abs(affine.logits).max():
            break
        best, now = image, margin
        image = _best(affine, image, pair, box)
    return best, now, spent


def read(target: Target, image: Tensor, box: tuple[Tensor, Tensor]) -> Affine:
    """The network in the pattern of an image [1, C, H, W]; P pixels have room in the box. P + 2 forward passes."""
    seen, logits = _run(target, image)
    signs = [before > 0 for before in seen]
    free = (box[0] < box[1]).flatten().nonzero().squeeze(1)
    parts, slopes = list[csr_array](), list[Tensor]()
    none, base = _run(target, torch.zeros_like(image), signs)
    for pixels in free.split(PROBES):  # one at least, of a length of 0 where no pixel is free
        units = torch.zeros(len(pixels), image.numel()).to(image)
        units[torch.arange(len(pixels)), pixels] = 1.0
        places = torch.zeros(len(pixels), dtype=torch.int64)
        values, out = _run(target[places], units.view(-1, *image.shape[1:]), signs)
        change = [value - zero for value, zero in zip(values, none, strict=True)]
        parts.append(csr_array(_flat(change).T) if change else csr_array((0, len(pixels))))
        slopes.append(out - base)
    return Affine(_flat(seen)[0], hstack(parts, format="csr"), _numpy(logits)[0], _numpy(torch.cat(slopes)).T)


def _best(affine: Affine, image: Tensor, pair: Tensor, box: tuple[Tensor, Tensor]) -> Tensor:
    """The image of the pattern and the box with the largest margin, [1, C, H, W]; `image` where none was found."""
    free = (box[0] < box[1]).flatten()
    at, low, high = (_numpy(values.flatten()[free]) for values in (image, *box))
    sign = np.where(affine.before > 0, 1.0, -1.0)
    room = sign * affine.before + sign * (affine.columns @ ((low + high) / 2 - at))
    reached = room < abs(affine.columns) @ ((high - low) / 2)
    rows = -affine.columns[reached] * sign[reached, None]
    slope = affine.slopes[int(pair[1])] - affine.slopes[int(pair[0])]
    found = linprog(-slope, rows, (sign * affine.before)[reached], bounds=np.stack([low - at, high - at], 1))
    if found.x is None:
        return image
    moved = image.flatten().double().cpu()
    moved[free.cpu()] += torch.from_numpy(found.x)
    return torch.clamp(moved.view(image.shape).to(image), *box)


def _run(target: Target, images: Tensor, signs: list[Tensor] | None = None) -> tuple[list[Tensor], Tensor]:
    """The model itself -> what goes into its ReLUs, [B, *shape] each, and its logits [B, K]. signs: those of one image,
    given where there are many.
    """
    with _ReLUs(signs) as relus:
        logits = target.true_logits(images)
    count = len(relus.seen if signs is None else signs)  # of one batch; a target may make several
    return [torch.cat(relus.seen[place::count]) for place in range(count)], logits


def _flat(values: list[Tensor]) -> np.ndarray[Any, Any]:
    """[B, *shape] each -> [B, R] float64; of a network without ReLUs [1, 0]."""
    return _numpy(torch.cat([value.flatten(1) for value in values], 1)) if values else np.empty((1, 0))


def _numpy(values: Tensor) -> np.ndarray[Any, Any]:
    return values.double().cpu().numpy()
