"""AT-AVG, AT-MAX, AT-MSD: one network against several norms at once.

AVG and MAX: Tramer & Boneh 2019, https://arxiv.org/abs/1904.13000. MSD, and the settings of all three in
MAT's Table 5: Maini, Wong, Kolter 2020, https://arxiv.org/abs/1909.04068.

Attacks climb the cross-entropy, as in Maini et al.; Tramer & Boneh climb the margin of C&W. Differs from the released
code of Maini et al.: batch norm is in evaluation mode in the attacks (`inner.bn`; theirs stays in training mode, also
on test images), an L1 attack has one start and not two, L2 and L1 steps are the steepest inside the box
(`attacks.norms`; theirs are cut off at it), and crops are padded with zeros. An L1 step of theirs moves k values by
0.05 * 20 / k each: here that is a step of 1.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.contract import ThreatModel
from attacks.losses import Loss, cross_entropy
from attacks.multi_steepest import MSD
from trainers.contract import Cohort, Inner


@dataclass(frozen=True)
class ATAvg:
    """min mean_m CE(f(x'_m), y), x'_m the maximiser of the cross-entropy by attack m.

    inners: the attacks, in order, at least one. sequential: no mean, but one optimiser step per attack and batch, each
    attack against the network that the step before has left; so does the code of Maini et al., in the order L1, L2,
    Linf. Raises ValueError.
    """

    inners: tuple[Inner, ...]
    sequential: bool = False
    version: int = 1

    def __post_init__(self) -> None:
        check_inners(self.inners)

    @property
    def inner(self) -> Inner:
        """The first attack."""
        return self.inners[0]

    @property
    def members(self) -> int:
        """One network."""
        return 1

    @property
    def rounds(self) -> int:
        """See `trainers.contract.rounds_of`."""
        return len(self.inners) if self.sequential else 1

    def against(self, n: int) -> tuple[Inner, ...]:
        """See `trainers.contract.perturbations`."""
        return self.inners

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        inners = self.inners[cohort.round : cohort.round + 1] if self.sequential else self.inners
        x_adv = [cohort.attack(0, x, y, inner, cross_entropy) for inner in inners]
        label = [cross_entropy(cohort.logits(0, each), y, cohort.label_smoothing).mean() for each in x_adv]
        return [torch.stack(label).mean()]


@dataclass(frozen=True)
class ATMax:
    """min CE(f(x'), y), x' for each image the worst of the attacks' results.

    inners: the attacks, at least one. Raises ValueError.
    """

    inners: tuple[Inner, ...]
    version: int = 1

    def __post_init__(self) -> None:
        check_inners(self.inners)

    @property
    def inner(self) -> Inner:
        """The first attack."""
        return self.inners[0]

    @property
    def members(self) -> int:
        """One network."""
        return 1

    def against(self, n: int) -> tuple[Inner, ...]:
        """See `trainers.contract.perturbations`."""
        return self.inners

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        x_adv = [cohort.attack(0, x, y, inner, cross_entropy) for inner in self.inners]
        worst, _ = worst_of(cohort, 0, x_adv, y, self.inners, cross_entropy)
        return [cross_entropy(cohort.logits(0, worst), y, cohort.label_smoothing).mean()]


@dataclass(frozen=True)
class ATMSD:
    """min CE(f(x'), y), x' the result of multi steepest descent, see `attacks.multi_steepest`.

    inners: one attack in each of Linf, L2 and L1; MSD takes their radii and step lengths, and the first one's mode of
    batch norm. steps: of MSD, whose steps are counted once for all norms. Raises ValueError.
    """

    inners: tuple[Inner, ...]
    steps: int = 50
    version: int = 1

    def __post_init__(self) -> None:
        check_inners(self.inners)
        msd_of(self.inners, self.steps)

    @property
    def inner(self) -> Inner:
        """The first attack."""
        return self.inners[0]

    @property
    def members(self) -> int:
        """One network."""
        return 1

    def against(self, n: int) -> tuple[Inner, ...]:
        """See `trainers.contract.perturbations`."""
        return self.inners

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`."""
        msd, noise = msd_of(self.inners, self.steps), cohort.noise_of(0)
        x_adv = cohort.craft(0, len(x), self.inner.bn, lambda target: msd(target, x, y, noise))
        return [cross_entropy(cohort.logits(0, x_adv), y, cohort.label_smoothing).mean()]


def check_inners(inners: Sequence[Inner]) -> None:
    """Raises ValueError for no attack at all."""
    if not inners:
        raise ValueError("inners is empty; give at least one attack, such as { norm = 'L2', eps = 0.5, step = 0.05 }")


def worst_of(
    cohort: Cohort, n: int, x_adv: list[Tensor], y: Tensor, inners: Sequence[Inner], loss: Loss
) -> tuple[Tensor, Tensor]:
    """For each image the result of the attack with the largest loss on network n -> (x_adv like x, which [B] int64)."""

    def choose() -> Tensor:
        reached = [loss(cohort.logits(n, x, inner.bn, grad=False), y) for x, inner in zip(x_adv, inners, strict=True)]
        return torch.stack(reached).argmax(0)

    which = cohort.once(choose)
    return torch.stack(x_adv)[which, torch.arange(len(y), device=y.device)], which


def msd_of(inners: Sequence[Inner], steps: int, loss: Literal["ce", "bce"] = "ce") -> MSD:
    """MSD with the radii and step lengths of these attacks. Raises ValueError unless there is one of each norm."""
    norms = [inner.norm for inner in inners]
    if sorted(norms) != ["L1", "L2", "Linf"]:
        raise ValueError(f"MSD needs inners with one attack in each of Linf, L2 and L1; got {', '.join(norms)}")
    linf, l2, l1 = (inners[norms.index(norm)] for norm in ("Linf", "L2", "L1"))
    return MSD(
        ThreatModel("own", 0.0),
        linf=linf.eps,
        l2=l2.eps,
        l1=l1.eps,
        linf_step=linf.step,
        l2_step=l2.step,
        l1_step=l1.step,
        steps=steps,
        stop="last",
        loss=loss,
    )
