"""Distances, projections, steepest ascent and random points in balls: pure functions on [N, ...] tensors.

The L1 projection is that of Duchi et al. 2008 (https://doi.org/10.1145/1390156.1390191), found without sorting as in
Michelot 1986 (https://doi.org/10.1007/BF00938486). The L1 step follows the top-k steepest ascent of Maini, Wong, Kolter
2020 (https://arxiv.org/abs/1909.04068) and differs in three points of the released code: a pixel is blocked only in the
direction in which it has no room left (so pixels at exactly 0 or 1 can be attacked), what a blocked pixel cannot take
goes to the next best one, and k is drawn per image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.noise import Noise

TINY = 1e-30  # keeps 0 / 0 at 0; far below any gradient that float32 holds


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """[N] -> [N, 1, 1, ...] so that it multiplies `like` image by image."""
    return values.view(-1, *[1] * (like.dim() - 1))


def distance(norm: str, x: Tensor, x_adv: Tensor) -> Tensor:
    """x, x_adv [N, ...] -> [N] float64: distance of each pair; L0 counts the values that differ."""
    delta = (x_adv.double() - x.double()).flatten(1).abs()
    if norm == "Linf":
        return delta.amax(1)
    if norm == "L2":
        return delta.square().sum(1).sqrt()
    if norm == "L1":
        return delta.sum(1)
    if norm == "L0":
        return (delta > 0).sum(1).double()
    raise ValueError(f"no distance is defined for norm {norm!r}; known: Linf, L2, L1, L0")


def project_l2(delta: Tensor, eps: float) -> Tensor:
    """Nearest point with ||delta||_2 <= eps; images already inside come back unchanged."""
    length = delta.flatten(1).norm(dim=1)
    return delta * per_image((eps / length.clamp_min(TINY)).clamp_max(1.0), delta)


def project_l1(delta: Tensor, eps: float) -> Tensor:
    """Nearest point with ||delta||_1 <= eps; images already inside come back unchanged."""
    flat = delta.flatten(1)
    size = flat.abs()
    outside = size.sum(1) > eps
    if not outside.any():
        return delta
    tall, threshold = size[outside], torch.zeros((), dtype=torch.float64, device=delta.device)
    kept = tall > 0
    while True:  # the threshold only grows, and ends exactly
        excess = torch.where(kept, tall, 0).sum(1, keepdim=True, dtype=torch.float64) - eps
        threshold = torch.maximum(threshold, excess / kept.sum(1, keepdim=True).clamp_min(1))
        now = kept & (tall > threshold.to(tall))
        if torch.equal(now, kept):
            break
        kept = now
    projected = flat.clone()
    projected[outside] = flat[outside].sign() * (tall - threshold.to(flat)).clamp_min(0)
    return projected.view_as(delta)


def l1_inside(eps: float, x: Tensor) -> float:
    """The radius to project to so that x + delta, rounded value by value, is no farther than eps in L1.

    x [N, ...] in [0, 1]. About 8e-6 less than 12 for a 32x32 colour image; small radii lose a thousandth at most.
    """
    return eps - min(x.shape[1:].numel() * torch.finfo(x.dtype).eps / 4, eps / 1000)


def project_l1_in_box(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """Nearest point to delta in {d: ||d||_1 <= eps, x + d in [0, 1]}: Croce & Hein 2021, section 2.1.

    The answer is clip(|delta| - t, 0, room) with the least t >= 0 that fits the ball; the L1 length falls linearly in t
    between the points where a value leaves its bound (|delta| - room) or reaches 0 (|delta|), so t is found by sorting
    these 2 d points. x, delta [N, ...].
    """
    size, image = delta.flatten(1).abs(), x.flatten(1)
    room = torch.where(delta.flatten(1) > 0, 1 - image, image).clamp_min(0)
    kept = torch.minimum(size, room)
    outside = kept.sum(1, dtype=torch.float64) > eps
    if outside.any():
        s, r = size[outside], room[outside]
        points, order = torch.cat([(s - r).clamp_min(0), s], 1).sort(dim=1)
        slopes = torch.cat([torch.ones_like(s), -torch.ones_like(s)], 1).gather(1, order).cumsum(1)
        # from the second point on: how much length the interval before it takes away
        falls = torch.nn.functional.pad((slopes[:, :-1] * points.diff(dim=1)).double(), (1, 0))
        length = kept[outside].double().sum(1, keepdim=True) - falls.cumsum(1)
        before = ((length > eps).sum(1, keepdim=True) - 1).clamp_min(0)  # the last point where it is still too large
        rest = (length.gather(1, before) - eps) / slopes.gather(1, before).clamp_min(1)
        t = (points.gather(1, before) + rest).to(s)
        kept[outside] = torch.minimum((s - t).clamp_min(0), r)
    return (kept * delta.flatten(1).sign()).view_as(delta)


def l2_ascent(grad: Tensor, x_adv: Tensor, step: float) -> Tensor:
    """The move of L2 length `step` that climbs most without leaving [0, 1].

    grad, x_adv [N, C, H, W] -> move [N, C, H, W]. Where no pixel reaches its bound this is step * g / ||g||. Otherwise
    pixels stop at their bound and the others grow in proportion until the length is `step`: min(room, t |g|) with the
    t found by filling the tightest pixels first, at most as often as pixels get stuck.
    """
    slope, image = grad.flatten(1).abs(), x_adv.flatten(1)
    room = torch.where(grad.flatten(1) > 0, 1 - image, image).clamp_min(0)
    stuck = torch.zeros_like(slope, dtype=torch.bool)
    while True:
        used = (room * stuck).square().sum(1, keepdim=True)
        free = (slope * ~stuck).square().sum(1, keepdim=True)
        t = ((step * step - used).clamp_min(0) / free.clamp_min(TINY)).sqrt()
        now = stuck | (t * slope > room)
        if torch.equal(now, stuck):
            return (torch.where(stuck, room, t * slope) * grad.flatten(1).sign()).view_as(grad)
        stuck = now


def l1_ascent(grad: Tensor, x_adv: Tensor, step: float, k: Tensor) -> Tensor:
    """The move of L1 length `step` that spends at most step / k on a pixel, on the largest |grad| first.

    grad, x_adv [N, C, H, W]; k [N] int64. Returns the move [N, C, H, W]; it keeps x_adv + move inside [0, 1].
    """
    flat, image = grad.flatten(1), x_adv.flatten(1)
    room = torch.where(flat > 0, 1 - image, image) * (flat != 0)
    room = torch.minimum(room, (step / k)[:, None].to(room))
    steep, most = torch.where(room > 0, flat.abs(), -1.0), 4 * int(k.max())
    while True:  # the steepest few are enough, unless most of them have little room
        order = steep.topk(min(most, flat.shape[1])).indices
        ranked = room.gather(1, order)
        before = ranked.cumsum(1) - ranked  # already spent when this pixel's turn comes
        spent = torch.minimum(ranked, (step - before).clamp_min(0))
        if most >= flat.shape[1] or (ranked.sum(1) > step).all():
            break
        most = flat.shape[1]
    return torch.zeros_like(flat).scatter(1, order, spent).mul(flat.sign()).view_as(grad)


def nearest_on_plane(norm: str, x: Tensor, slope: Tensor, need: Tensor) -> Tensor:
    """The smallest d with <slope, d> = need and x + d in [0, 1], in Linf, L2 or L1: Croce & Hein 2020, section 3.1.

    x, slope [N, C, H, W], need [N] of either sign -> d [N, C, H, W]. Linf moves every value by t, L2 by t |slope|, each
    until it is stuck at its bound, with the t that just suffices; L1 uses up the steepest values first. Where the box
    holds no such point, every value goes to its bound.
    """
    flat, image = (slope * per_image(need.sign(), slope)).flatten(1), x.flatten(1)
    steep, wanted = flat.abs(), need.abs()[:, None].to(flat)
    room = torch.where(flat > 0, 1 - image, image).clamp_min(0) * (flat != 0)
    if norm == "L1":
        order = steep.argsort(dim=1, descending=True)
        ranked, gain = room.gather(1, order), (room * steep).gather(1, order)
        missing = (wanted - (gain.cumsum(1) - gain)).clamp_min(0) / steep.gather(1, order).clamp_min(TINY)
        size = torch.zeros_like(flat).scatter(1, order, torch.minimum(ranked, missing))
    elif norm in ("Linf", "L2"):
        gain, pace = room * steep, torch.ones_like(steep) if norm == "Linf" else steep
        pull = pace * steep
        stuck = room == 0
        while True:  # Newton's method on a concave, piecewise linear function of t: it only grows, and ends exactly
            done = torch.linalg.vecdot(gain, stuck.to(gain))[:, None]
            t = (wanted - done).clamp_min(0) / torch.linalg.vecdot(pull, (~stuck).to(pull)).clamp_min(TINY)[:, None]
            now = stuck | (t * pace >= room)
            if torch.equal(now, stuck):
                break
            stuck = now
        size = torch.where(stuck, room, t * pace)
    else:
        raise ValueError(f"no projection on a plane is defined for norm {norm!r}; known: Linf, L2, L1")
    return (size * flat.sign()).view_as(x)


def random_in_ball(norm: str, eps: float, x: Tensor, noise: Noise) -> Tensor:
    """A point drawn uniformly from the ball of radius eps around 0, for each image of x: same shape as x."""
    shape = x.shape[1:]
    if norm == "Linf":
        return noise.uniform(*shape).mul_(2).sub_(1).mul_(eps)
    if norm == "L2":
        direction = noise.fork("direction").normal(*shape)
        length = noise.fork("length").uniform() ** (1 / shape.numel()) * eps
        return direction * per_image(length / direction.flatten(1).norm(dim=1).clamp_min(TINY), x)
    if norm == "L1":  # exponential gaps are uniform on the simplex; the one gap left out is the slack
        gaps = -torch.log1p(-noise.fork("gaps").uniform(shape.numel() + 1))
        share = gaps[:, :-1] / gaps.sum(1, keepdim=True)
        sign = torch.where(noise.fork("signs").uniform(shape.numel()) < 0.5, -1, 1)
        return (share * sign * eps).view(-1, *shape)
    raise ValueError(f"no random start is defined for norm {norm!r}; known: Linf, L2, L1")
