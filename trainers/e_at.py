"""E-AT, extreme norm adversarial training: Croce & Hein, ICML 2022, https://arxiv.org/abs/2105.12508.

One network against several norms at the price of one: each batch meets a single attack, drawn by how badly the network
has done against each so far. The paper's pair is Linf and L1, which is to cover L2 as well. The formulas are those of
the authors' code (https://github.com/fra31/robust-finetuning); the paper was not read. As there, the
error of an attack is counted over all batches of the training that met it, and chances are equal until each has been
met.

Differs from the code: the attack is PGD (theirs APGD of 10 steps, which starts at the image), and an image counts as an
error where the training pass on x' is wrong (theirs where any iterate was, in evaluation mode), so that counting costs
no pass; where nothing is wrong, chances are equal. Their weight decay spares batch norm and biases. Fine-tuning of
robust networks, the paper's other half, is not offered.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.losses import cross_entropy
from trainers.at_multi import check_inners
from trainers.contract import Cohort, Inner

TRIED = "images and errors of each attack"


@dataclass(frozen=True)
class EAT:
    """min CE(f(x'_m), y), x'_m the maximiser of the cross-entropy by one attack m of `inners`, the same for the whole
    batch, drawn with a chance proportional to the share of images so far on which the network was wrong under it.

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
        which = cohort.once(lambda: self.drawn(cohort))
        x_adv = cohort.attack(0, x, y, self.inners[which], cross_entropy)
        logits = cohort.logits(0, x_adv)
        wrong = cohort.once(lambda: (logits.argmax(1) != y).sum())
        batch = torch.zeros(2, len(self.inners), dtype=torch.int64, device=x.device)
        batch[0, which], batch[1, which] = len(y), wrong
        before = cohort.recall(TRIED)
        cohort.note(TRIED, batch if before is None else before + batch)
        return [cross_entropy(logits, y, cohort.label_smoothing).mean()]

    def drawn(self, cohort: Cohort) -> int:
        """Which attack the batch meets: by a random number of its first image."""
        chances = self.chances(cohort.recall(TRIED)).cumsum(0)
        number = cohort.noise.fork("which attack")[:1].uniform().double().cpu()
        return int((chances <= number * chances[-1]).sum())

    def chances(self, tried: Tensor | None) -> Tensor:
        """tried [2, M] int64: images and errors of each attack -> [M] float64 on the CPU, not normalised."""
        equal = torch.ones(len(self.inners), dtype=torch.float64)
        if tried is None:
            return equal
        images, errors = tried.double().cpu()
        return errors / images if bool((images > 0).all()) and bool(errors.any()) else equal
