"""The affine maps that networks are made of: forward, with absolute weights, and transposed.

Everything is per image: x [B, *shape of one image's input]. Rows of linear functions are [B, S, *shape]: S functions
for each of B images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

Shape = tuple[int, ...]
Pair = tuple[int, int]


class Affine(Protocol):
    """x -> W x + b."""

    @property
    def terms(self) -> int:
        """How many products are summed into one value, at most; with it rounding is bounded."""
        ...

    def forward(self, x: Tensor) -> Tensor:
        """x [B, *in] -> W x + b [B, *out]."""
        ...

    def spread(self, x: Tensor) -> Tensor:
        """x [B, *in], not negative -> |W| x [B, *out]."""
        ...

    def offset(self) -> Tensor:
        """|b|, in a shape that broadcasts over [B, *out]."""
        ...

    def back(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows [B, S, *out] -> rows W [B, S, *in], and rows b [B, S]."""
        ...

    def to(self, dtype: torch.dtype) -> Affine:
        """The same in another precision."""
        ...


@dataclass(frozen=True)
class Dense:
    """A linear layer. weight [out, in], bias [out]."""

    weight: Tensor
    bias: Tensor

    @property
    def terms(self) -> int:
        return self.weight.shape[1] + 1

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def spread(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.abs())

    def offset(self) -> Tensor:
        return self.bias.abs()

    def back(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows @ self.weight, rows @ self.bias

    def to(self, dtype: torch.dtype) -> Dense:
        return Dense(self.weight.to(dtype), self.bias.to(dtype))


@dataclass(frozen=True)
class Convolution:
    """A two-dimensional convolution, padded with zeros. weight [out, in / groups, h, w], bias [out]. shape: of one
    input.
    """

    weight: Tensor
    bias: Tensor
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    shape: Shape

    @property
    def terms(self) -> int:
        return math.prod(self.weight.shape[1:]) + 1

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def spread(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.abs(), None, self.stride, self.padding, self.dilation, self.groups)

    def offset(self) -> Tensor:
        return self.bias.abs().view(-1, 1, 1)

    def back(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        count = rows.shape[:2]
        if rows.dtype == torch.float64:  # half the time of the transposed convolution, which in float32 is the faster
            flat = rows.flatten(0, 1)
            back = conv2d_input(
                (len(flat), *self.shape), self.weight, flat, self.stride, self.padding, self.dilation, self.groups
            )
            return back.view(*count, *self.shape), rows.sum((3, 4)) @ self.bias
        back = F.conv_transpose2d(
            rows.flatten(0, 1), self.weight, None, self.stride, self.padding, self._rest(rows), self.groups,
            self.dilation,
        )  # fmt: skip
        return back.view(*count, *self.shape), rows.sum((3, 4)) @ self.bias

    def _rest(self, rows: Tensor) -> list[int]:
        """Rows and columns of the input that the last stride does not reach."""
        sides = zip(self.shape[1:], rows.shape[3:], self.weight.shape[2:], strict=True)
        return [
            side - ((out - 1) * self.stride[i] - 2 * self.padding[i] + self.dilation[i] * (kernel - 1) + 1)
            for i, (side, out, kernel) in enumerate(sides)
        ]

    def to(self, dtype: torch.dtype) -> Convolution:
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return Convolution(weight, bias, self.stride, self.padding, self.dilation, self.groups, self.shape)


@dataclass(frozen=True)
class Scale:
    """Every value on its own: normalisation, batch norm. factor, shift: they broadcast over one image's values."""

    factor: Tensor
    shift: Tensor

    @property
    def terms(self) -> int:
        return 4  # a batch norm also takes a root and divides

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.shift

    def spread(self, x: Tensor) -> Tensor:
        return x * self.factor.abs()

    def offset(self) -> Tensor:
        return self.shift.abs()

    def back(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows * self.factor, (rows * self.shift).flatten(2).sum(2)

    def to(self, dtype: torch.dtype) -> Scale:
        return Scale(self.factor.to(dtype), self.shift.to(dtype))


@dataclass(frozen=True)
class Reshape:
    """The same values in another shape."""

    before: Shape
    after: Shape

    @property
    def terms(self) -> int:
        return 0

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.after)

    def spread(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def offset(self) -> Tensor:
        return torch.zeros(())

    def back(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows.reshape(*rows.shape[:2], *self.before), rows.new_zeros(rows.shape[:2])

    def to(self, dtype: torch.dtype) -> Reshape:
        return self


@dataclass(frozen=True)
class Mean:
    """Of each channel [C, H, W], over all places. keep: whether what comes out is [C, 1, 1] and not [C]."""

    shape: Shape
    keep: bool

    @property
    def terms(self) -> int:
        return math.prod(self.shape[1:]) + 1

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=self.keep)

    def spread(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def offset(self) -> Tensor:
        return torch.zeros(())

    def back(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        share = rows.reshape(*rows.shape[:3], 1, 1) / math.prod(self.shape[1:])
        return share.expand(*rows.shape[:2], *self.shape), rows.new_zeros(rows.shape[:2])

    def to(self, dtype: torch.dtype) -> Mean:
        return self
