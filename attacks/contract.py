"""What an attack may change and what it promises.

An attack is a frozen dataclass of settings that is called with a Target, all images at once, and noise that belongs
to each image. It returns images; nobody believes them before `bench.judge.evaluate` has looked at each one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from attacks.noise import Noise
from attacks.norms import distance
from attacks.target import Target

WIDEST = 1e9  # L1 of any image that fits into a memory
Norm = Literal["Linf", "L2", "L1", "L0", "own", "corruptions"]


@dataclass(frozen=True)
class ThreatModel:
    """The legal x_adv for an image x in [0, 1].

    norm: "Linf", "L2", "L1", "L0" (number of changed values), or "own": no single distance is the bound, and `contains`
    checks the box alone. Fog and those like it bound parameters that an image does not show; an attack whose
    bound can be seen says it as `balls` (see `balls_of`). "corruptions" (RobustBench's word): nothing is chosen against
    the network, so every image is changed, also one that is wrong as it is, and counts if it is right when changed;
    `contains` checks the box alone.
    eps: radius in image units (1 = black to white), so 8/255 and not 8; for "own" the attack's own unit, of a
    corruption its severity.
    Raises ValueError for a negative or non-finite eps, and one that no image can reach: above 1 in Linf, 1e9 elsewhere.
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        if not (self.eps >= 0 and self.eps < float("inf")):
            raise ValueError(f"eps = {self.eps} is not a radius; give a number >= 0 such as 8/255")
        if self.eps > WIDEST:
            raise ValueError(f"eps = {self.eps:g} is wider than any image")
        if self.norm == "Linf" and self.eps > 1:
            raise ValueError(
                f"eps = {self.eps:g} in Linf is wider than the whole range of an image, which is [0, 1]; "
                f"did you mean {self.eps:g}/255?"
            )

    def contains(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """x, x_adv [N, C, H, W] -> [N] bool: finite, inside [0, 1], and no farther than eps.

        The distance is computed in float64. The tolerance of 1e-6 (1e-6 eps for eps > 1) is float32 rounding of
        the projection, far below one step of an 8-bit image.
        """
        near = in_box(x_adv)
        return near if self.norm in ("own", "corruptions") else near & (distance(self.norm, x, x_adv) <= self.limit)

    @property
    def limit(self) -> float:
        """eps and the tolerance: the largest distance that counts as inside."""
        return self.eps + 1e-6 * max(1.0, self.eps)


def in_box(x_adv: Tensor) -> Tensor:
    """x_adv [N, C, H, W] -> [N] bool: every value is finite and in [0, 1]."""
    flat = x_adv.flatten(1)
    return torch.isfinite(flat).all(1) & (flat >= 0).all(1) & (flat <= 1).all(1)


class Budget(NamedTuple):
    """Passes of an image through the network that an attack makes, at most, on one that nothing fools.

    forward: of them `backward` and more are differentiated too. leaves: whether an image goes as soon as it is fooled.
    usual: the share that an image spends as a rule where it stays to the end, below 1 for searches that stop by
    themselves: measured, see docs/clock.md. `Target.confirm` adds a forward pass for an image that looks fooled.
    """

    forward: int
    backward: int
    leaves: bool = True
    usual: float = 1.0


class Attack(Protocol):
    """Settings of an attack; calling it perturbs every image it is given.

    Promises: x_adv has x's shape and dtype and lies inside `threat`; the model's weights, buffers, mode and gradients
    and the global random state are untouched; an image's result does not depend on the other images, on their order
    or on the batch size. `version` goes up when a change of the code changes its numbers.

    closest: True for a minimal-norm attack. It returns the closest fooling image it found, inside [0, 1] but perhaps
    beyond eps, and x itself where it found none. Whether that counts is read off the distance, for any eps.

    Five members are optional: `balls`, threat models of which x_adv must be inside one (see `balls_of`);
    `passes(classes)`, its `Budget` on a network of so many classes (see `budget_of`); `parts`, the attacks that it is
    made of, one after the other, each on what stands; `channels`, how many an image may have (see `check_channels`);
    `widest`, of the norm "own": the eps beyond which nothing more can happen.
    """

    @property
    def closest(self) -> bool:
        """Whether it is a minimal-norm attack."""
        ...

    @property
    def threat(self) -> ThreatModel:
        """What it may change."""
        ...

    @property
    def version(self) -> int:
        """Of the code."""
        ...

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W] in [0, 1], y [N] int64 true labels, noise for the same N images -> x_adv [N, C, H, W]."""
        ...


def balls_of(attack: Attack) -> tuple[ThreatModel, ...]:
    """What its x_adv may lie in, one of these: its `balls`, or `threat` alone."""
    found: tuple[ThreatModel, ...] = getattr(attack, "balls", (attack.threat,))
    return found


def check_channels(attack: Attack, x: Tensor) -> None:
    """x [N, C, H, W]. Raises ValueError where the attack says its `channels`, such as (3,) of one on colours, and C is
    not among them.
    """
    known = getattr(attack, "channels", (x.shape[1],))
    if x.shape[1] not in known:
        shown = " or ".join(map(str, known))
        raise ValueError(f"{type(attack).__name__} knows images of {shown} channels; these have {x.shape[1]}")


def budget_of(attack: Attack, classes: int) -> Budget | None:
    """What it spends on an image at most, on a network of so many classes; None where it does not say."""
    found: Budget | None = attack.passes(classes) if hasattr(attack, "passes") else None
    return found


def in_turn(parts: Sequence[Attack], classes: int) -> Budget:
    """Of attacks one after the other, each on what stands: a pass more of each says what that is."""
    found = [budget for part in parts if (budget := budget_of(part, classes))]
    return Budget(sum(one.forward + 1 for one in found), sum(one.backward for one in found))


def inside(attack: Attack, x: Tensor, x_adv: Tensor) -> Tensor:
    """x, x_adv [N, C, H, W] -> [N] bool: what this attack may return; any image in [0, 1] for a minimal-norm attack."""
    if attack.closest:
        return in_box(x_adv)
    return torch.stack([ball.contains(x, x_adv) for ball in balls_of(attack)]).any(0)
