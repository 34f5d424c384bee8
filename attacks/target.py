"""Target: the model under attack, and the only place that runs the network for an attack.

It cuts any number of images into batches that suit the device, counts every pass, and keeps verdicts in float32 when
gradients are computed in bfloat16. An attack never sees a batch: its results cannot depend on the batch size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from attacks.losses import Loss

Precision = Literal["float32", "bfloat16"]
Render = Callable[[Tensor, slice], Tensor]

CPU_BATCH_VALUES = 1 << 18  # image values a batch: activations of small networks stay in the processor's cache
GPU_BATCH_VALUES = 1 << 22


class ModelError(ValueError):
    """The model cannot be evaluated as it is: training mode, NaN, wrong shape of its output."""


class Target:
    """A model in evaluation mode, as an attack sees it.

    model: [B, C, H, W] in [0, 1] -> logits [B, K]; normalisation is inside. Its weights, buffers and mode are only
    read. batch_size: images per pass (default: by image size and device). gradient_precision: "bfloat16" runs the
    gradient passes in mixed precision; `confirm` and `logits` stay in float32. allow_training: training methods that
    attack with batch-norm in training mode say so; everywhere else a model in training mode is refused.
    Raises ModelError.
    """

    def __init__(
        self,
        model: nn.Module,
        batch_size: int | None = None,
        gradient_precision: Precision = "float32",
        allow_training: bool = False,
    ) -> None:
        if not allow_training and any(module.training for module in model.modules()):
            raise ModelError("the model is in training mode, where batch statistics leak; call model.eval() first")
        self.model = model
        self.batch_size = batch_size
        self.gradient_precision: Precision = gradient_precision
        self._rows: Tensor | None = None
        self._passes: dict[str, int] = {"forward": 0, "backward": 0}
        self._per_image: Tensor | None = None

    @property
    def forward_passes(self) -> int:
        """Images that went forward through the model so far."""
        return self._passes["forward"]

    @property
    def backward_passes(self) -> int:
        """Images that went backward through the model so far."""
        return self._passes["backward"]

    def counting(self, images: int) -> Target:
        """The same target, keeping counts image by image for `images` images; see `passes_per_image`."""
        view = copy.copy(self)
        view._rows = torch.arange(images)
        view._per_image = torch.zeros(2, images, dtype=torch.int64)
        return view

    def __getitem__(self, rows: Tensor | slice) -> Target:
        """The same target for some of the images (mask, indices or slice): counts go to the right images."""
        if self._rows is None:
            return self
        view = copy.copy(self)
        view._rows = self._rows[rows if isinstance(rows, slice) else rows.cpu()]
        return view

    @property
    def passes_per_image(self) -> Tensor:
        """[2, images] int64: forward and backward passes of each image since `counting`."""
        assert self._per_image is not None, "counting() was not called"
        return self._per_image

    def logits(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> logits [N, K] float32, without gradients."""
        if len(x) == 0:
            return torch.empty(0, 1, device=x.device)
        with torch.no_grad():
            parts = []
            for rows in self._batches(x):
                parts.append(_checked(self.model(x[rows])))
                self._count(rows, backward=False)
        return torch.cat(parts)

    def gradients(
        self, x: Tensor, y: Tensor, loss: Loss, render: Render | None = None
    ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """One forward and one backward pass, batch by batch: (rows, loss [b], gradient like x[rows], logits [b, K]).

        y: what the loss compares the logits with, one row per image. render: for attacks on latent variables,
        (x[rows], rows) -> images; the gradient is then with respect to x. The caller may overwrite x[rows] as soon as
        it is yielded: an update right away finds the batch still in the processor's cache.
        """
        for rows in self._batches(x):
            variable = x[rows].detach().requires_grad_(True)
            with torch.enable_grad(), self._mixed(x.device):
                image = variable if render is None else render(variable, rows)
                logits = _checked(self.model(image))
            with torch.enable_grad():
                value = loss(logits, y[rows])
                (grad,) = torch.autograd.grad(value.sum(), variable)
            self._count(rows, backward=True)
            yield rows, value.detach(), grad, logits.detach()

    def loss_grad(
        self, x: Tensor, y: Tensor, loss: Loss, render: Render | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`gradients` for all images at once: loss [N], gradient like x, logits [N, K]."""
        parts = [part[1:] for part in self.gradients(x, y, loss, render)]
        value, grad, logits = (torch.cat(column) for column in zip(*parts, strict=True))
        return value, grad, logits

    def confirm(self, suspects: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Of the images that look fooled ([N] bool), those that are fooled in float32: [N] bool."""
        if self.gradient_precision == "float32" or not suspects.any():
            return suspects
        fooled = suspects.clone()
        fooled[suspects] = self[suspects].logits(x[suspects]).argmax(1) != y[suspects]
        return fooled

    def _batches(self, x: Tensor) -> Iterator[slice]:
        size = self.batch_size or default_batch_size(x)
        for first in range(0, len(x), size):
            yield slice(first, min(first + size, len(x)))

    def _mixed(self, device: torch.device) -> AbstractContextManager[object]:
        if self.gradient_precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    def _count(self, rows: slice, backward: bool) -> None:
        images = rows.stop - rows.start
        self._passes["forward"] += images
        self._passes["backward"] += images if backward else 0
        if self._per_image is not None and self._rows is not None:
            self._per_image[: 2 if backward else 1, self._rows[rows]] += 1


def default_batch_size(x: Tensor) -> int:
    """Images of x's shape in one pass: as many as keep the device busy, between 16 and 1024."""
    values = CPU_BATCH_VALUES if x.device.type == "cpu" else GPU_BATCH_VALUES
    return int(min(1024, max(16, values // max(1, x.shape[1:].numel()))))


def _checked(logits: Tensor) -> Tensor:
    if logits.dim() != 2:
        raise ModelError(f"the model must return logits [B, K]; it returned shape {tuple(logits.shape)}")
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
