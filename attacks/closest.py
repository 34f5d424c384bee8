"""What minimal-norm attacks share: the closest fooling image found so far, and in L2 its last refinement.

The refinement linearises the margin at the closest fooling image and goes to the nearest image inside [0, 1] that the
linear model fools: the projection of FAB (Croce & Hein 2020, https://arxiv.org/abs/1907.02044), always taken from the
clean image. Where the model is linear one such step is the exact answer, saturated pixels included.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from attacks.contract import Budget
from attacks.losses import margin
from attacks.noise import Noise
from attacks.norms import nearest_on_plane
from attacks.target import Target

CANDIDATES = 10  # likeliest classes, the label among them, that the refinement's first step looks at
BEYOND = 1e-3  # share of its length by which a refined move goes past the boundary: far below what matters in L2
ROUNDING = 64  # units in the last place of the largest logit: more than another batch size moves a margin

Search = Callable[[Target, "Closest", Tensor, Noise], None]
LENGTHS: dict[str, Callable[[Tensor], Tensor]] = {  # of changes [N, values]
    "Linf": lambda delta: delta.abs().amax(1),
    "L2": lambda delta: delta.norm(dim=1),
    "L0": lambda delta: (delta != 0).sum(1).to(delta),
}


class Closest:
    """For each image of x [N, C, H, W] the closest fooling image offered so far, and x itself while there is none.

    norm: "Linf", "L2" or "L0", the number of changed values. distance [N]: of those images, infinite without one.
    """

    def __init__(self, x: Tensor, norm: str = "L2") -> None:
        self.x, self.x_adv, self.length = x, x.clone(), LENGTHS[norm]
        self.distance = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)

    def offer(self, target: Target, place: Tensor, x_adv: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        """x_adv [n, C, H, W], labels y [n] and logits [n, K] for the images place [n] -> [n] bool, which fool.

        target: the view for these n images. An image counts as fooled where no rounding could undo it. Only one that
        would be the closest is confirmed by the model itself.
        """
        suspects = margin(logits, y) > rounding(logits)
        length = self.length((x_adv - self.x[place]).flatten(1))
        closer = suspects & (length < self.distance[place])
        confirmed = target.confirm(closer, x_adv, y)
        self.x_adv[place[confirmed]], self.distance[place[confirmed]] = x_adv[confirmed], length[confirmed]
        return suspects & (confirmed | ~closer)

    def refine(self, target: Target, y: Tensor, rounds: int) -> None:
        """The nearest of the likeliest classes, then at most `rounds` steps on the margin; see the module's text.

        An image leaves when a step would lead no closer than the best that it has.
        """
        place = torch.isfinite(self.distance).nonzero().squeeze(1)
        if len(place) == 0 or rounds == 0:
            return
        trial = self._nearest_class(target[place], place, y[place])
        for _ in range(rounds):
            x, here = self.x[place], target[place]
            value, grad, logits = here.loss_grad(trial, y[place], margin)
            self.offer(here, place, trial, y[place], logits)
            gain = (grad * (trial - x)).flatten(1).sum(1) - value + rounding(logits)
            nearest = (x + (1 + BEYOND) * nearest_on_plane("L2", x, grad, gain.clamp_min(0))).clamp(0, 1)
            closer = (nearest - x).flatten(1).norm(dim=1) < self.distance[place] * (1 - BEYOND)
            place, trial = place[closer], nearest[closer]
            if len(place) == 0:
                return
        self.offer(target[place], place, trial, y[place], target[place].logits(trial))

    def _nearest_class(self, target: Target, place: Tensor, y: Tensor) -> Tensor:
        """The first step: margins to all likely classes linearised at the best images -> the nearest images."""
        x, best = self.x[place], self.x_adv[place]
        nearest = torch.empty_like(x)
        classes = likeliest_wrong(target.logits(best), y, CANDIDATES)
        for rows, margins, grads in target.margin_gradients(best, y, classes):
            gains = (grads * (best - x)[rows, None]).flatten(2).sum(2) - margins
            nearest[rows] = (x[rows] + (1 + BEYOND) * least_move(grads, x[rows], gains)).clamp(0, 1)
        return nearest


def search_budget(forward: int, backward: int, rounds: int, classes: int, usual: float = 1.0) -> Budget:
    """Of a search with so many passes and its refinement: what `search_correct` makes."""
    nearest = min(CANDIDATES, classes) - 1
    refining = (3 + rounds, nearest + rounds) if rounds else (0, 0)
    return Budget(1 + forward + refining[0], backward + refining[1], leaves=False, usual=usual)


def search_correct(
    search: Search, rounds: int, target: Target, x: Tensor, y: Tensor, noise: Noise, norm: str = "L2"
) -> Tensor:
    """Search, and in L2 refine, the images that the model gets right; others fool it as they are. -> x_adv like x."""
    target, x_adv = target.following(len(x)), x.clone()
    standing = (target.logits(x).argmax(1) == y).nonzero().squeeze(1)
    if len(standing):
        found = Closest(x[standing], norm)
        search(target[standing], found, y[standing], noise[standing])
        found.refine(target[standing], y[standing], rounds)
        x_adv[standing] = found.x_adv
    return x_adv


def rounding(logits: Tensor) -> Tensor:
    """logits [N, K] -> [N]: the largest margin that might be rounding."""
    return ROUNDING * torch.finfo(logits.dtype).eps * logits.abs().amax(1)


def likeliest_wrong(logits: Tensor, y: Tensor, candidates: int) -> Tensor:
    """The wrong ones among the likeliest `candidates` classes, y counted as one: [N, m] int64, the likeliest first."""
    count = min(candidates, logits.shape[1]) - 1
    return logits.scatter(1, y[:, None], -torch.inf).topk(count, dim=1).indices


def least_move(grads: Tensor, x: Tensor, gains: Tensor) -> Tensor:
    """grads [N, m, C, H, W], gains [N, m] -> [N, C, H, W], the least of the m moves that gain theirs inside [0, 1]."""
    images = x[:, None].expand_as(grads).flatten(0, 1)
    moves = nearest_on_plane("L2", images, grads.flatten(0, 1), gains.flatten().clamp_min(0)).view_as(grads)
    short = (moves * grads).flatten(2).sum(2) < gains * (1 - BEYOND)
    length = torch.where(short, torch.inf, moves.flatten(2).norm(dim=2))
    return moves[torch.arange(len(x), device=x.device), length.argmin(1)]


def falling(first: float, last: float, step: int, steps: int) -> float:
    """From first at step 0 to last at `steps`, by a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * step / steps)) / 2
