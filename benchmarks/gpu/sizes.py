"""What is measured, by the size of the machine. Every figure says its own size, so none passes for another's."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attacks.autoattack import AutoAttack
from attacks.contract import ThreatModel

EPOCH = 49_000  # images: CIFAR-10 without the 1,000 that choose the epoch


@dataclass(frozen=True)
class Size:
    """cells: architecture and batch; the levers are tried on the first. steps: batches a turn. inner: steps of the
    attack in training. copy: bytes; product: side of the matrices. images: attacked; victim: architecture, and
    train_images it learns from; pgd: steps; queries, targets, apgd: of AutoAttack (5,000, 9 and 100 in its standard
    version). seconds: a guess for each section, below which it is not begun.
    """

    cells: tuple[tuple[str, int], ...]
    steps: int
    turns: int
    inner: int
    copy: int
    product: int
    victim: str
    train_images: int
    images: int
    pgd: int = 100
    apgd: int = 100
    targets: int = 9
    queries: int = 5000
    seconds: float = 30.0

    def autoattack(self, threat: ThreatModel) -> AutoAttack:
        return AutoAttack(threat, self.apgd, self.targets, self.queries)

    @property
    def standard(self) -> bool:
        """Whether it is AutoAttack's standard version."""
        return (self.apgd, self.targets, self.queries) == (100, 9, 5000)


SIZES = {
    "full": Size(
        (("resnet18", 128), ("resnet18", 512), ("wrn-34-10", 128)), 40, 3, 10, 1 << 30, 8192, "resnet18", 10_000, 1000
    ),
    "small": Size((("resnet8", 16), ("resnet20", 16)), 3, 3, 4, 1 << 26, 1024, "cnn-a", 2000, 64),
    "tiny": Size((("cnn-a", 8),), 2, 1, 1, 1 << 20, 64, "cnn-a", 64, 4, 2, 2, 1, 5, 0.0),
}


def size_for(name: str, device: torch.device) -> Size:
    """ "auto" is full on a GPU and small on a CPU."""
    return SIZES[("full" if device.type == "cuda" else "small") if name == "auto" else name]
