"""Somebody's model, in one pass: what it may be, what it is given, and every way to fail as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy


class ModelError(ValueError):
    """The model cannot be evaluated as it is: training mode, NaN, wrong shape of its output, an error that it raises,
    no gradient where one is asked for.
    """


def called(model: nn.Module, images: Tensor) -> Tensor:
    """The logits of a copy of the images: a model that writes into its input, as one that normalises in place, must not
    write into what an attack and the judge hold. Raises ModelError.
    """
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    given = images.double() if kinds == {torch.float64} != {images.dtype} else images.clone()
    hint = ""
    if kinds and images.dtype not in kinds:
        types = " and ".join(sorted(map(str, kinds)))
        hint = f" (weights are {types}, images {images.dtype}: call model.float(), or convert in its forward)"
    with in_words(f"the model fails on images {tuple(images.shape)}", hint):
        logits = model(given)
    return _checked(logits)


def slope_of(value: Tensor, variable: Tensor, slope: Tensor | None = None, retain: bool = False) -> Tensor:
    """The gradient of value (times slope), shaped like variable. Raises ModelError when autograd finds no way there."""
    if value.requires_grad:
        with in_words(f"the model cannot be differentiated on images {tuple(variable.shape)}"):
            (grad,) = torch.autograd.grad(value, variable, slope, retain_graph=retain, allow_unused=True)
        if grad is not None:
            return grad.clone() if 0 in grad.stride() else grad  # a sum's slope is one number: attacks write into it
    raise ModelError(
        "autograd finds no way from the logits to the image (a forward pass under no_grad, a detach, numpy), so no "
        "attack by gradients can be made; square and boundary need none"
    )


@contextmanager
def in_words(what: str, hint: str = "") -> Iterator[None]:
    """Whatever a model raises inside is a ModelError that begins with `what` and ends with `hint`; a lack of memory
    stays what it is.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ModelError) or (isinstance(error, RuntimeError) and out_of_memory(error)):
            raise
        words = (str(error).splitlines() or [""])[0]
        raise ModelError(f"{what}: {type(error).__name__}: {words}{hint}") from error


def out_of_memory(error: RuntimeError) -> bool:
    """Whether it is that; on a CPU torch raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def check_values(model: nn.Module) -> None:
    """Raises ModelError for weights that have no values yet."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        lazy = is_lazy(value)
        if lazy or value.is_meta:
            why = "of a lazy module; run one batch through it" if lazy else "on the device meta; load its weights"
            raise ModelError(f"the model's weights have no values yet: {name} is {why} before it is attacked")


def check_evaluating(model: nn.Module) -> None:
    """Raises ModelError for a model in training mode."""
    if in_training(model):
        when = "before torch.export" if any(map(_exported, model.modules())) else "first"
        raise ModelError(f"the model is in training mode, where batch statistics leak; call model.eval() {when}")


def in_training(module: nn.Module) -> bool:
    """Whether a module or one in it is in training mode. Of an exported program the flags say so whatever it was
    exported in, and cannot be changed; its operators know.
    """
    if _exported(module):
        return any(map(_trains, module.graph.nodes))
    return module.training or any(map(in_training, module.children()))


def _checked(logits: Tensor) -> Tensor:
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        got = logits.dtype if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ModelError(f"the model must return logits [B, K], a tensor of real numbers; it returned {got}")
    if logits.dim() != 2:
        raise ModelError(f"the model must return logits [B, K]; it returned shape {tuple(logits.shape)}")
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _exported(module: nn.Module) -> TypeGuard[fx.GraphModule]:
    """Whether this is a program of torch.export, whose own eval() refuses."""
    return isinstance(module, fx.GraphModule) and "eval" in vars(module)


def _trains(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else []
    return any(name in ("train", "training") and value is True for name, value in zip(names, node.args, strict=False))
