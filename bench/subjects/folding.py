"""A network traced and arranged for speed: batch norm folded into the convolution before it, weights channels last.

Modules and functions alike: `nn.BatchNorm2d` behind `nn.Conv2d`, `F.batch_norm` behind `F.conv2d`. Nobody here says
that what comes out is the same function: `bench.subjects.quick` compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy, deepcopy
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

PLAIN = (bool, int, float, str, tuple, list, dict, set)
Layer = TypeVar("Layer", bound=nn.Module)
CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
STATISTICS, AFFINE = ("running_mean", "running_var"), ("weight", "bias")
CONVOLUTIONS = {F.conv2d: CONVOLUTION, torch.ops.aten.conv2d.default: CONVOLUTION}
NORMS = {
    F.batch_norm: ("input", *STATISTICS, *AFFINE, "training", "momentum", "eps"),
    torch.ops.aten.batch_norm.default: ("input", *AFFINE, *STATISTICS, "training", "momentum", "eps", "cudnn_enabled"),
}
KEEPING_INPUT: tuple[type[nn.Module], ...] = (nn.SiLU, nn.Mish, nn.Hardswish)


def arranged(model: nn.Module, x: Tensor) -> nn.Module:
    """The copy, for images like x [N, C, H, W]. Its parameters want no gradient. Raises whatever tracing raises."""
    graph = traced(deepcopy(model).requires_grad_(False), x)
    fold(graph)
    _activate_out_of_place(graph)
    graph.requires_grad_(False)
    for parameter in graph.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return graph


def traced(model: nn.Module, x: Tensor) -> fx.GraphModule:
    """By torch.fx. What branches on a shape it cannot trace; torch.export can, but takes seconds, so it is asked only
    where there is a batch norm to fold. Raises what the first of them raises, or the second.
    """
    before = _attributes(model)
    try:
        graph = fx.symbolic_trace(model)
    except Exception:  # whatever a proxy meets in a user's forward pass
        if not any(isinstance(module, _BatchNorm) for module in model.modules()):
            raise
        two = x[:2] if len(x) > 1 else torch.cat([x, x])
        exported = torch.export.export(model, (two,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        graph = exported.module()
    else:
        graph.eval()
    if _attributes(model) != before:
        raise ValueError("its forward pass writes attributes, so one pass may not be as another")
    return graph


def fold(graph: fx.GraphModule) -> None:
    """Every batch norm in evaluation mode that follows a convolution whose output goes nowhere else, in place."""
    _drop_assertions(graph)
    for node in list(graph.graph.nodes):
        norm = _norm(graph, node)
        call = node.args[0] if norm and node.args else None
        if norm and isinstance(call, fx.Node) and len(call.users) == 1 and _replaced(graph, call, norm):
            node.replace_all_uses_with(call)
            graph.graph.erase_node(node)
    for node in reversed(graph.graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()


def _activate_out_of_place(graph: fx.GraphModule) -> None:
    """In place, these activations copy their input first, as their backward pass needs it. One whose input goes
    elsewhere too is left: what follows may count on its being changed.
    """
    for node in graph.graph.nodes:
        modules = [module for kind in KEEPING_INPUT if (module := _called(graph, node, kind)) is not None]
        if modules and node.args and isinstance(node.args[0], fx.Node) and len(node.args[0].users) == 1:
            graph.add_submodule(f"{node.name}_out_of_place", type(modules[0])(inplace=False).eval())
            node.target = f"{node.name}_out_of_place"
    graph.delete_all_unused_submodules()
    graph.recompile()


def _drop_assertions(graph: fx.GraphModule) -> None:
    """What only asks for a shape or a type, as timm's norms do: it would count as another user of what it asks."""
    for node in reversed(graph.graph.nodes):
        asks = node.target is getattr or getattr(node.target, "__module__", "") == "_operator"
        if node.op == "call_function" and (node.target is torch._assert or (asks and not node.users)):
            graph.graph.erase_node(node)


class _Norm(NamedTuple):
    mean: Tensor
    variance: Tensor
    scale: Tensor | None
    shift: Tensor | None
    eps: float


def _norm(graph: fx.GraphModule, node: fx.Node) -> _Norm | None:
    """The batch norm that a node is, with running statistics."""
    module = _called(graph, node, nn.BatchNorm2d)
    if module is not None and module.running_mean is not None and module.running_var is not None:
        return _Norm(module.running_mean, module.running_var, module.weight, module.bias, module.eps)
    given = _given(node, NORMS)
    mean, variance, scale, shift = (_value(graph, given.get(name)) for name in (*STATISTICS, *AFFINE))
    if given.get("training", False) is not False or mean is None or variance is None:
        return None
    known = [given.get("weight") is None or scale is not None, given.get("bias") is None or shift is not None]
    return _Norm(mean, variance, scale, shift, given.get("eps", 1e-5)) if all(known) else None


def _replaced(graph: fx.GraphModule, call: fx.Node, norm: _Norm) -> bool:
    """Whether the node is a convolution, which then has the norm in its weights: in new ones, as the old may be used
    again, with another norm or none.
    """
    module = _called(graph, call, nn.Conv2d)
    given = _given(call, CONVOLUTIONS)
    weight, bias = (given.get(name) for name in AFFINE)
    old = (module.weight, module.bias) if module is not None else (_value(graph, weight), _value(graph, bias))
    if old[0] is None or (module is None and bias is not None and old[1] is None):
        return False
    scale, shift = (
        given if given is not None else fill(norm.mean)
        for given, fill in ((norm.scale, torch.ones_like), (norm.shift, torch.zeros_like))
    )
    folded = fuse_conv_bn_weights(*old, norm.mean, norm.variance, norm.eps, scale, shift)  # type: ignore[arg-type]
    name = f"folded_{call.name}"
    if module is not None:
        again = deepcopy(module)
        again.weight, again.bias = folded
        graph.add_submodule(name, again)
        call.target = name
        return True
    with graph.graph.inserting_before(call):
        for part, value in zip(AFFINE, folded, strict=True):
            graph.register_parameter(f"{name}_{part}", value)
            given[part] = graph.graph.get_attr(f"{name}_{part}")
    call.args, call.kwargs = (), {}
    call.args = tuple(given.pop(name) for name in CONVOLUTION[:3])
    call.kwargs = given
    return True


def _called(graph: fx.GraphModule, node: fx.Node, kind: type[Layer]) -> Layer | None:
    """The module that a node of the graph calls, if it is of that kind and of no class derived from it."""
    if node.op != "call_module":
        return None
    module = graph.get_submodule(str(node.target))
    return module if isinstance(module, kind) and type(module) is kind else None


def _given(node: fx.Node, known: Mapping[Any, tuple[str, ...]]) -> dict[str, Any]:
    """The arguments by name of a node that calls one of the known functions; {} for others."""
    if node.op != "call_function" or node.target not in known:
        return {}
    return dict(zip(known[node.target], node.args, strict=False)) | dict(node.kwargs)


def _value(graph: fx.GraphModule, node: object) -> Tensor | None:
    """The weight or buffer that a node stands for."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = graph
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, Tensor) else None


def _attributes(model: nn.Module) -> list[Any]:
    """What a forward pass could leave in its modules: values that are plain, and which object any other is."""
    values = [value for module in model.modules() for name, value in vars(module).items() if name[0] != "_"]
    return [copy(value) if isinstance(value, PLAIN) else id(value) for value in values]
