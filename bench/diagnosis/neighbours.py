"""Images next to the judged ones: a network that knows these by heart is no better than others on those.

Held-out images are the first that are not judged, and those that look most like the judged ones: the first of a data
set may be of other hands than the rest, and a network that has learned from these is better on them without knowing
them; and the images that look like many others may be harder. Who knows the judged ones is worse on both. Changed ones
are the judged images themselves: moved by a pixel, mirrored where the data set may, darker, brighter. With the radius
of an attack added, the last two reach beyond twice the radius: as far as a network looks for an image that it knows,
if it is to cover the ball around it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.contract import ThreatModel
from attacks.norms import per_image
from bench.subjects.data import Dataset, Images

MOVES = {"up": (1, 0), "down": (-1, 0), "left": (0, 1), "right": (0, -1)}
REACH = 4 / 3  # radii, of the value that gets darker or brighter by most
MOST, LEAST = 0.25, 0.02  # and that change in image units, whatever the radius
AT_ONCE = 1 << 26  # values of images that are compared with at once: all of CIFAR-10's test images
OTHERS = "other test images"


def held_out(dataset: Dataset, judged: Images) -> dict[str, list[Images]]:
    """Images of the test set and of validation that are not judged, where there are any: as many as are judged, and the
    nearest of each one's label, of which one may stand for several.
    """
    rest = (~torch.isin(dataset.test.ids, judged.ids)).nonzero().squeeze(1)
    parts = {OTHERS: dataset.test.take(rest), "validation images": dataset.validation}
    return {
        name: [part.head(min(len(part), len(judged))), part.take(_nearest(judged, part))]
        for name, part in parts.items()
        if len(part)
    }


def _nearest(images: Images, among: Images) -> Tensor:
    """Rows [N] of the nearest in L2, of the same label where there is one."""
    far, distances = 2 * images.x[0].numel() ** 0.5, []  # beyond every distance in [0, 1]
    for turn in torch.arange(len(among)).split(max(1, AT_ONCE // images.x[0].numel())):
        some = among.take(turn)
        other = images.y[:, None] != some.y
        distances.append(torch.cdist(images.x.flatten(1), some.x.flatten(1)) + far * other)
    return torch.cat(distances, 1).argmin(1)


def changed(images: Images, threat: ThreatModel, flip: bool) -> Iterator[tuple[str, Images]]:
    """The images in other forms that a reader gives the same label. flip: a mirrored image keeps its own."""
    x = images.x
    for name, (down, right) in MOVES.items():
        yield f"moved {name}", _with(images, _moved(x, down, right))
    if flip:
        yield "mirrored", _with(images, x.flip(3))
    eps = threat.eps if threat.norm == "Linf" else 0.0
    change = min(MOST, max(LEAST, REACH * eps))
    yield "darker", _with(images, _darker(x, change))
    yield "brighter", _with(images, 1 - _darker(1 - x, change))


def _with(images: Images, x: Tensor) -> Images:
    return Images(x, images.y, images.ids)


def _moved(x: Tensor, down: int, right: int) -> Tensor:
    """Shifted by one pixel; the row or column that comes in repeats the one at the edge."""
    height, width = x.shape[-2:]
    return F.pad(x, (1, 1, 1, 1), mode="replicate")[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]


def _darker(x: Tensor, change: float) -> Tensor:
    """The contrast to black shrinks: the brightest value of an image falls by `change`, the others by their share."""
    brightest = x.flatten(1).amax(1).clamp_min(change)
    return x * per_image(1 - change / brightest, x)
