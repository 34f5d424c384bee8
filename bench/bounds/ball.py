"""The images that an attack may make of x: a ball in a norm, cut to [0, 1]; and linear functions over it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ball:
    """x [B, C, H, W] in [0, 1]. radius: in image units."""

    norm: Literal["Linf", "L2"]
    radius: float
    x: Tensor

    @cached_property
    def box(self) -> tuple[Tensor, Tensor]:
        """The least and the largest value of each pixel, [B, C, H, W] twice."""
        return (self.x - self.radius).clamp(min=0.0), (self.x + self.radius).clamp(max=1.0)

    def least(self, rows: Tensor) -> Tensor:
        """rows [B, S, C, H, W] -> the least value of each linear function, [B, S]; in L2 a value that is at most that.

        Linf: the ball within [0, 1] is a box, and the value is exact. L2: the larger of the value over the ball and
        that over the box around it.
        """
        low, high = (side.flatten(1).unsqueeze(2) for side in self.box)
        flat = rows.flatten(2)
        in_box = (flat @ ((low + high) / 2) - flat.abs() @ ((high - low) / 2)).squeeze(2)
        if self.norm == "Linf":
            return in_box
        at_x = (flat @ self.x.flatten(1).unsqueeze(2)).squeeze(2)
        return torch.maximum(at_x - self.radius * flat.norm(dim=2), in_box)

    def lowest(self, rows: Tensor) -> Tensor:
        """rows [B, C, H, W] -> images of the ball [B, C, H, W] where the linear functions are low; in Linf lowest."""
        low, high = self.box
        if self.norm == "Linf":
            return torch.where(rows > 0, low, high)
        steps = rows / rows.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1, 1)
        return (self.x - self.radius * steps).clamp(0.0, 1.0)

    def __getitem__(self, rows: Tensor | slice) -> Ball:
        return Ball(self.norm, self.radius, self.x[rows])

    def to(self, dtype: torch.dtype) -> Ball:
        """The same in another precision."""
        return Ball(self.norm, self.radius, self.x.to(dtype))
