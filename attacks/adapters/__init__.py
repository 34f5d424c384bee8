"""Attacks of other libraries behind our contract: foolbox, torchattacks, pyautoattack.

No library is imported before an attack of it is built or called. A library sees float32 images in contiguous memory
and `Target.module()`: the model with its weights and its mode out of reach, and every pass counted. Its random numbers
are seeded from the images' noise, and what it changes for the whole process (random states, tracing) is put back.

A library draws its random numbers for a batch, and some of its decisions are for a whole batch too. So it is given one
image at a time (`batch = 1`), and an image does not see the others; docs/attacks.md has what that costs. A larger batch
is faster, and its result for an image then depends on which images it shares a batch with, and on their order.

What comes back is cut off at 0 and 1. An exception of the library, another shape or NaN is a LibraryError, never a
clean image; only minimal-norm attacks may find nothing, and then the image is returned as it was.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks.decision import fooled
from attacks.model import ModelError
from attacks.noise import Noise, derive_seed
from attacks.target import Target

BEYOND = 1e-3, 1e-2  # shares of its distance by which an image too close to the boundary goes further
Setting = float | int | str | bool
Run = Callable[[nn.Module, Tensor, Tensor, int], Tensor]


class LibraryError(RuntimeError):
    """An attack of a library crashed, or returned something that is no image."""


def run_in_batches(
    who: str, batch: int, run: Run, target: Target, x: Tensor, y: Tensor, noise: Noise, closest: bool = False
) -> Tensor:
    """x [N, C, H, W], y [N] -> x_adv [N, C, H, W], `batch` images at a time through `run`.

    who: library and attack, for messages. run: (model, x, y, seed) -> images like x, which may be changed in place.
    closest: of the images that came back, those that fool the model are returned, and x itself for the others.
    Raises LibraryError.
    """
    x_adv = x.clone()
    for first in range(0, len(x), batch):
        rows = slice(first, first + batch)
        given = x[rows].detach().float().contiguous()
        seed = derive_seed(noise.seed, *noise.ids[rows].tolist())
        with _isolated(seed):
            try:
                found = run(target[rows].module(), given.clone(), y[rows].clone(), seed)
            except ModelError:
                raise
            except Exception as error:  # whatever a library raises; the cell fails, with the reason in its sentence
                ids = ", ".join(str(name) for name in noise.ids[rows][:5].tolist())
                raise LibraryError(f"{who} failed on image {ids}: {type(error).__name__}: {error}") from error
        x_adv[rows] = _checked(who, x[rows], given, found, closest)
    return _fooling(target, x, x_adv, y) if closest and len(x) else x_adv


def library(module: str) -> Any:
    """A module of a library, imported now. Raises ValueError where the library is not installed."""
    name = module.partition(".")[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != name:  # the library is there, but something that it needs is not
            raise
        raise ValueError(f"{name} is not installed; `pip install {name}` adds its attacks") from error


def choose(owner: str, name: str, known: Iterable[str]) -> str:
    """`name` if the library, `owner`, has it. Raises ValueError with the nearest name and the number of names."""
    names = {each.lower(): each for each in known}
    if name in names.values():
        return name
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f"; did you mean {names[close[0]]!r}?" if close else "."
    raise ValueError(f"{owner} has no attack {name!r} that runs here{hint} It has {len(names)} that do")


def arguments(who: str, cls: type, settings: Mapping[str, Setting], ours: Iterable[str]) -> dict[str, Any]:
    """The settings as arguments of the class; "2/255" is a number. Raises ValueError for those it does not take.

    ours: arguments that this package sets itself.
    """
    known = [name for name in inspect.signature(cls).parameters if name not in {"model", "args", "kwargs", *ours}]
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise ValueError(f"{who} has no setting {unknown[0]!r} to choose; it has: {', '.join(known) or 'none'}")
    return {name: _number(value) for name, value in settings.items()}


def _number(value: Setting) -> Setting:
    is_fraction = isinstance(value, str) and re.fullmatch(r"\s*\d+\s*/\s*\d+\s*", value)
    return float(Fraction(value.replace(" ", ""))) if is_fraction else value  # type: ignore[union-attr]


def _checked(who: str, x: Tensor, given: Tensor, found: Any, closest: bool) -> Tensor:
    """What a library found for `given` (x in float32) as images like x; values that it left alone stay exactly x's."""
    if not isinstance(found, Tensor) or found.shape != given.shape:
        raise LibraryError(f"{who} returned {getattr(found, 'shape', type(found).__name__)} for {tuple(x.shape)}")
    found = found.detach().to(given)
    broken = ~torch.isfinite(found).flatten(1).all(1)
    if broken.any() and not closest:
        raise LibraryError(f"{who} returned NaN or infinity on {int(broken.sum())} of {len(x)} images")
    found[broken] = given[broken]
    return torch.where(found == given, x, found.clamp(0, 1).to(x))


def _fooling(target: Target, x: Tensor, found: Tensor, y: Tensor) -> Tensor:
    """found where it fools the model and no rounding could undo that, x elsewhere; all [N, C, H, W].

    Attacks that walk along the boundary end on images that fool in one batch and not in another: those go a little
    further.
    """
    x_adv, place = x.clone(), torch.arange(len(x), device=x.device)
    for share in (0, *BEYOND):
        here = x[place]
        trial = (found[place] + share * (found[place] - here)).clamp(0, 1)
        hit = fooled(target[place], trial, y[place])
        x_adv[place[hit]] = trial[hit]
        place = place[~hit]
        if len(place) == 0:
            break
    return x_adv


@contextmanager
def _isolated(seed: int) -> Iterator[None]:
    """Seeds every global generator and makes float32 the default type, and afterwards restores these and the trace
    function.

    Deprecations that a library's own calls meet are not the user's.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    states, trace, kind = (random.getstate(), np.random.get_state()), sys.gettrace(), torch.get_default_dtype()
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            torch.set_default_dtype(torch.float32)
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_default_dtype(kind)
            sys.settrace(trace)
