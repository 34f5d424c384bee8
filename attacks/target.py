"""Target: the model under attack, and the only place that runs the network for an attack.

It cuts any number of images into batches that suit the device, counts every pass, and keeps verdicts in float32 when
gradients are computed in bfloat16. An attack never sees a batch: its results cannot depend on the batch size. So a
batch that the device's memory does not hold is halved, and nothing else changes.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attacks.losses import Loss, margin
from attacks.model import called, check_evaluating, check_values, out_of_memory, slope_of
from attacks.scale import Scales

Precision = Literal["float32", "bfloat16"]
Render = Callable[[Tensor, slice], Tensor]
T = TypeVar("T")

FORWARD, BACKWARD = 0, 1
CPU_BATCH_VALUES = 1 << 18  # image values a batch: activations of small networks stay in the processor's cache
GPU_BATCH_VALUES = 1 << 22


class Target:
    """A model in evaluation mode, as an attack sees it.

    model: [B, C, H, W] in [0, 1] -> logits [B, K]; normalisation is inside. Its weights, buffers and mode are only
    read. Where its weights are float64 it is given the same images in float64. batch_size: images per pass (default: by
    image size and device). gradient_precision: "bfloat16" runs the gradient passes in mixed precision; `confirm` and
    `logits` stay in float32. allow_training: training methods that attack with batch-norm in training mode say so;
    everywhere else a model in training mode is refused. quick: the same function arranged for speed, equal up to
    rounding; attacks run on it, and `confirm` on the model. Raises ModelError.
    """

    def __init__(
        self,
        model: nn.Module,
        batch_size: int | None = None,
        gradient_precision: Precision = "float32",
        allow_training: bool = False,
        quick: nn.Module | None = None,
    ) -> None:
        check_values(model)
        if not allow_training:
            check_evaluating(model)
        self.model, self.quick = model, model if quick is None else quick
        self.batch_size = batch_size
        self._fits = [sys.maxsize]  # images that the memory was found to hold in one pass; shared with every view
        self.gradient_precision: Precision = gradient_precision
        self._rows: Tensor | None = None
        self._passes = [0, 0]  # FORWARD, BACKWARD; shared with every view
        self._per_image: Tensor | None = None
        self._fooled_by: Tensor | None = None  # shared with every view
        self._scales: Scales | None = None  # shared with every view
        self._at_work: list[int | None] = [None]  # shared with every view
        self._draws, self._labels = 1, torch.empty(0, dtype=torch.int64)

    @property
    def forward_passes(self) -> int:
        """Images that went forward through the model so far."""
        return self._passes[FORWARD]

    @property
    def backward_passes(self) -> int:
        """Images that went backward through the model so far."""
        return self._passes[BACKWARD]

    @property
    def draws(self) -> int:
        """How often the model is asked in a pass, see `over`."""
        return self._draws

    @property
    def at_work(self) -> int | None:
        """Images in the attack's last pass: those that have not left it. None before the first."""
        return self._at_work[0]

    def counting(self, images: int) -> Target:
        """The same target, keeping counts image by image for `images` images; see `passes_per_image`. It `follows`."""
        view = copy.copy(self)
        view._rows = torch.arange(images)
        view._per_image = torch.zeros(2, images, dtype=torch.int64)
        view._fooled_by = torch.full((images,), -1)
        view._scales = Scales(images)
        return view

    def following(self, images: int) -> Target:
        """The same target for `images` images, shown at an ordinary scale of their logits; see `attacks.scale`."""
        if self._scales is not None:
            return self
        view = copy.copy(self)
        view._rows, view._scales = torch.arange(images), Scales(images)
        return view

    def over(self, draws: int, y: Tensor) -> Target:
        """The same target for images of the labels y [N], asked so many times in every pass: for models that answer at
        random. Losses and gradients are means over the draws (expectation over transformation, Athalye et al. 2018,
        https://arxiv.org/abs/1802.00420, section 4.2); logits are those of the draw that is farthest from a wrong
        answer, so that an image which looks fooled fooled every draw. A model whose answers do not move gives the same
        bits as without. What runs the model by itself (`module`) sees single draws.
        """
        if draws == 1:
            return self
        view = copy.copy(self if self._rows is not None else self.following(len(y)))
        view._draws, view._labels = draws, y.cpu()
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

    def credit(self, part: int, fooled: Tensor) -> None:
        """An ensemble says which of its parts fooled which of these images: fooled [N] bool."""
        if self._fooled_by is not None and self._rows is not None:
            self._fooled_by[self._rows[fooled.cpu()]] = part

    @property
    def fooled_by(self) -> Tensor:
        """[images] int64: the part of an ensemble that fooled each image since `counting`; -1 where none said so."""
        assert self._fooled_by is not None, "counting() was not called"
        return self._fooled_by

    def logits(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> logits [N, K] float32, without gradients; see `_narrowed`."""
        self._at_work[0] = len(x)
        return _narrowed(self._forward(self.quick, x), x)

    def true_logits(self, x: Tensor) -> Tensor:
        """The logits of the model itself, at their own scale, for verdicts; in float64 where it returns that."""
        return self._forward(self.model, x, shown=False)

    def _forward(self, model: nn.Module, x: Tensor, shown: bool = True) -> Tensor:
        if len(x) == 0:
            return torch.empty(0, 1, device=x.device)

        def run(rows: slice) -> Tensor:
            with torch.no_grad(), true_float32():
                found = [called(model, x[rows]) for _ in range(self._draws)]
            return self._safest([self._seen(logits, rows) for logits in found] if shown else found, rows)

        parts = []
        for rows, logits in self._batches(x, run):
            self._count(rows, FORWARD)
            parts.append(logits)
        return torch.cat(parts)

    def gradients(
        self, x: Tensor, y: Tensor, loss: Loss, render: Render | None = None
    ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """One forward and one backward pass, batch by batch: (rows, loss [b], gradient like x[rows], logits [b, K]).

        y: what the loss compares the logits with, one row per image. render: for attacks on latent variables,
        (x[rows], rows) -> images; the gradient is then with respect to x. The caller may overwrite x[rows] as soon as
        it is yielded: an update right away finds the batch still in the processor's cache. Raises ModelError.
        """

        def run(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
            seen = []

            def draw() -> tuple[Tensor, Tensor]:
                variable = x[rows].detach().requires_grad_(True)
                with torch.enable_grad(), self._mixed(x.device):
                    image = variable if render is None else render(variable, rows)
                    logits = _narrowed(called(self.quick, image), x)
                with torch.enable_grad():
                    logits = self._seen(logits, rows)
                    value = loss(logits, y[rows])
                    grad = slope_of(value.sum(), variable)
                seen.append(logits.detach())
                return value.detach(), grad

            return *self._mean(draw), self._safest(seen, rows)

        self._at_work[0] = len(x)
        for rows, found in self._batches(x, run):
            self._count(rows, FORWARD, BACKWARD)
            yield rows, *found

    def loss_grad(
        self, x: Tensor, y: Tensor, loss: Loss, render: Render | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`gradients` for all images at once: loss [N], gradient like x, logits [N, K]."""
        parts = [part[1:] for part in self.gradients(x, y, loss, render)]
        value, grad, logits = (torch.cat(column) for column in zip(*parts, strict=True))
        return value, grad, logits

    def margin_gradients(self, x: Tensor, y: Tensor, classes: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Margins z_k - z_y to many classes and their gradients: one forward pass, one backward pass for each class.

        y [N], classes [N, m] int64. Batch by batch: (rows, margins [b, m], gradients [b, m, C, H, W]).
        """

        def run(rows: slice) -> tuple[Tensor, Tensor]:
            variable = x[rows].detach().requires_grad_(True)
            with torch.enable_grad(), self._mixed(x.device):
                logits = _narrowed(called(_again_and_again(self.quick), variable), x)
            with torch.enable_grad():
                logits = self._seen(logits, rows)
                margins = logits.gather(1, classes[rows]) - logits.gather(1, y[rows, None])
                sums = margins.sum(0).unbind()
                last = len(sums) - 1
                grads = [slope_of(s, variable, retain=k < last) for k, s in enumerate(sums)]
            return margins.detach(), torch.stack(grads, 1)

        def mean(rows: slice) -> tuple[Tensor, Tensor]:
            return self._mean(partial(run, rows))

        self._at_work[0] = len(x)
        for rows, found in self._batches(x, mean):
            self._count(rows, FORWARD, *[BACKWARD] * classes.shape[1])
            yield rows, *found

    def confirm(self, suspects: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Of the images that look fooled ([N] bool), those that fool the model itself, in float32: [N] bool."""
        if (self.gradient_precision == "float32" and self.quick is self.model) or not suspects.any():
            return suspects
        fooled = suspects.clone()
        fooled[suspects] = self[suspects].true_logits(x[suspects]).argmax(1) != y[suspects]
        return fooled

    def module(self) -> nn.Module:
        """The model for code that runs it by itself, such as an attack library: see `_Counted`."""
        view = copy.copy(self)
        view._draws = 1
        return _Counted(view).eval()

    def _batches(self, x: Tensor, run: Callable[[slice], T]) -> Iterator[tuple[slice, T]]:
        """(rows, run(rows)) batch by batch. One that the memory does not hold is halved, and so are the later ones."""
        size, first = self.batch_size or default_batch_size(x), 0
        while first < len(x):
            rows = slice(first, min(first + min(size, self._fits[0]), len(x)))
            try:
                found = run(rows)
            except RuntimeError as error:
                if rows.stop - rows.start == 1 or not out_of_memory(error):
                    raise
                found = None
            if found is None:  # outside of the except, which keeps what the batch had allocated
                self._fits[0] = (rows.stop - rows.start) // 2
                if x.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            first = rows.stop
            yield rows, found

    def _mixed(self, device: torch.device) -> AbstractContextManager[object]:
        if self.gradient_precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    def _seen(self, logits: Tensor, rows: slice) -> Tensor:
        """The logits of these rows as an attack sees them."""
        if self._scales is None or self._rows is None:
            return logits
        return self._scales.show(logits, self._rows[rows])

    def _mean(self, draw: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Two tensors, each the mean over the draws; equal ones keep their bits."""
        first, second = draw()
        for number in range(2, self._draws + 1):
            one, other = draw()
            first, second = _towards(first, one, number), _towards(second, other, number)
        return first, second

    def _safest(self, draws: list[Tensor], rows: slice) -> Tensor:
        """Of several logits [b, K] of these rows, image by image, those that are farthest from a wrong answer."""
        if len(draws) == 1 or self._rows is None:
            return draws[0]
        y, every = self._labels[self._rows[rows]].to(draws[0].device), torch.stack(draws)
        safest = torch.stack([margin(logits, y) for logits in draws]).argmin(0)
        return every[safest, torch.arange(len(y), device=y.device)]

    def _count(self, rows: slice, *kinds: int) -> None:
        for kind in kinds:
            self._passes[kind] += self._draws * (rows.stop - rows.start)
            if self._per_image is not None and self._rows is not None:
                images = self._rows[rows]
                self._per_image[kind].index_add_(0, images, torch.full_like(images, self._draws))


class _Counted(nn.Module):
    """A Target as a module in evaluation mode: images [B, C, H, W] -> logits [B, K], in float32 or what it is given.

    The model is not a submodule: nobody reaches its weights, its mode or its gradients through this one, whose only
    parameter is empty and tells device and type. Every call and every gradient is counted: on the target's images in
    turn, so exactly where it has one image or is called with all of them. Gradients are never in mixed precision, and
    the logits are a copy, which the caller may overwrite.
    """

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target
        like = next((p for p in target.model.parameters() if p.is_floating_point()), torch.empty(0))
        self.place = nn.Parameter(like.new_empty(0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        target = self.target
        if target._rows is not None:
            target = target[torch.arange(len(x)) % max(1, len(target._rows))]
        differentiated = torch.is_grad_enabled() and x.requires_grad
        logits: Tensor = _Pass.apply(x, target) if differentiated else target._forward(target.quick, x)
        return logits.to(x.dtype)


class _Pass(torch.autograd.Function):
    """One pass of a Target as a single node of autograd: gradients reach the images and stop there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Target) -> Tensor:
        with torch.enable_grad():
            variable = x.detach().requires_grad_(True)
            logits = target._seen(called(_again_and_again(target.quick), variable), slice(0, len(x)))
        target._count(slice(0, len(x)), FORWARD)
        ctx.target, ctx.variable, ctx.logits = target, variable, logits
        return logits.detach().clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        grad = slope_of(ctx.logits, ctx.variable, slope, retain=True)
        ctx.target._count(slice(0, len(grad)), BACKWARD)
        return grad, None


@contextmanager
def true_float32() -> Iterator[None]:
    """On GPUs torch lets convolutions round float32 to 10 bits (TF32) unless told otherwise; a verdict does not."""
    backends: Any = torch.backends
    places = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "ieee"
    try:
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def default_batch_size(x: Tensor) -> int:
    """Images of x's shape in one pass: as many as keep the device busy, between 16 and 1024."""
    values = CPU_BATCH_VALUES if x.device.type == "cpu" else GPU_BATCH_VALUES
    return int(min(1024, max(16, values // max(1, x.shape[1:].numel()))))


def _again_and_again(quick: nn.Module) -> nn.Module:
    """What several backward passes can go through after one forward pass: compiled code reuses what the first read, so
    a quick copy that compiles says what it was `before_compiling`.
    """
    before: nn.Module = getattr(quick, "before_compiling", quick)
    return before


def _towards(mean: Tensor, new: Tensor, number: int) -> Tensor:
    """The mean of so many, of which all but the last have this mean; where the last is equal, to the last bit."""
    return mean + ((new - mean) / number).masked_fill(new == mean, 0)


def _narrowed(logits: Tensor, x: Tensor) -> Tensor:
    """Logits in float64 for images in float32 become float32, each row without its largest: no loss of ours sees a
    common shift, and in float32 the rest would drown in it. Others come back as they are.
    """
    if logits.dtype == x.dtype or logits.dtype != torch.float64:
        return logits
    return (logits - logits.detach().amax(1, keepdim=True)).to(x.dtype)
