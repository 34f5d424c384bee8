"""The code of a model of one's own, in one hash: what the weights do not say of which model it is.

Hashed are: the name of its factory; the source of the factory's module, of the classes of the network's modules, and
of what these import from the user's own files; of each module its class and what it carries beside its weights
(attributes, hooks, functions with what they enclose). Torch and this suite count by the names and settings of their
layers. Where a class has no source, the logits on fixed images stand in, to two digits.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks.target import Target
from bench.ground.config import UserError
from bench.subjects.blank import Blank

OURS = ("attacks", "bench", "trainers")
KNOWN = ("torch", *OURS)  # whose code the name and the settings of a layer say
DEEPEST = 6  # nested attributes
IMAGES, DIGITS = 8, 2
INSTALLED = {"site-packages", "dist-packages"}
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def code_sha256(network: nn.Module, factories: Iterable[str], shape: tuple[int, int, int]) -> str:
    """SHA-256 of the code of a network on the CPU. factories: the module:factory names that made it."""
    digest, names = hashlib.sha256(), list(factories)
    modules = {name.partition(":")[0] for name in names}
    sourceless = False
    for name, module in network.named_modules():
        classes = [kind for kind in type(module).__mro__ if _top(kind.__module__) not in (*KNOWN, "builtins", "typing")]
        modules |= {kind.__module__ for kind in classes}
        said = [name, *(f"{kind.__module__}.{kind.__qualname__}" for kind in classes), *_carried(module)]
        digest.update(json.dumps(said, sort_keys=True).encode())
        sourceless |= not all(_has_source(kind) for kind in classes)
    digest.update(_sources(modules))
    digest.update(json.dumps(names).encode())
    if sourceless:
        digest.update(_answers(network, shape))
    return digest.hexdigest()


def source_sha256(*modules: str) -> str:
    """SHA-256 of the source of imported modules, and of what they have of the user's own files."""
    return hashlib.sha256(_sources(set(modules))).hexdigest()


def _sources(modules: set[str]) -> bytes:
    """The text and the constants of these modules, and of those of the user's own that they have something of."""
    return "".join(f"{name}:{_source(name)}:{_constants(name)}" for name in sorted(_reached(modules))).encode()


def _carried(module: nn.Module) -> list[str]:
    """What one module is beside its weights and its submodules."""
    inside = {"_parameters", "_buffers", "_modules", "training"}
    known = _top(type(module).__module__) in KNOWN
    said = [type(module).__qualname__, module.extra_repr() if known else ""]
    for key, value in sorted(vars(module).items()):
        hooks = key.endswith("hooks")
        if key in inside or (known and not hooks and not callable(value)):
            continue
        said.append(f"{key}={_described(list(value.values()) if hooks and isinstance(value, dict) else value)}")
    if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):  # whose class says nothing
        with suppress(RuntimeError, AttributeError):  # one without a forward pass
            said.append(str(module.code))
    return said


def _described(value: Any, depth: int = 0) -> str:
    """A value in words that another process would find too: no addresses, no order of a set."""
    deeper = partial(_described, depth=depth + 1)
    if depth > DEEPEST:
        return "..."
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, Tensor | np.ndarray):
        content = value.detach().cpu().float().numpy() if isinstance(value, Tensor) else value
        return f"{tuple(content.shape)} {hashlib.sha256(np.ascontiguousarray(content).tobytes()).hexdigest()}"
    if isinstance(value, dict):
        return str(sorted(f"{deeper(key)}: {deeper(one)}" for key, one in value.items()))
    if isinstance(value, list | tuple):
        return str([deeper(one) for one in value])
    if isinstance(value, set | frozenset):
        return str(sorted(map(deeper, value)))
    if isinstance(value, MethodType):
        return f"{value.__func__.__qualname__} {deeper(value.__func__)}"
    if isinstance(value, FunctionType):
        enclosed = [_cell(cell) for cell in value.__closure__ or ()]
        return f"{value.__qualname__} {_instructions(value.__code__)} {deeper([value.__defaults__, enclosed])}"
    if isinstance(value, partial):
        return f"partial {deeper([value.func, value.args, value.keywords])}"
    if isinstance(value, type | ModuleType | BuiltinFunctionType):
        return str(getattr(value, "__qualname__", value.__name__))
    own = {} if isinstance(value, nn.Module) else getattr(value, "__dict__", {})
    return f"{type(value).__module__}.{type(value).__qualname__} {deeper(own)}"


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _instructions(code: Any) -> str:
    """Of a function and the functions in it."""
    inner = [_instructions(one) if hasattr(one, "co_code") else repr(one) for one in code.co_consts]
    return hashlib.sha256(f"{code.co_code.hex()}{code.co_names}{inner}".encode()).hexdigest()


def _reached(modules: set[str]) -> set[str]:
    """These modules, and those of the user's own that they have something of."""
    tops, found, left = {_top(name) for name in modules}, set[str](), list(modules)
    while left:
        name = left.pop()
        if name in found or name not in sys.modules:
            continue
        found.add(name)
        left += [other for other in _named_in(sys.modules[name]) if _own(other, tops)]
    return found


def _named_in(module: ModuleType) -> Iterator[str]:
    """The modules that what a module holds comes from."""
    for value in list(vars(module).values()):
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str):
            yield name


def _own(name: str, tops: set[str]) -> bool:
    """Whether a module is of the same package as these, or lies outside of where packages are installed."""
    top = _top(name)
    if top in tops:
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    if top in KNOWN or file is None:
        return False
    if INSTALLED & set(Path(file).parts):  # also those of a user, or of the interpreter below a virtual environment
        return False
    return not any(Path(file).is_relative_to(folder) for folder in _folders())


@cache
def _folders() -> set[Path]:
    """Where Python and its packages lie."""
    return {Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}


def _source(module: str) -> str:
    """The text of a module; "" where there is none."""
    try:
        return inspect.getsource(sys.modules[module])
    except (OSError, TypeError, KeyError):
        return ""


def _has_source(kind: type) -> bool:
    try:
        return bool(inspect.getsource(kind))
    except (OSError, TypeError):
        return False


def _constants(module: str) -> str:
    """The numbers and names that a module holds, which a variable of the environment may have set."""
    held = vars(sys.modules[module]).items()
    return str(sorted((name, repr(value)) for name, value in held if isinstance(value, PLAIN) and name[:2] != "__"))


def _answers(network: nn.Module, shape: tuple[int, int, int]) -> bytes:
    """The logits on fixed images, to two digits of the largest. Raises UserError."""
    x = torch.rand(IMAGES, *shape, generator=torch.Generator().manual_seed(0))
    try:
        logits = Target(Blank(network).fresh()).true_logits(x).double()
    except ValueError as error:
        raise UserError(f"its code has no source, and it cannot be asked: {error}") from error
    largest = logits.abs().amax().clamp_min(torch.finfo(torch.float64).tiny)
    return str((logits / largest).round(decimals=DIGITS).tolist()).encode()


def _top(module: str) -> str:
    return module.partition(".")[0]
