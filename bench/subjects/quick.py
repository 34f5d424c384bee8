"""The quick copy: the network under attack arranged for speed. For attacks, never for verdicts.

The copy is made from a trace (`bench.subjects.folding`), and a trace is not the network: it does not see hooks,
gradients that are made up or held back, or a forward pass that somebody has replaced. So it counts only where it
answers like the network, and has its gradients, on some of the very images that are attacked and on the way from there
to noise; otherwise attacks run on the network itself.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType

import torch
from torch import Tensor, nn

from attacks.target import Precision, Target, default_batch_size, true_float32
from bench.ground import terminal
from bench.ground.config import first_line
from bench.subjects.compiled import Compiled
from bench.subjects.folding import arranged
from bench.subjects.same import ODD, ROUNDING, TURN, spread, weighed
from trainers.passes import Compile

SAMPLE = 8  # images that are compared, at most; a gradient is of one image for each share
SHARES = (0.0, 0.02, 0.2, 1.0)  # of the way from an image to noise: itself, near it, at the edge of a ball, anywhere
CONTAINERS = (dict, list, set)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Arrangement:
    """How a network is run for attacks.

    batch_size: images in a pass (None: as suits the device); no result depends on it but those of several draws.
    gradient_precision: of gradient passes, see `attacks.target.Target`. compile: "auto" compiles the passes of long
    attacks, see `bench.subjects.compiled`. These two round otherwise, so they are part of a record's id. draws: how
    often a model is asked that answers at random, by attacks and for verdicts (`bench.judge.draws`), also part of the
    id; None: it was not said, which is once and refused where answers move.
    """

    batch_size: int | None = None
    gradient_precision: Precision = "float32"
    compile: Compile = "off"
    draws: int | None = None

    @property
    def identity(self) -> dict[str, str | int]:
        """What of it an evaluation's id is hashed of."""
        found: dict[str, str | int] = {"gradient_precision": self.gradient_precision}
        found |= {} if self.compile == "off" else {"compile": self.compile}
        return found if self.times == 1 else found | {"draws": self.times}

    @property
    def times(self) -> int:
        """How often a model is asked."""
        return self.draws or 1

    def target(self, model: nn.Module, images: int) -> Target:
        """The model as an attack on that many images sees it, passes counted image by image."""
        return Target(model, self.batch_size, self.gradient_precision).counting(images)

    def over(self, target: Target, y: Tensor) -> Target:
        """The target of images of the labels y [N], asked as often as attacks are to ask it."""
        return target.over(self.times, y)

    def quick(self, model: nn.Module, x: Tensor) -> nn.Module:
        """What attacks on the images x [N, C, H, W] run on."""
        copy = quick(model, x)
        if self.compile == "off" or copy is model:
            return copy
        return Compiled(copy, min(self.batch_size or default_batch_size(x), len(x)))


AS_IT_IS = Arrangement()


def quick(model: nn.Module, x: Tensor) -> nn.Module:
    """What attacks on the images x [N, C, H, W] may run on: a quick copy, or the model itself, which is then said.

    Tried for every model in evaluation mode that has a convolution, anybody's. What a copy that is no copy raises is
    nobody's error. The parameters of the copy want no gradient.
    """
    if not len(x) or any(module.training for module in model.modules()) or not _gains(model):
        return model
    apart, copy = _unseen(model), model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if apart is None:
                copy = arranged(model, x)
                apart = _difference(model, copy, x)
    except Exception as error:  # whatever a trace, a fold or a pass raises
        apart = f"no copy can be made of it ({first_line(error)})"
    if apart is None:
        return copy
    terminal.warn_once(f"attacks run on the network itself, and not on a quicker copy: {apart}")
    return model


def _gains(model: nn.Module) -> bool:
    """Whether anything can be arranged: weights of a convolution."""
    return any(parameter.dim() == 4 for parameter in model.parameters())


def _unseen(model: nn.Module) -> str | None:
    """What a module carries that a trace does not see, in words."""
    for name, module in model.named_modules():
        here = f"its module {name}" if name else "it"
        if any(getattr(module, hooks) for hooks in HOOKS):
            return f"{here} has hooks"
        if "forward" in vars(module):
            return f"{here} has a forward pass of its own"
        if (shared := _shared(type(module))) is not None:
            return f"{here} has {shared}, which a trace would write into"
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is None:
            return f"{here} has no running statistics"
    return None


def _shared(kind: type) -> str | None:
    """A container that all networks of a user's class share and that its forward pass names, in words: an attribute of
    the class, or a global variable.
    """
    for function, name in _named(kind):
        if isinstance(inspect.getattr_static(kind, name, None), CONTAINERS):
            return f"{name} in its class"
        if isinstance(function.__globals__.get(name), CONTAINERS):
            return f"the global {name} in its forward pass"
    return None


def _named(kind: type) -> Iterator[tuple[FunctionType, str]]:
    """(function, a name in its code), over the forward pass, its own methods and functions that it calls; torch's and
    those of its libraries aside.
    """
    found, left = set(), [inspect.getattr_static(kind, "forward", None)]
    while left:
        function = left.pop()
        if not isinstance(function, FunctionType) or function in found or function.__module__.startswith("torch"):
            continue
        found.add(function)
        for name in function.__code__.co_names:
            yield function, name
            left += [inspect.getattr_static(kind, name, None), function.__globals__.get(name)]


def _difference(model: nn.Module, copy: nn.Module, x: Tensor) -> str | None:
    """What of the copy is not the model's on images x and on the way to noise, in words; None where nothing is."""
    some = x[torch.linspace(0, len(x) - 1, min(SAMPLE, len(x)), device=x.device).round().long()]
    noise = torch.rand(some.shape, generator=torch.Generator().manual_seed(0), dtype=some.dtype).to(some.device)
    targets, turned = [Target(network, SAMPLE) for network in (model, copy)], []
    for number, share in enumerate(SHARES):
        images = some + share * (noise - some)
        ours, theirs = (target.true_logits(images).double() for target in targets)
        if not (ours - theirs).abs().max() <= ROUNDING * spread(ours):
            return "its copy with folded batch norm has other logits"
        one = images[number % len(images)][None]
        with true_float32():
            slopes = [target.loss_grad(one, one, lambda logits, _: weighed(logits))[1].double() for target in targets]
        turned.append(not (slopes[0] - slopes[1]).norm() <= TURN * slopes[0].norm())
    return "its copy with folded batch norm has other gradients" if sum(turned) > ODD * len(turned) else None
