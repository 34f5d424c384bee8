"""DeepFool in L2: linearise the model, step to the nearest boundary, repeat until the label changes.

Moosavi-Dezfooli et al. 2016, https://arxiv.org/abs/1511.04599, algorithm 2, with the overshoot applied to the whole
perturbation in every step.

Differs: only the likeliest classes are looked at; images are clipped to [0, 1] (the paper has no box), while the
perturbation accumulates unclipped, so that what a pixel at its bound cannot take falls to the others; a step goes
`NUDGE` past the boundary, because with clipping the overshoot alone may never cross it; and the image is refined at the
end (`attacks.closest`; `refine = 0` leaves that out).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.closest import Closest, likeliest_wrong, search_budget, search_correct
from attacks.contract import Budget, ThreatModel
from attacks.noise import Noise
from attacks.norms import TINY, per_image
from attacks.target import Target

NUDGE = 1e-4  # L2, in image units
USUAL = 5  # steps that an image makes, measured: it leaves when it is fooled


@dataclass(frozen=True)
class DeepFool:
    """Minimal-norm attack in L2 that stops at the first fooling image: repeated steps to the linearised boundary.

    threat: L2; the attack does not use eps, the verdict is read there. steps: at most; an image leaves when it is
    fooled or when a step does not move it. candidates: classes that are looked at, the likeliest for x, the label
    among them; each wrong one costs a backward pass a step. overshoot: share by which the perturbation is stretched to
    cross the boundary. refine: steps of the last refinement at most. Raises ValueError.
    """

    closest: ClassVar[bool] = True
    threat: ThreatModel
    steps: int = 100
    candidates: int = 10
    overshoot: float = 0.02
    refine: int = 5
    version: int = 2

    def __post_init__(self) -> None:
        if self.threat.norm != "L2":
            raise ValueError(f"this DeepFool works in L2, not in {self.threat.norm}")
        if self.steps < 1 or self.candidates < 2 or self.refine < 0 or not 0 <= self.overshoot < float("inf"):
            raise ValueError(
                "DeepFool needs steps >= 1, candidates >= 2, overshoot >= 0, refine >= 0; got steps = "
                f"{self.steps}, candidates = {self.candidates}, overshoot = {self.overshoot:g}, refine = {self.refine}"
            )

    def passes(self, classes: int) -> Budget:
        """See `attacks.contract.Budget`."""
        wrong = min(self.candidates, classes) - 1
        usual = min(1.0, USUAL / self.steps)
        return search_budget(1 + 2 * self.steps, wrong * self.steps, self.refine, classes, usual)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        return search_correct(self._search, self.refine, target, x, y, noise)

    def _search(self, target: Target, found: Closest, y: Tensor, noise: Noise) -> None:
        place = torch.arange(len(y), device=y.device)
        x_adv, total = found.x.clone(), torch.zeros_like(found.x)
        classes = likeliest_wrong(target.logits(x_adv), y, self.candidates)
        for _ in range(self.steps):
            before = x_adv.clone()
            for rows, margins, grads in target[place].margin_gradients(x_adv, y[place], classes[place]):
                total[rows] += _to_nearest_boundary(margins, grads)
                x_adv[rows] = (found.x[place[rows]] + (1 + self.overshoot) * total[rows]).clamp_(0, 1)
            here = target[place]  # a forward pass for all is cheaper than the backward passes of those that are done
            fooled = found.offer(here, place, x_adv, y[place], here.logits(x_adv))
            going = ~fooled & (x_adv != before).flatten(1).any(1)
            place, x_adv, total = place[going], x_adv[going], total[going]
            if len(place) == 0:
                return


def _to_nearest_boundary(margins: Tensor, grads: Tensor) -> Tensor:
    """margins [N, m], their gradients [N, m, C, H, W] -> the shortest of the m steps to where a margin is 0.

    A flat margin has no boundary; no step is longer than the diagonal of the box.
    """
    slope = grads.flatten(2).norm(dim=2)
    length, nearest = torch.where(slope > 0, margins.abs() / slope, torch.inf).min(1, keepdim=True)
    length = (length + NUDGE).clamp_max(grads[0, 0].numel() ** 0.5)
    images = torch.arange(len(grads), device=grads.device)
    steepest = grads[images, nearest.squeeze(1)]
    return steepest * per_image(length / slope.gather(1, nearest).clamp_min(TINY), steepest)
