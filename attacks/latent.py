"""Gradient ascent on latent variables: the one loop of fog, gabor, elastic, jpeg and those that came after them.

Kang et al. 2019, https://arxiv.org/abs/1908.08016: an image is rendered from variables that live in a box of
their own; K times v <- clamp(v + step * sign(d cross entropy / dv)), starting at random; the last rendering
is judged. In its third version pixel and whirlpool step along the gradient, by an L2 length, and pixel, snow and
whirlpool hold their variables in an L2 ball.

Differs from the authors' code: untargeted (theirs evaluates towards a random class); an image leaves the loop
at its first success (`stop = "first"`; "last" judges the last rendering only, as theirs); variables belong to
the image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.contract import ThreatModel
from attacks.losses import cross_entropy
from attacks.norms import TINY, per_image, project_l2
from attacks.target import Target, default_batch_size

Stop = Literal["first", "last"]


@dataclass(frozen=True)
class Scene:
    """What is optimised and how it becomes images.

    latent: [N, ...], the start, in x's dtype. render: (latent, x, *given) -> images like x, image by image
    and in [0, 1]; differentiable in latent. given: what else render needs, [N, ...] each. step, low, high:
    broadcast against one image's latent. free: [N, ...] or None; multiplies the latent after each step, so 0
    means "held at 0". along: what a step follows, the gradient's sign, or the gradient itself, then of that L2 length.
    radius: no latent is longer in L2, where there is one; the box, which then holds 0, comes after it.
    """

    latent: Tensor
    render: Callable[..., Tensor]
    step: Tensor
    low: Tensor
    high: Tensor
    given: tuple[Tensor, ...] = ()
    free: Tensor | None = None
    along: Literal["sign", "gradient"] = "sign"
    radius: float | None = None


def ascend(target: Target, x: Tensor, y: Tensor, scene: Scene, steps: int, stop: Stop) -> Tensor:
    """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]: the first rendering that fools, else the last."""
    target, x_adv = target.following(len(x)), x.clone()
    work = _Work(x, y, scene)
    for _ in range(steps):
        down = torch.zeros(len(work.place), dtype=torch.bool, device=x.device)
        running = target[work.place]
        for rows, _, grad, logits in running.gradients(work.latent, work.y, cross_entropy, work.render):
            if stop == "first":
                suspects = logits.argmax(1) != work.y[rows]
                down[rows] = running[rows].confirm(suspects, work.image, work.y[rows])
                x_adv[work.place[rows][down[rows]]] = work.image[down[rows]]
            work.move(rows, grad)
        if down.any():
            work.keep(~down)
        if len(work.place) == 0:
            return x_adv
    for rows in torch.arange(len(work.place), device=x.device).split(default_batch_size(x) if len(x) else 1):
        given = (values[rows] for values in work.given)
        x_adv[work.place[rows]] = scene.render(work.latent[rows], work.x[rows], *given)
    return x_adv


class _Work:
    """The images that still stand, where they stood in x (`place`), and the last batch that was rendered."""

    def __init__(self, x: Tensor, y: Tensor, scene: Scene) -> None:
        self.scene, self.x, self.y, self.given, self.free = scene, x, y, scene.given, scene.free
        self.place = torch.arange(len(x), device=x.device)
        self.latent = scene.latent.clone()
        self.image = x[:0]

    def render(self, latent: Tensor, rows: slice) -> Tensor:
        """latent = self.latent[rows] -> images. In full precision even when the network runs in bfloat16."""
        with torch.autocast(latent.device.type, enabled=False):
            image = self.scene.render(latent, self.x[rows], *(g[rows] for g in self.given))
        self.image = image.detach()
        return image

    def move(self, rows: slice, grad: Tensor) -> None:
        """One step up the gradient of latent[rows], in place, back into the box."""
        direction = grad.sign() if self.scene.along == "sign" else unit_l2(grad)
        moved = self.latent[rows] + self.scene.step * direction
        moved = moved if self.scene.radius is None else project_l2(moved, self.scene.radius)
        moved = torch.minimum(torch.maximum(moved, self.scene.low), self.scene.high)
        self.latent[rows] = moved if self.free is None else moved * self.free[rows]

    def keep(self, standing: Tensor) -> None:
        """Drop the images that are not `standing` ([n] bool)."""
        self.place, self.x, self.y = self.place[standing], self.x[standing], self.y[standing]
        self.latent, self.given = self.latent[standing], tuple(g[standing] for g in self.given)
        self.free = None if self.free is None else self.free[standing]


def unit_l2(values: Tensor) -> Tensor:
    """[B, ...] -> the same directions, each of L2 length 1; 0 stays 0."""
    # by the largest first: squares of small gradients vanish
    values = values / per_image(values.flatten(1).abs().amax(1).clamp_min(TINY), values)
    return values / per_image(values.flatten(1).norm(dim=1).clamp_min(TINY), values)


def check_settings(name: str, threat: ThreatModel, steps: int, step: float | None) -> None:
    """Raises ValueError for what no latent attack can run with."""
    if threat.norm != "own":
        raise ValueError(f'{name} bounds itself: give norm "own" and its strength as eps, not {threat.norm}')
    if steps < 1 or (step is not None and not step >= 0):
        raise ValueError(f"{name} needs steps >= 1 and step >= 0 (or None); got steps = {steps}, step = {step}")
