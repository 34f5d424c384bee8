"""Architectures by name, for any image size and class count: images in [0, 1] -> logits, normalisation inside.

CNN-A: Dathathri et al. 2020 (https://arxiv.org/abs/2010.11645), the layers of the published checkpoints. ResNet-8/20:
He et al. 2016 (https://arxiv.org/abs/1512.03385, section 4.2, with 1x1 convolutions as shortcuts). ResNet-18: the
same paper with a 3x3 stem and no max-pool, as CIFAR code has it. Pre-activation ResNet-18: He et al. 2016
(https://arxiv.org/abs/1603.05027). WRN: Zagoruyko & Komodakis 2016 (https://arxiv.org/abs/1605.07146), without the
unused block that the WRN of TRADES and its descendants carries.

Initial weights: ResNet-18 and pre-activation ResNet-18 have torch's, as in the code of Rice, MART, ACT, ARD and CAT;
the WRNs have He's, as in that of TRADES and its descendants, and so have the others, by our choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.model import ModelError, check_values
from bench.ground.config import UserError, choose
from bench.subjects import factories, hubs, outside
from bench.subjects.code import source_sha256
from bench.subjects.normalization import Statistics
from bench.subjects.outputs import with_logits

Shape = tuple[int, int, int]


class Assumed(NamedTuple):
    """A (mean, std) for weights files that hold none of their own."""

    mean: Sequence[float]
    std: Sequence[float]


class Normalize(nn.Module):
    """(x - mean) / std per channel; mean and std are buffers, so they travel with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _conv(inside: int, outside: int, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """conv-bn-relu-conv-bn + shortcut, then relu."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inside, outside, stride), nn.BatchNorm2d(outside)
        self.conv2, self.bn2 = _conv(outside, outside), nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(_conv(inside, outside, stride, 1), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class PreActBlock(nn.Module):
    """bn-relu-conv-bn-relu-conv + shortcut; where the shape changes, the shortcut starts after the first bn-relu."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inside), _conv(inside, outside, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outside), _conv(outside, outside)
        same = stride == 1 and inside == outside
        self.shortcut = None if same else _conv(inside, outside, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        short = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + short


class ResNet(nn.Module):
    """Stem, stages of blocks, global average, linear. Only the first block of a later stage halves the image."""

    def __init__(
        self,
        block: Callable[[int, int, int], nn.Module],
        stem: int,
        widths: Sequence[int],
        depths: Sequence[int],
        shape: Shape,
        classes: int,
        preactivation: bool,
    ) -> None:
        super().__init__()
        self.stem = _conv(shape[0], stem)
        self.stem_bn = None if preactivation else nn.BatchNorm2d(stem)
        blocks: list[nn.Module] = []
        inside = stem
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for index in range(depth):
                blocks.append(block(inside, width, 2 if stage and index == 0 else 1))
                inside = width
        self.blocks = nn.Sequential(*blocks)
        self.last_bn = nn.BatchNorm2d(inside) if preactivation else None
        self.linear = nn.Linear(inside, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.stem_bn is not None:
            x = F.relu(self.stem_bn(x))
        x = self.blocks(x)
        if self.last_bn is not None:
            x = F.relu(self.last_bn(x))
        return self.linear(x.mean((2, 3)))


class Ensemble(nn.Module):
    """Several networks as one: the logarithm of the mean of their probabilities [B, K]."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        logs = torch.stack([F.log_softmax(network(x.clone()), 1) for network in self.networks])  # one may write into it
        return logs.logsumexp(0) - math.log(len(self.networks))


def ensemble_state(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The state of the Ensemble of networks with these states."""
    return {f"networks.{n}.{name}": value for n, state in enumerate(states) for name, value in state.items()}


def he_normal(model: nn.Module) -> nn.Module:
    """The model with its convolutions drawn from N(0, 2 / fan-out), biases 0 (He et al. 2015,
    https://arxiv.org/abs/1502.01852); linear layers keep torch's own.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # there, torch would load its compiler: 2 s
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def cnn_small(shape: Shape, classes: int) -> nn.Module:
    """Four small convolutions with batch norm and a linear layer, for 8x8 digits: trains in seconds on a CPU.

    Without batch norm about one adversarial training in ten never left the plateau of a constant output.
    """
    channels, height, width = shape
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((channels, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    features = 64 * ((height + 1) // 2) * ((width + 1) // 2)
    return he_normal(nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, classes)))


def cnn_a(shape: Shape, classes: int) -> nn.Module:
    """CNN-A: two strided convolutions and two linear layers, the layers of the published certified checkpoints."""
    channels, height, width = shape
    return he_normal(nn.Sequential(
        nn.Conv2d(channels, 16, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * (height // 4) * (width // 4), 100), nn.ReLU(), nn.Linear(100, classes),
    ))  # fmt: skip


def resnet8(shape: Shape, classes: int) -> nn.Module:
    """ResNet-8 (6n + 2, n = 1; widths 16, 32, 64)."""
    return he_normal(ResNet(BasicBlock, 16, (16, 32, 64), (1, 1, 1), shape, classes, preactivation=False))


def resnet20(shape: Shape, classes: int) -> nn.Module:
    """ResNet-20 (6n + 2, n = 3; widths 16, 32, 64)."""
    return he_normal(ResNet(BasicBlock, 16, (16, 32, 64), (3, 3, 3), shape, classes, preactivation=False))


def resnet18(shape: Shape, classes: int) -> nn.Module:
    """ResNet-18 with a 3x3 stem and no max-pool."""
    return ResNet(BasicBlock, 64, (64, 128, 256, 512), (2, 2, 2, 2), shape, classes, preactivation=False)


def preact_resnet18(shape: Shape, classes: int) -> nn.Module:
    """Pre-activation ResNet-18 with a final batch norm."""
    return ResNet(PreActBlock, 64, (64, 128, 256, 512), (2, 2, 2, 2), shape, classes, preactivation=True)


def wrn_28_10(shape: Shape, classes: int) -> nn.Module:
    """Wide ResNet 28-10."""
    return he_normal(ResNet(PreActBlock, 16, (160, 320, 640), (4, 4, 4), shape, classes, preactivation=True))


def wrn_34_10(shape: Shape, classes: int) -> nn.Module:
    """Wide ResNet 34-10."""
    return he_normal(ResNet(PreActBlock, 16, (160, 320, 640), (5, 5, 5), shape, classes, preactivation=True))


MODELS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "cnn-small": cnn_small,
    "cnn-a": cnn_a,
    "resnet8": resnet8,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "preact-resnet18": preact_resnet18,
    "wrn-28-10": wrn_28_10,
    "wrn-34-10": wrn_34_10,
}
# 1 for the others; goes up when a change of the code changes what networks start from or compute: new ids
VERSIONS = {"resnet18": 2, "preact-resnet18": 2}


def create(
    name: str,
    shape: Shape,
    classes: int,
    seed: int | None = None,
    normalize: Statistics | None = None,
    own_head: bool = False,
) -> nn.Module:
    """A freshly initialised network in evaluation mode: [B, *shape] in [0, 1] -> logits [B, classes].

    name: an entry of MODELS, a library's ("torchvision:resnet18", see `hubs`) or module:factory, or several joined by
    "+": their Ensemble. seed: of the initial weights; the global random state is untouched. normalize: (mean, std) per
    channel, made the first module. own_head: a factory with its own number of classes keeps it. Raises UserError.
    """
    check_name(name)
    if "+" in name:
        parts = enumerate(name.split("+"))
        made = [create(part, shape, classes, None if seed is None else seed + n) for n, part in parts]
        return _evaluating(with_normalization(Ensemble(made), shape, normalize))
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs too
        make = partial(_made, name, shape, classes, own_head)
        model = make()
        if ":" in name and torch.get_default_device().type != "meta":
            model = with_logits(model, name, shape, make)
    return _evaluating(with_normalization(model, shape, normalize))


def _made(name: str, shape: Shape, classes: int, own_head: bool) -> nn.Module:
    """One network by its name, every weight of it with values of its own. Raises UserError."""
    if is_own(name):
        model = factories.from_factory(name, shape, classes, own_head)
    else:
        model = _known(name, shape, classes, own_head)
    _materialise(model, name, shape)
    _unfold(model)
    return model


def _known(name: str, shape: Shape, classes: int, own_head: bool) -> nn.Module:
    """One of a library, of an installed package, or of ours. Raises UserError."""
    if ":" in name:
        return hubs.create(name, shape, classes)
    found = outside.find("model", name, MODELS, "models")
    if not found.code:
        return MODELS[name](shape, classes)
    return factories.made_by(found.words, lambda: found.thing, shape, classes, own_head)


def is_own(name: str) -> bool:
    """Whether a part of a name is a module:factory of the user's own, whose code runs."""
    return any(":" in part and not hubs.is_hub(part) for part in name.split("+"))


def check_name(name: str) -> str:
    """The name, if it is an entry of MODELS or of a library, has the form module:factory, or is several of these.
    Raises UserError.
    """
    for part in name.split("+"):
        if hubs.is_hub(part):
            hubs.check(part)
        elif ":" not in part:
            choose(part, outside.known("model", MODELS), "model")
    return name


def versions(names: Sequence[str]) -> dict[str, int | str]:
    """Those of these architectures, also several joined by "+", whose version is not 1, and of a user's own and those
    of a package a hash of their code: part of a training's id. Raises UserError for a module that cannot be imported.
    """
    parts = sorted({part for name in names for part in name.split("+")})
    ours: dict[str, int | str] = {part: VERSIONS[part] for part in parts if part in VERSIONS}
    return ours | {part: _code_of(part) for part in parts if is_own(part)} | of_packages(names)


def of_packages(names: Sequence[str]) -> dict[str, str]:
    """Those of these architectures that an installed package brings -> the package, its version and a hash of their
    code. Raises UserError for a package that is broken.
    """
    parts = {part for name in names for part in name.split("+") if outside.is_outside("model", part, MODELS)}
    return {part: outside.find("model", part, MODELS, "models").code for part in sorted(parts)}


def _code_of(name: str) -> str:
    """8 digits of the SHA-256 of the source behind module:factory, which is imported."""
    module = name.partition(":")[0]
    factories.load_module(name, module)
    return source_sha256(module)[:8]


def with_normalization(model: nn.Module, shape: Shape, normalize: Statistics | None) -> nn.Module:
    """The model with (mean, std) as its first module, or itself. Raises UserError for the wrong number of values."""
    if normalize is None:
        return model
    if not all(len(values) == shape[0] for values in normalize):
        raise UserError(f"mean and std must have {shape[0]} values each for images {shape}; got {normalize}")
    return in_front(Normalize(*normalize), model)


def in_front(first: nn.Module, model: nn.Module) -> nn.Module:
    """The two as one, in the mode of the model: one that was exported cannot be told another."""
    both = nn.Sequential(first, model)
    first.training = both.training = model.training
    return both


def _materialise(model: nn.Module, name: str, shape: Shape) -> None:
    """Lazy layers get their shapes, and so their initial weights, from one grey image. Raises UserError, also for
    weights that have no values for another reason.
    """
    if any(nn.parameter.is_lazy(value) for value in (*model.parameters(), *model.buffers())):
        try:
            with torch.no_grad():
                model.eval()(torch.full((1, *shape), 0.5))
        except Exception as error:  # whatever the user's code raises is the user's to read
            words = f"{type(error).__name__}: {error}"
            raise UserError(f"{name}: its lazy layers fail on an image {shape}: {words}") from error
    if torch.get_default_device().type == "meta":  # only the shapes are asked for
        return
    try:
        check_values(model)
    except ModelError as error:
        raise UserError(f"{name}: {error}") from error


def _unfold(model: nn.Module) -> None:
    """Expanded buffers get memory for each of their values: nothing can be loaded into those, or averaged in them."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.numel() > 1 and 0 in buffer.stride():
                setattr(module, name, buffer.contiguous())


def _evaluating(model: nn.Module) -> nn.Module:
    """The model in evaluation mode. An exported program cannot change its mode; `Target` looks at what it was."""
    with suppress(NotImplementedError):
        model.eval()
    return model
