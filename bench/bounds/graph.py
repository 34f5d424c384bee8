"""A network as what bounds are made of: affine maps, sums and ReLUs, in the order in which they are computed.

Traced by torch.fx with batch norms folded (`bench.subjects.folding`), in float64: folding then rounds by 1e-16. What
was read is compared with the network itself. An operation that has no bounds here is refused by its name.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from bench.bounds.affine import Affine, Convolution, Dense, Mean, Reshape, Scale, Shape
from bench.ground.config import UserError, first_line
from bench.subjects.folding import fold, traced

SAME = 1e-6  # how far the logits of what was read may lie from the network's, in parts of the largest
KNOWN = "convolutions, linear layers, batch norms, ReLU, sums, average pooling, flattening and normalisation"
NAMES = {
    "Conv2d": "conv2d", "Linear": "linear", "ReLU": "relu", "relu_": "relu", "BatchNorm2d": "batch_norm",
    "AvgPool2d": "avg_pool2d", "AdaptiveAvgPool2d": "adaptive_avg_pool2d", "Flatten": "reshape", "flatten": "reshape",
    "view": "reshape", "_unsafe_view": "reshape", "Unflatten": "reshape", "unflatten": "reshape",
    "squeeze": "reshape", "unsqueeze": "reshape",
    "Identity": "same", "Dropout": "same", "Dropout2d": "same", "dropout": "same", "contiguous": "same",
    "iadd": "add", "add_": "add", "isub": "sub", "sub_": "sub", "imul": "mul", "mul_": "mul", "itruediv": "div",
    "truediv": "div", "div_": "div", "true_divide": "div",
}  # fmt: skip
IN_PLACE = {"relu_", "iadd", "add_", "isub", "sub_", "imul", "mul_", "itruediv", "div_"}
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "linear": ("input", "weight", "bias"),
    "avg_pool2d": ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "adaptive_avg_pool2d": ("input", "output_size"),
    "mean": ("input", "dim", "keepdim"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    "batch_norm.default": ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
}


@dataclass(frozen=True)
class Node:
    """One step. affine: of kind "affine" only. inputs: numbers of earlier nodes. shape: of one image's values."""

    kind: Literal["input", "affine", "relu", "sum"]
    inputs: tuple[int, ...]
    shape: Shape
    affine: Affine | None = None


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which each follows its inputs; the first is the image, the last are the logits [K]."""

    nodes: tuple[Node, ...]

    @property
    def last(self) -> int:
        return len(self.nodes) - 1

    @cached_property
    def relus(self) -> tuple[int, ...]:
        """The nodes that go into a ReLU, in order: whose signs are all that is not linear."""
        return tuple(sorted({node.inputs[0] for node in self.nodes if node.kind == "relu"}))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> logits [B, K]."""
        return self.values(x)[-1]

    def values(self, x: Tensor) -> list[Tensor]:
        """What each node computes of x."""
        values: list[Tensor] = []
        for node in self.nodes:
            given = [values[at] for at in node.inputs]
            if node.kind == "input":
                values.append(x)
            elif node.affine is not None:
                values.append(node.affine.forward(given[0]))
            else:
                values.append(given[0].relu() if node.kind == "relu" else given[0] + given[1])
        return values

    def to(self, dtype: torch.dtype) -> Graph:
        """The same in another precision."""
        return Graph(tuple(replace(n, affine=n.affine and n.affine.to(dtype)) for n in self.nodes))


def read(model: nn.Module, x: Tensor) -> Graph:
    """model: in evaluation mode, images x [N, C, H, W] -> logits [N, K]. The graph is in float64, on a CPU.

    Raises UserError that names the operation which has no bounds here, or what tracing met.
    """
    network = deepcopy(model).cpu().double().requires_grad_(False)
    some = x[:2].cpu().double()
    try:
        module = traced(network, some)
        fold(module)
        ShapeProp(module).propagate(some)
    except Exception as error:  # whatever a proxy meets in a user's forward pass
        raise UserError(
            f"no bounds: the network cannot be traced ({type(error).__name__}: {first_line(error)})"
        ) from error
    graph = _Reader(module).graph()
    wanted, got = network(some), graph.forward(some)
    if wanted.shape != got.shape or (wanted - got).abs().max() > SAME * wanted.abs().max().clamp(min=1.0):
        raise UserError("no bounds: the network computes something that its operations do not show")
    return graph


class _Reader:
    """torch.fx nodes -> ours. values: of each fx node the number of a node of ours, or a constant."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.values: dict[fx.Node, Any] = {}
        self.nodes: list[Node] = []

    def graph(self) -> Graph:
        for node in self.module.graph.nodes:
            if node.op == "output":
                last = node.args[0]
                last = last[0] if isinstance(last, tuple | list) else last
                return Graph(tuple(self.nodes[: self.values[last].at + 1]))
            self.values[node] = self._value(node)
        raise UserError("no bounds: the network has no output")

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._add("input", (), _shape(node))
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.module)
        given = [self.values[one] for one in node.all_input_nodes]
        if node.op != "call_module" and not any(isinstance(value, _At) for value in given):
            return self._constant(node)
        if node.target is getattr or node.target in ("size", "dim", "numel"):
            return self._constant(node, shapes=True)
        return self._operation(node)

    def _operation(self, node: fx.Node) -> _At:
        """A node that computes with the image."""
        module = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        raw = type(module).__name__ if module is not None else _name(node)
        name = NAMES.get(raw.partition(".")[0], raw.partition(".")[0])
        handle = getattr(self, f"_{ARITHMETIC.get(name, name)}", None) if name in OPERATIONS else None
        if handle is None:
            raise UserError(f"no bounds: the network has the operation {raw!r}; there are bounds for {KNOWN}")
        args = fx.node.map_arg(node.args, self.values.__getitem__)
        kwargs = fx.node.map_arg(dict(node.kwargs), self.values.__getitem__)
        names = ARGUMENTS.get(raw, ARGUMENTS.get(name, ("input", "other")))
        given = dict(zip(names, args, strict=False)) | kwargs | (_of_module(module) if module is not None else {})
        found: _At = handle(given, _shape(node))
        if raw.partition(".")[0] in IN_PLACE or given.get("inplace"):
            self.values |= {one: found for one in node.all_input_nodes[:1]}
        return found

    def _add(self, kind: Any, inputs: tuple[int, ...], shape: Shape, affine: Affine | None = None) -> _At:
        self.nodes.append(Node(kind, inputs, shape, affine))
        return _At(len(self.nodes) - 1)

    def _affine(self, given: dict[str, Any], shape: Shape, affine: Affine) -> _At:
        return self._add("affine", (given["input"].at,), shape, affine)

    def _constant(self, node: fx.Node, shapes: bool = False) -> Any:
        """What a node computes from constants, or from the shape of a value alone."""

        def known(one: fx.Node) -> Any:
            return torch.empty(one.meta["tensor_meta"].shape, device="meta") if shapes else self.values[one]

        args, kwargs = fx.node.map_arg(node.args, known), fx.node.map_arg(dict(node.kwargs), known)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _before(self, given: dict[str, Any]) -> Shape:
        return self.nodes[given["input"].at].shape

    def _same(self, given: dict[str, Any], shape: Shape) -> _At:
        found: _At = given["input"]
        return found

    def _relu(self, given: dict[str, Any], shape: Shape) -> _At:
        return self._add("relu", (given["input"].at,), shape)

    def _reshape(self, given: dict[str, Any], shape: Shape) -> _At:
        return self._affine(given, shape, Reshape(self._before(given), shape))

    def _linear(self, given: dict[str, Any], shape: Shape) -> _At:
        weight, bias = given["weight"], given.get("bias")
        if len(shape) != 1:
            raise UserError("no bounds: a linear layer is applied to values of more than one dimension")
        return self._affine(given, shape, Dense(weight, weight.new_zeros(len(weight)) if bias is None else bias))

    def _conv2d(self, given: dict[str, Any], shape: Shape) -> _At:
        weight, bias, padding = given["weight"], given.get("bias"), given.get("padding", 0)
        if isinstance(padding, str) or given.get("padding_mode", "zeros") != "zeros":
            raise UserError(f"no bounds: a convolution is padded by {padding!r}; give zeros, and their number")
        stride, dilation = _pair(given.get("stride", 1)), _pair(given.get("dilation", 1))
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        groups, before = given.get("groups", 1), self._before(given)
        return self._affine(given, shape, Convolution(weight, bias, stride, _pair(padding), dilation, groups, before))

    def _batch_norm(self, given: dict[str, Any], shape: Shape) -> _At:
        mean, variance = given["running_mean"], given["running_var"]
        if given.get("training") or mean is None or variance is None:
            raise UserError("no bounds: a batch norm takes its statistics from the batch")
        weight, bias = given.get("weight"), given.get("bias")
        factor = (1 if weight is None else weight) / (variance + given.get("eps", 1e-5)).sqrt()
        shift = (0 if bias is None else bias) - mean * factor
        over = (-1, *[1] * (len(shape) - 1))
        return self._affine(given, shape, Scale(factor.view(over), shift.view(over)))

    def _avg_pool2d(self, given: dict[str, Any], shape: Shape) -> _At:
        kernel, before = _pair(given["kernel_size"]), self._before(given)
        stride, padding = _pair(given.get("stride") or kernel), _pair(given.get("padding", 0))
        uneven = any(padding) and not given.get("count_include_pad", True)
        if given.get("ceil_mode") or uneven or given.get("divisor_override"):
            raise UserError("no bounds: an average pooling has ceil_mode, count_include_pad=False or a divisor")
        weight = torch.full((before[0], 1, *kernel), 1 / (kernel[0] * kernel[1]), dtype=torch.float64)
        zeros = weight.new_zeros(before[0])
        return self._affine(given, shape, Convolution(weight, zeros, stride, padding, (1, 1), before[0], before))

    def _adaptive_avg_pool2d(self, given: dict[str, Any], shape: Shape) -> _At:
        before, after = self._before(given), shape[1:]
        if after == (1, 1):
            return self._affine(given, shape, Mean(before, keep=True))
        if before[1] % after[0] or before[2] % after[1]:
            raise UserError(f"no bounds: an adaptive average pooling takes {before[1:]} to {after}, which overlap")
        return self._avg_pool2d(
            {"input": given["input"], "kernel_size": (before[1] // after[0], before[2] // after[1])}, shape
        )

    def _mean(self, given: dict[str, Any], shape: Shape) -> _At:
        before, dims = self._before(given), given.get("dim", ())
        if len(before) != 3 or {dim % 4 for dim in (dims if isinstance(dims, Sequence) else [dims])} != {2, 3}:
            raise UserError("no bounds: a mean over anything but rows and columns")
        return self._affine(given, shape, Mean(before, keep=len(shape) == 3))

    def _plus(self, given: dict[str, Any], shape: Shape, sign: int = 1) -> _At:
        one, other = given["input"], given["other"]
        if isinstance(one, _At) and isinstance(other, _At):
            if self.nodes[one.at].shape != shape or self.nodes[other.at].shape != shape:
                raise UserError("no bounds: a sum of values of different shapes")
            if sign < 0:
                other = self._scaled(other, shape, -1.0, 0.0)
            return self._add("sum", (one.at, other.at), shape)
        if isinstance(one, _At):
            return self._scaled(one, shape, 1.0, sign * other)
        return self._scaled(other, shape, float(sign), one)

    def _minus(self, given: dict[str, Any], shape: Shape) -> _At:
        return self._plus(given, shape, -1)

    def _times(self, given: dict[str, Any], shape: Shape) -> _At:
        one, other = given["input"], given["other"]
        if isinstance(one, _At) and isinstance(other, _At):
            raise UserError(f"no bounds: the network multiplies two values; there are bounds for {KNOWN}")
        return self._scaled(one, shape, other, 0.0) if isinstance(one, _At) else self._scaled(other, shape, one, 0.0)

    def _over(self, given: dict[str, Any], shape: Shape) -> _At:
        if isinstance(given["other"], _At):
            raise UserError(f"no bounds: the network divides by a value; there are bounds for {KNOWN}")
        return self._scaled(given["input"], shape, 1 / given["other"], 0.0)

    def _scaled(self, value: _At, shape: Shape, factor: Any, shift: Any) -> _At:
        if self.nodes[value.at].shape != shape:
            raise UserError("no bounds: a constant changes the shape of what it is added to")
        both = [_per_image(one, shape) for one in (factor, shift)]
        return self._add("affine", (value.at,), shape, Scale(*both))


@dataclass(frozen=True)
class _At:
    """The number of a node of ours."""

    at: int


OPERATIONS = {
    "same", "relu", "reshape", "linear", "conv2d", "batch_norm", "avg_pool2d", "adaptive_avg_pool2d", "mean",
    "add", "sub", "mul", "div",
}  # fmt: skip
ARITHMETIC = {"add": "plus", "sub": "minus", "mul": "times", "div": "over"}


def _name(node: fx.Node) -> str:
    """What is called: "conv2d", "conv2d.default", "add"."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _shape(node: fx.Node) -> Shape:
    """Of one image's values."""
    meta: Any = node.meta.get("tensor_meta")
    if not hasattr(meta, "shape"):
        raise UserError(f"no bounds: the operation {_name(node)!r} returns no tensor")
    return tuple(meta.shape[1:])


def _of_module(module: nn.Module) -> dict[str, Any]:
    """What a layer is called with beside its input."""
    return {name: value for name, value in vars(module).items() if name[0] != "_" and name != "training"} | dict(
        [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    )


def _pair(value: Any) -> tuple[int, int]:
    both = (value, value) if isinstance(value, int) else tuple(value)
    return (both[0], both[-1])


def _per_image(value: Any, shape: Shape) -> Tensor:
    """A constant that broadcasts over batches, as one that does over an image's values."""
    constant = torch.as_tensor(value, dtype=torch.float64)
    if constant.dim() > len(shape):
        if constant.shape[0] != 1:
            raise UserError("no bounds: a constant that differs from image to image")
        constant = constant[0]
    return constant.expand(shape) if constant.dim() == len(shape) else constant
