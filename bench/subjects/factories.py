"""A user's own module:factory: found, imported, called by its signature. This runs the user's code, and says so.

Modules of the current folder are found, as by python -m. A factory is given what its signature asks for by name: the
image shape (C, H, W), its channels, its side, and the number of classes, under the names of `GIVEN`; those that it does
not ask for are not given. Two positional arguments of other names are (shape, classes). One that takes any keyword, as
torchvision's do, is given `num_classes`.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from bench.ground import terminal
from bench.ground.config import UserError

Shape = tuple[int, int, int]
SHAPES = ("shape", "image_shape", "input_shape", "in_shape")
CHANNELS = ("channels", "in_channels", "in_chans", "num_channels", "input_channels", "n_channels")
SIDES = ("image_size", "img_size")
CLASSES = ("classes", "num_classes", "n_classes", "nb_classes", "num_labels")
GIVEN = (*SHAPES, *CHANNELS, *SIDES, *CLASSES)


def from_factory(name: str, shape: Shape, classes: int, own_head: bool = False) -> nn.Module:
    """What module:factory makes. own_head: where it has a number of classes of its own, that is left. Raises
    UserError.
    """
    module, _, attribute = name.partition(":")
    load_module(name, module)
    return made_by(name, lambda: getattr(importlib.import_module(module), attribute), shape, classes, own_head)


def made_by(name: str, find: Callable[[], Any], shape: Shape, classes: int, own_head: bool = False) -> nn.Module:
    """What the factory that `find` returns makes; `name` is what sentences call it. Raises UserError."""
    try:
        model = _called(find(), shape, classes, own_head)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except Exception as error:  # whatever the user's code raises is the user's to read
        raise UserError(f"{name}: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{name} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def load_module(name: str, module: str) -> None:
    """Import the module of `name`, from the current folder or from where packages are installed. Raises UserError."""
    terminal.warn_once(f"running the code of {name}")
    if not all(part.isidentifier() for part in module.split(".")) or module.endswith(".py"):
        path = ".".join(part for part in module.removesuffix(".py").split("/") if part.isidentifier()) or "module"
        raise UserError(f"{name}: {module!r} is no module; write it as Python does, {path}:{name.partition(':')[2]}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()  # the file may be younger than this process
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if module != missing and not module.startswith(f"{missing}."):
            raise UserError(f"{name}: {module} needs the module {missing!r}, which is not installed") from error
        where = f"neither in the current folder ({Path.cwd()}) nor installed"
        raise UserError(f"{name}: there is no module {missing!r}, {where}") from error
    except Exception as error:  # whatever the user's code raises is the user's to read
        raise UserError(f"{name}: importing {module} raises {type(error).__name__}: {error}") from error


def _called(factory: Callable[..., Any], shape: Shape, classes: int, own_head: bool) -> Any:
    """The factory's model. Raises UserError for a signature that asks for what is not known."""
    takes = list(inspect.signature(factory).parameters.values())
    kinds = {one.kind for one in takes}
    plain = [one for one in takes if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    required = [one for one in plain if one.default is one.empty]
    known = [one for one in plain if one.name in GIVEN and one.kind is not one.POSITIONAL_ONLY]
    strange = [one for one in required if one not in known]
    if not known and (len(strange) == 2 or inspect.Parameter.VAR_POSITIONAL in kinds) and len(strange) <= 2:
        return factory(shape, classes)
    if strange:
        raise UserError(
            f"it asks for {', '.join(one.name for one in strange)}; a factory may ask for an image shape "
            f"({', '.join(SHAPES)}), its channels ({', '.join(CHANNELS)}), its side ({', '.join(SIDES)}) and the "
            f"number of classes ({', '.join(CLASSES)}), and gives all else a default"
        )
    values = {
        one.name: _value(one.name, shape, classes)
        for one in known
        if not (own_head and one.name in CLASSES and one.default is not one.empty)
    }
    open_to_any = inspect.Parameter.VAR_KEYWORD in kinds and not any(one.name in CLASSES for one in known)
    return _with_classes(factory, values, classes) if open_to_any and not own_head else factory(**values)


def _value(name: str, shape: Shape, classes: int) -> Any:
    """What an argument of that name is given."""
    if name in SHAPES:
        return shape
    if name in CHANNELS:
        return shape[0]
    if name in SIDES:
        return shape[1] if shape[1] == shape[2] else shape[1:]
    return classes


def _with_classes(factory: Callable[..., Any], given: dict[str, Any], classes: int) -> Any:
    """Of a factory that takes any keyword it is tried whether num_classes is one; another error is the user's."""
    try:
        return factory(**given, num_classes=classes)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error) or "num_classes" not in str(error):
            raise
    return factory(**given)
