"""Models whose answers are known exactly, and the smallest perturbation that changes them, by float64 arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.contracts.problems import saturated_images
from bench.contracts.problems import small_cnn as small_cnn


class Linear(nn.Module):
    """Logits W x + b."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.t() + self.bias


class TwoPieces(nn.Module):
    """Two classes; the second logit is the larger of two linear pieces, the first is 0: piecewise linear."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        pieces = x.flatten(1) @ self.weight.t() + self.bias
        wrong = pieces.amax(1)
        return torch.stack([torch.zeros_like(wrong), wrong], 1)


def smallest(norm: str, x: Tensor, rise: Tensor, need: float) -> float:
    """The least distance in [0, 1]^d at which the linear function `rise` gains `need` from x; inf if it cannot.

    x, rise [d]. Linf: every pixel moves min(eps, room). L2: min(room, t |w|). L1: the steepest pixels first. L0: those
    first that gain most on their way to 0 or 1.
    """
    x, rise = x.double(), rise.double()
    room = torch.where(rise > 0, 1 - x, x)
    slope = rise.abs()
    if (slope * room).sum() <= need:
        return float("inf")
    if norm == "L0":
        return float(((slope * room).sort(descending=True).values.cumsum(0) <= need).sum()) + 1
    if norm == "L1":
        order = slope.argsort(descending=True)
        gain = (slope * room)[order].cumsum(0)
        full = int((gain < need).sum())
        done = room[order][:full].sum()
        rest = need - (gain[full - 1] if full else 0)
        return float(done + rest / slope[order][full])
    low, high = 0.0, 1.0 if norm == "Linf" else float(room.max() / slope[slope > 0].min())
    for _ in range(200):
        middle = (low + high) / 2
        move = torch.minimum(room, torch.full_like(room, middle) if norm == "Linf" else middle * slope)
        low, high = (low, middle) if (move * slope).sum() >= need else (middle, high)
    return high if norm == "Linf" else float(torch.minimum(room, high * slope).norm())


def exact_margin(norm: str, model: nn.Module, x: Tensor, label: int) -> float:
    """Distance from x [C, H, W] to the nearest image that `Linear` or `TwoPieces` does not call `label`."""
    flat = x.flatten().double()
    weight, bias = model.weight.detach().double(), model.bias.detach().double()
    if isinstance(model, TwoPieces):
        rises, needs = weight, -(weight @ flat + bias)
    else:
        logits = weight @ flat + bias
        rises, needs = weight - weight[label], logits[label] - logits
        keep = torch.arange(len(logits)) != label
        rises, needs = rises[keep], needs[keep]
    pairs = zip(rises, needs, strict=True)
    return min(smallest(norm, flat, rise, float(need)) for rise, need in pairs)


def linear_problem(classes: int, shape: tuple[int, ...], seed: int) -> tuple[Linear, Tensor, Tensor]:
    """A linear model and 12 saturated images with margins well inside the box: (model, x, y)."""
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.tensor(shape).prod())
    model = Linear(torch.randn(classes, size, generator=generator) / size**0.5, torch.zeros(classes)).eval()
    x = saturated_images(12, shape, seed + 1)
    with torch.no_grad():
        return model, x, model(x).argmax(1)
