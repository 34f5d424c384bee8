"""MAT-MP, MAT against multiple perturbations: Liu et al. 2021, https://arxiv.org/abs/2112.05005v1, eqs. 6-10.

M specialists, each against one type of perturbation, and a generalist against all of them, which is what is deployed.
No official code was found; alpha of MAT-MP is not published. The lower limit of the sum in equation 6 is lost in the
text that was read: the generalist is among a specialist's teachers here, as only then the weights alpha / M add up to
alpha. In MAX the worst type is chosen image by image, as in the code that the paper follows (see `trainers.at_multi`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.losses import LOSSES, boosted_cross_entropy, kl_divergence
from trainers.at_multi import check_inners, msd_of, worst_of
from trainers.contract import Cohort, Inner, Mode


@dataclass(frozen=True)
class MATMP:
    """Network 0 is the generalist, network m = 1..M the specialist for inners[m - 1]; x'_nm: attack m on network n.

    Specialist: min (1 - alpha) BCE(p_m(x'_mm), y) + alpha / M sum_{n != m} KL(p_n(x) || p_m(x'_mm)), n = 0..M.
    Generalist: generalist = "avg": min mean_m [(1 - alpha) BCE(p_0(x'_0m), y) + alpha KL(p_m(x) || p_0(x'_0m))];
    "max": only the m with the largest BCE, for each image; "msd": x' is multi steepest descent's, taught by all
    specialists alike. msd_steps: of that attack, which takes radii and step lengths from inners (one in each of Linf,
    L2, L1). alpha in [0, 1]: 0.6 is ours. inner_loss, teacher_grad, teacher_bn: as in MAT. A specialist is validated
    against its own type, the generalist against all. Raises ValueError.
    """

    inners: tuple[Inner, ...]
    generalist: Literal["avg", "max", "msd"] = "avg"
    alpha: float = 0.6
    msd_steps: int = 50
    inner_loss: Literal["bce", "ce"] = "bce"
    teacher_grad: Literal["flow", "detach"] = "flow"
    teacher_bn: Mode = "train"
    version: int = 1

    def __post_init__(self) -> None:
        check_inners(self.inners)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"MAT-MP needs alpha in [0, 1]; got alpha = {self.alpha:g}")
        if self.generalist == "msd":
            msd_of(self.inners, self.msd_steps)

    @property
    def inner(self) -> Inner:
        """The first attack."""
        return self.inners[0]

    @property
    def members(self) -> int:
        """The generalist and M specialists."""
        return 1 + len(self.inners)

    def against(self, n: int) -> tuple[Inner, ...]:
        """See `trainers.contract.perturbations`."""
        return self.inners if n == 0 else (self.inners[n - 1],)

    def batch_loss(self, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
        """See `trainers.contract.Trainer`. With "flow" a loss also has a gradient in the other networks."""
        ascent, specialists = LOSSES[self.inner_loss], range(1, self.members)
        own = [cohort.attack(m, x, y, self.against(m)[0], ascent) for m in specialists]
        general, which = self._generalist_images(cohort, x, y)
        clean = [cohort.logits(n, x, self.teacher_bn, grad=self.teacher_grad == "flow") for n in range(self.members)]
        logits, smoothing = [cohort.logits(0, x_adv) for x_adv in general], cohort.label_smoothing
        return [
            self.generalist_loss(logits, clean, y, which, smoothing),
            *(self.specialist_loss(m, cohort.logits(m, own[m - 1]), clean, y, smoothing) for m in specialists),
        ]

    def _generalist_images(self, cohort: Cohort, x: Tensor, y: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """What the generalist is trained on; in MAX also which type [B] each image is of."""
        if self.generalist == "msd":
            msd, noise = msd_of(self.inners, self.msd_steps, self.inner_loss), cohort.noise_of(0)
            return [cohort.craft(0, len(x), self.inner.bn, lambda target: msd(target, x, y, noise))], None
        x_adv = [cohort.attack(0, x, y, inner, LOSSES[self.inner_loss]) for inner in self.inners]
        if self.generalist == "avg":
            return x_adv, None
        worst, which = worst_of(cohort, 0, x_adv, y, self.inners, boosted_cross_entropy)
        return [worst], which

    def specialist_loss(
        self, m: int, adversarial: Tensor, clean: list[Tensor], y: Tensor, smoothing: float = 0.0
    ) -> Tensor:
        """Equation 6: specialist m's logits [B, K] on x'_mm, everyone's on x, y [B] -> scalar."""
        label = boosted_cross_entropy(adversarial, y, smoothing).mean()
        taught = [kl_divergence(adversarial, clean[n]).mean() for n in range(self.members) if n != m]
        return (1 - self.alpha) * label + self.alpha * torch.stack(taught).mean()

    def generalist_loss(
        self,
        adversarial: list[Tensor],
        clean: list[Tensor],
        y: Tensor,
        which: Tensor | None = None,
        smoothing: float = 0.0,
    ) -> Tensor:
        """Equations 7-9: the generalist's logits [B, K] on its images, everyone's on x, y [B] -> scalar.

        adversarial: one for each type in AVG, else one. which [B]: MAX's type of each image, from 0.
        """
        label = torch.stack([boosted_cross_entropy(logits, y, smoothing).mean() for logits in adversarial]).mean()
        if which is not None:
            teachers = [torch.stack(clean[1:])[which, torch.arange(len(y), device=y.device)]]
        else:
            teachers = clean[1:]
        students = adversarial if len(adversarial) == len(teachers) else adversarial * len(teachers)
        taught = [kl_divergence(s, t).mean() for s, t in zip(students, teachers, strict=True)]
        return (1 - self.alpha) * label + self.alpha * torch.stack(taught).mean()
