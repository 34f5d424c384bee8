"""What a diagnosis measured, image by image. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]


class Drift(NamedTuple):
    """Two passes over the same images. largest: difference of a logit, as a share of the spread of that image's
    logits; changed: images whose prediction differs.
    """

    largest: float
    changed: int


class Slope(NamedTuple):
    """What a short and a long step up the gradient do, per image that is right. rises: the loss after the short step
    is higher. near, far: rise of the loss after the short and the long step, as a share of what the gradient says;
    NaN where it says nothing.
    """

    rises: Flags
    near: NDArray[np.float64]
    far: NDArray[np.float64]


class Elsewhere(NamedTuple):
    """How the model does on some images. clean, robust [m]: right without an attack, and also under the cheap PGD."""

    clean: Flags
    robust: Flags


@dataclass(frozen=True)
class Evidence:
    """What was measured on n images. right [n]: correct without an attack. stands: attack -> [n], right with and
    without it. zero: loss -> [m], images that are right where its gradient is 0 or not finite. refused: check -> why
    the model cannot be measured at all; without: attack -> why it was not run. unseen: the model, against copies from
    before it was asked anything, on clean and on adversarial images. others: part of the data set -> how
    it does on images of it that are not judged, one way of choosing them after the other; changed: change -> on the
    judged images, one by one, after it.
    """

    labels: NDArray[np.int64]
    right: Flags
    stands: dict[str, Flags] = field(default_factory=dict)
    repeated: Drift | None = None
    regrouped: Drift | None = None
    state_changed: bool = False
    zero: dict[str, Flags] = field(default_factory=dict)
    slope: Slope | None = None
    refused: dict[str, str] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)
    unseen: Drift | None = None
    others: dict[str, list[Elsewhere]] = field(default_factory=dict)
    changed: dict[str, Elsewhere] = field(default_factory=dict)

    def share(self, attack: str) -> float:
        """Accuracy under an attack."""
        return float(self.stands[attack].mean())

    def standing(self, attacks: Sequence[str]) -> Flags:
        """[n], right under every one of them."""
        return np.logical_and.reduce([self.stands[attack] for attack in attacks])

    def lacking(self, attacks: Sequence[str]) -> str:
        """Why an attack was not run; "" where all were."""
        reasons = [self.without.get(attack, "the model was refused") for attack in attacks if attack not in self.stands]
        return reasons[0] if reasons else ""
