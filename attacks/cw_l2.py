"""Carlini & Wagner's attack in L2: Adam on distance and margin in tanh variables, binary search on their balance.

Carlini & Wagner 2017, https://arxiv.org/abs/1608.04644, section VI.A: minimise |x' - x|^2 + c max(0, z_y - max z_k).
Adam: Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1.

Differs: x' = (1 + tanh(w) / edge) / 2 with w kept where x' is in [0, 1], so that pixels at exactly 0 or 1 start where
they are and tanh still has a slope there (the paper's edge is 1, where they never move); every image has its own c,
search and early stop; images that nothing fools come back as they are; confidence is 0; and the closest image is
refined at the end (`attacks.closest`; `refine = 0` leaves that out).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.closest import Closest, search_budget, search_correct
from attacks.contract import Budget, ThreatModel
from attacks.losses import margin
from attacks.noise import Noise
from attacks.norms import per_image
from attacks.survivors import packer
from attacks.target import Target

MEAN_DECAY, SQUARE_DECAY, ADAM_GUARD = 0.9, 0.999, 1e-8  # beta_1, beta_2 and epsilon, the paper's defaults
PROGRESS = 1e-4  # share by which an image's loss must fall to count as improved, as in the authors' code


@dataclass(frozen=True)
class CarliniWagnerL2:
    """Minimal-norm attack in L2: the least distance at which the margin still pays.

    threat: L2; the attack does not use eps, the verdict is read there. steps: iterations of Adam for each c at most.
    lr: its learning rate, the length of a step of w. binary_search_steps: values of c tried, each from x; c grows
    tenfold until it fools the model and is then halved between the largest that did not and the least that did.
    initial_c: the first, per unit of the logits. patience: an image leaves a c when its loss has not improved for so
    many iterations. edge: in (0, 1), see the module's text. refine: steps of the last refinement at most. Raises
    ValueError.
    """

    closest: ClassVar[bool] = True
    threat: ThreatModel
    steps: int = 200
    lr: float = 0.025
    binary_search_steps: int = 5
    initial_c: float = 0.01
    patience: int = 20
    edge: float = 0.99
    refine: int = 5
    version: int = 2

    def __post_init__(self) -> None:
        if self.threat.norm != "L2":
            raise ValueError(f"this C&W attack works in L2, not in {self.threat.norm}")
        if min(self.steps, self.binary_search_steps, self.patience) < 1 or self.refine < 0:
            raise ValueError(
                "C&W needs steps, binary_search_steps, patience >= 1 and refine >= 0; got "
                f"steps = {self.steps}, binary_search_steps = {self.binary_search_steps}, "
                f"patience = {self.patience}, refine = {self.refine}"
            )
        if not (self.lr > 0 and self.initial_c > 0 and 0 < self.edge < 1):
            raise ValueError(
                "C&W needs lr > 0, initial_c > 0, 0 < edge < 1; got "
                f"lr = {self.lr:g}, initial_c = {self.initial_c:g}, edge = {self.edge:g}"
            )

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        steps = self.binary_search_steps * self.steps
        return search_budget(steps, steps, self.refine, classes)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        return search_correct(self._search, self.refine, target, x, y, noise)

    def _search(self, target: Target, found: Closest, y: Tensor, noise: Noise) -> None:
        c = torch.full_like(found.distance, self.initial_c)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for _ in range(self.binary_search_steps):
            fooled = self._descend(target, found, y, c)
            low, high = torch.where(fooled, low, c), torch.where(fooled, c, high)
            c = torch.where(torch.isinf(high), 10 * c, (low + high) / 2)

    def _descend(self, target: Target, found: Closest, y: Tensor, c: Tensor) -> Tensor:
        """One value of c for each image, [N] -> [N] bool: was the image fooled on the way?"""
        ever = torch.zeros_like(y, dtype=torch.bool)
        place, x, w = torch.arange(len(y), device=y.device), found.x.clone(), torch.atanh(self.edge * (2 * found.x - 1))
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        best, stale = torch.full_like(c, torch.inf), torch.zeros_like(c)
        wall = math.atanh(self.edge)
        for step in range(1, self.steps + 1):
            here, tanh = target[place], w.tanh()
            x_adv = ((1 + tanh / self.edge) / 2).clamp_(0, 1)
            value, grad, logits = here.loss_grad(x_adv, y[place], margin)
            ever[place] |= found.offer(here, place, x_adv, y[place], logits)

            price, delta = torch.where(value < 0, c[place], 0), x_adv - x
            loss = delta.square().flatten(1).sum(1) - price * value
            grad = (2 * delta - per_image(price, grad) * grad) * (1 - tanh.square()) / (2 * self.edge)
            mean.lerp_(grad, 1 - MEAN_DECAY)
            square.lerp_(grad.square(), 1 - SQUARE_DECAY)
            size = (square / (1 - SQUARE_DECAY**step)).sqrt_().add_(ADAM_GUARD)
            w = (w - self.lr / (1 - MEAN_DECAY**step) * mean / size).clamp_(-wall, wall)

            better = loss < best * (1 - PROGRESS)
            best, stale = torch.where(better, loss, best), torch.where(better, 0, stale + 1)
            pack = packer(stale < self.patience)
            place, x, w, mean, square, best, stale = map(pack, (place, x, w, mean, square, best, stale))
            if len(place) == 0:
                break
        return ever
