"""A network that expects other inputs than it is given gives itself away: it is right more often in another range, or
with another normalisation in front.

Looked at: [0, 255], [-1, 1], the normalisations in common use, and none where the network has one in front.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attacks.model import ModelError
from attacks.target import Target
from bench.ground.stats import mcnemar
from bench.subjects.blank import Blank
from bench.subjects.data import Images
from bench.subjects.models import Normalize, in_front
from bench.subjects.normalization import NAMED, RANGES, Statistics, in_span

LOOKED = 128  # images, at most
FINE = 0.95  # clean accuracy beyond which nothing is looked at
SURE = 2e-4  # of McNemar's test; several other inputs are tried


def of_inputs(blank: Blank, images: Images, logits: Tensor) -> list[str]:
    """A phrase where other inputs are better, and surely; else []. images: on the model's device; logits [N, K]: what
    the network said of them.
    """
    right = logits.argmax(1) == images.y
    if not blank.copied or float(right.float().mean()) >= FINE:
        return []
    rows = torch.linspace(0, len(right) - 1, min(len(right), LOOKED)).round().long().to(right.device)
    some, right = images.take(rows), right[rows]
    network = blank.fresh()
    asked = {said: _right(other, some) for said, other in _others(network, some.x.shape)}
    tried = {said: found for said, found in asked.items() if found is not None}
    if not tried:
        return []
    best = max(tried, key=lambda said: int(tried[said].sum()))
    before, after = int(right.sum()), int(tried[best].sum())
    if after <= before or mcnemar(right.cpu().numpy(), tried[best].cpu().numpy()) > SURE:
        return []
    return [
        f"of {len(rows)} clean images {before / len(rows):.0%} are right as they go in now, and "
        f"{after / len(rows):.0%} with {best}: the model expects other inputs than it is given"
    ]


def _others(network: nn.Module, shape: torch.Size) -> Iterator[tuple[str, nn.Module]]:
    """(the option that says so, the network with these inputs) for images [N, C, H, W]."""
    channels, inner = shape[1], network
    if isinstance(network, nn.Sequential) and len(network) == 2 and isinstance(network[0], Normalize):
        inner = network[1]
        yield "--normalization none", inner
    known: dict[str, Statistics | None] = {
        f"--range {said}": in_span(None, span, channels) for said, span in RANGES.items()
    }
    known |= {f"--normalization {name}": statistics for name, statistics in NAMED.items()}
    place = next((value.device for value in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    for said, statistics in known.items():
        if statistics is not None and len(statistics[0]) == channels:
            yield said, in_front(Normalize(*statistics).to(place), inner)


def _right(network: nn.Module, images: Images) -> Tensor | None:
    """[n] bool: the images that it gets right; None where it cannot be asked in that range."""
    try:
        return Target(network).true_logits(images.x).argmax(1) == images.y
    except ModelError:
        return None
