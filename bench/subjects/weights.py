"""Weights files, ours and other people's: safetensors, or torch files of plain tensors. Nothing here runs code.

Common wrappers ("state_dict", "model", "net", ...), prefixes ("module.", "model.") and the keys of two families are
mapped to ours: the WRN of TRADES and its descendants (tensors that their forward pass never uses, `sub_block1`, are
left out), and the ResNets and PreActResNets of CIFAR code and of torchvision (`conv1`, `layer1.0.shortcut.0`, or
`downsample.0`). A file that holds its normalisation as a first module (keys "0.mean", "0.std", then "1...." for the
network, or as other libraries hold it) keeps it. Of a file with several networks, such as weights and their average,
the one that is taken is said. Its head may have more classes than are wanted, where `labels` say which are meant.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from bench.ground import terminal
from bench.ground.config import UserError, check_depth, first_line
from bench.ground.plain import read_plain
from bench.subjects import models
from bench.subjects.outputs import Labels, Mapped, unwrapped

# of a file with several networks the first of these is taken: the plain weights before their average
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "ema", "best", "last")
AVERAGES = ("state_dict_ema", "ema_state_dict", "model_ema", "net_ema", "ema_model", "averaged", "swa")
PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.")
REAL = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8}
REAL |= {torch.int8, torch.int16, torch.int32, torch.int64, torch.float8_e4m3fn, torch.float8_e5m2}
UNUSED = re.compile(r"(^|\.)sub_block1\.|num_batches_tracked$")
CONSTANT = re.compile(r"^((normalize\.)?(mean|std)|mu|sigma)$")
# how files hold a normalisation: its mean, its deviation, and what the names of the network begin with
NORMALISATIONS = (
    ("0.mean", "0.std", "1."), ("normalize.mean", "normalize.std", "model."), ("mu", "sigma", ""), ("mean", "std", ""),
)  # fmt: skip
COLUMNS = "columns"
BLOCK = re.compile(r"(?:block(\d{1,4})\.layer|layer(\d{1,4}))\.(\d{1,4})\.(.+)")


def from_weights(
    path: Path,
    arch: str,
    shape: models.Shape,
    classes: int,
    normalize: models.Statistics | None = None,
    sha256: str | None = None,
    key: str | None = None,
    labels: Labels | None = None,
) -> nn.Module:
    """The architecture with the file's weights, in evaluation mode.

    normalize: (mean, std) to put in front of what holds none; Assumed is left out where the file holds one. sha256:
    what the file must hash to. key: where in the file the weights lie, such as "state_dict_ema". labels: for each of
    the classes its places in the file's head, which may be a larger one. Raises UserError: missing, truncated or
    altered file, a pickle that is more than weights, keys that do not fit.
    """
    state = read_weights(Path(path), sha256, key)
    model = _unfilled(arch, shape, classes)
    own = _wanted(model, arch, state)
    state = _unprefixed(state, own)
    state, held = _normalised(path, state, own)
    if held is not None and normalize is not None and not isinstance(normalize, models.Assumed):
        raise UserError(f"{path} holds its own normalisation; leave out --mean and --std, --normalization and --range")
    state, labels = _mapped(path, state, classes, labels)
    head, mapped = _head_of(state, own, classes), labels is not None
    if mapped and head != classes:
        model = _unfilled(arch, shape, head)
        own = _wanted(model, arch, state)
    wrong = f"{path} does not fit {arch} with images {shape} and {classes} classes"
    fitted = _fit(state, own, wrong, None if mapped or head == classes else head)
    model = model if ":" in arch else models.create(arch, shape, head)
    unwrapped(model).load_state_dict(fitted, strict=False)
    model = model if labels is None else Mapped(model, labels)
    return models.with_normalization(model, shape, held or normalize).eval()


def _unfilled(arch: str, shape: models.Shape, classes: int) -> nn.Module:
    """The architecture; of ours nothing is allocated, before it is known that the file fits: it may be terabytes."""
    with torch.device("cpu" if ":" in arch else "meta"):
        return models.create(arch, shape, classes)


def _wanted(model: nn.Module, arch: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors by name, but for the constants that RobustBench's normalise by, which a file may lack."""
    own = unwrapped(model).state_dict()
    zoo = arch.startswith("robustbench:")
    return {name: value for name, value in own.items() if name in state or not (zoo and CONSTANT.search(name))}


def _normalised(
    path: Path, state: dict[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], models.Statistics | None]:
    """The network's own tensors, and the normalisation that the file holds beside them where the network has no place
    for it. Raises UserError.
    """
    for mean, std, prefix in NORMALISATIONS:
        if {mean, std} <= set(state) and mean not in own:
            left = {name.removeprefix(prefix): value for name, value in state.items() if name not in (mean, std)}
            return _unprefixed(left, own), _normalisation(path, state[mean], state[std])
    return state, None


def _mapped(
    path: Path, state: dict[str, Tensor], classes: int, labels: Labels | None
) -> tuple[dict[str, Tensor], Labels | None]:
    """The network's own tensors, and the labels: those given, or those that the file holds. Raises UserError."""
    columns = state.get(COLUMNS)
    if columns is None or not all(name == COLUMNS or name.startswith("network.") for name in state):
        return state, labels
    if labels is not None:
        raise UserError(f"{path} holds which of its classes are meant; leave out --labels")
    if columns.dtype != torch.int64 or columns.dim() != 2 or len(columns) != classes or int(columns.min()) < 0:
        raise UserError(f"{path}: its {COLUMNS} say for no {classes} classes which of the head's they are")
    return {name.removeprefix("network."): value for name, value in state.items() if name != COLUMNS}, columns.tolist()


def _head_of(state: Mapping[str, Tensor], own: Mapping[str, Tensor], classes: int) -> int:
    """How many classes the file's head has, where that is all that does not fit; else `classes`."""
    renamed = _our_names(_unprefixed(state, own), own)
    pairs = [(tuple(renamed[name].shape), tuple(value.shape)) for name, value in own.items() if name in renamed]
    unlike = [(theirs, ours) for theirs, ours in pairs if theirs != ours]
    heads = {theirs[0] for theirs, _ in unlike if theirs}
    fits = all(theirs[1:] == ours[1:] and ours[:1] == (classes,) for theirs, ours in unlike)
    return heads.pop() if fits and len(heads) == 1 else classes


def read_weights(path: Path, sha256: str | None = None, key: str | None = None) -> dict[str, Tensor]:
    """name -> tensor, dense and of real numbers. Raises UserError."""
    try:
        content = read_plain(path)
    except OSError as error:
        raise UserError(f"cannot read weights {path}: {error.strerror or error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if sha256 is not None and digest != sha256:
        raise UserError(
            f"{path} is not the file that was registered (SHA-256 {digest[:12]}..., recorded {sha256[:12]}...): it was "
            "truncated or altered; delete its run and train again"
        )
    state = _chosen(path, _loaded(path, content), key)
    for name, value in state.items():
        if not _is_plain(value):
            raise UserError(f"{path}: {name} is no plain tensor of real numbers, and weights are")
    return state


def _is_plain(value: Tensor) -> bool:
    """Whether it is dense, in memory, and of real numbers. The layout first: of others nothing else can be asked."""
    if value.layout != torch.strided or value.device.type != "cpu" or type(value) not in (Tensor, nn.Parameter):
        return False
    return not (value.is_quantized or value.is_nested) and value.dtype in REAL


def _loaded(path: Path, content: bytes) -> Any:
    """What the file holds. Raises UserError."""
    if path.suffix == ".safetensors":
        try:
            return load_safetensors(content)
        except SafetensorError as error:
            raise UserError(f"{path} is not a whole safetensors file ({error})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what it cannot read, which is refused below in our words
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        check_depth(loaded)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not plain weights: it holds Python objects, which run code when loaded, or is damaged; "
            "save model.state_dict() and try again"
        ) from error
    except Exception as error:  # a damaged file breaks torch's reader anywhere
        raise UserError(f"{path} cannot be read as weights ({first_line(error)})") from error
    return loaded


def _chosen(path: Path, loaded: Any, key: str | None) -> dict[str, Tensor]:
    """The network that `key` names, or the first of WRAPPERS; of several it is said. Raises UserError."""
    found = _networks(loaded)
    listed = ", ".join(sorted(filter(None, found))) or "nothing, as it is one set of weights"
    if key is not None:
        named = {name.removeprefix(f"{key}."): value for name, value in _flat(loaded) if name.startswith(f"{key}.")}
        if not named:
            raise UserError(f"{path} holds no weights under {key!r}; --weights-key may be: {listed}")
        return named
    if not found:
        raise UserError(f"{path} holds no state dict (a mapping from names to tensors)")
    parts = zip(*(name.split(".") for name in found), strict=False)
    shared = next((n for n, at in enumerate(parts) if len(set(at)) > 1), 0)
    first = min(found, key=lambda name: _rank(name, shared))
    if len(found) > 1 and math.inf in _rank(first, shared):
        raise UserError(f"{path} holds {len(found)} sets of weights ({listed}); say which with --weights-key")
    if len(found) > 1:
        taken = f"{first} was taken, --weights-key takes another"
        terminal.warn_once(f"{path} holds {len(found)} sets of weights ({listed}); {taken}")
    return found[first]


def _networks(loaded: Any, at: str = "") -> dict[str, dict[str, Tensor]]:
    """Dotted key -> every state dict inside, also two in one that are told apart by the beginning of their names."""
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(name, str) for name in loaded):
        return {}
    if not all(isinstance(value, Tensor) for value in loaded.values()):
        inner = [_networks(value, f"{at}.{name}" if at else name) for name, value in loaded.items()]
        return {name: state for one in inner for name, state in one.items()}
    starts = sorted({name.partition(".")[0] for name in loaded})
    if len(starts) > 1 and set(starts) <= {*WRAPPERS, *AVERAGES, "module", "_orig_mod"}:
        whole = {
            start: {n.partition(".")[2]: v for n, v in loaded.items() if n.startswith(f"{start}.")} for start in starts
        }
        return {f"{at}.{start}" if at else start: state for start, state in whole.items() if state}
    return {at: dict(loaded)}


def _flat(loaded: Any, at: str = "") -> list[tuple[str, Tensor]]:
    """(dotted name, tensor) of all tensors that are reached by names."""
    if not isinstance(loaded, Mapping):
        return [(at, loaded)] if isinstance(loaded, Tensor) else []
    named = [(f"{at}.{name}" if at else name, value) for name, value in loaded.items() if isinstance(name, str)]
    return [one for name, value in named for one in _flat(value, name)]


def _rank(key: str, shared: int) -> list[float]:
    """By the known wrappers on the way, after the `shared` first, in their order; what is not known comes last."""
    known = [*WRAPPERS, *AVERAGES]
    return [known.index(part) if part in known else math.inf for part in key.split(".")[shared:]]


def _normalisation(path: Path, mean: Tensor, std: Tensor) -> models.Statistics:
    """What the file puts in front of the network. Raises UserError for what no image can be divided by."""
    means, stds = mean.flatten().tolist(), std.flatten().tolist()
    if not all(map(math.isfinite, [*means, *stds])) or min(stds, default=0) <= 0:
        raise UserError(
            f"{path}: its normalisation has mean {_numbers(means)} and std {_numbers(stds)}; a mean is a finite number "
            "and a deviation a finite one above 0"
        )
    return means, stds


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values[:4]) + (", ..." if len(values) > 4 else "")


def _unprefixed(state: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Without what no forward pass uses, and without the prefixes that all names share and the network's own do not."""
    used = {name: value for name, value in state.items() if not UNUSED.search(name)}
    for prefix in PREFIXES * 2:
        shared = used and all(name.startswith(prefix) for name in used)
        if shared and not (own and all(name.startswith(prefix) for name in own)):
            used = {name.removeprefix(prefix): value for name, value in used.items()}
    return used


def _fit(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], wrong: str, head: int | None = None
) -> dict[str, Tensor]:
    """The file's tensors under our names, in our shapes. Raises UserError, which begins with `wrong`. head: how many
    classes the file's has, where that is the reason.
    """
    renamed = _our_names(_unprefixed(state, own), own)
    missing = [name for name in own if name not in renamed and not UNUSED.search(name)]
    extra = [name for name in renamed if name not in own]
    shapes = [
        f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in renamed.items()
        if name in own and value.shape != own[name].shape
    ]
    if missing or extra or shapes:
        found = [("missing", missing), ("not known", extra), ("of another shape", shapes)]
        hint = "" if head is None else f": its head is of {head} classes; --labels FILE says which of them are meant"
        raise UserError(f"{wrong}; " + "; ".join(f"{what}: {_some(names)}" for what, names in found if names) + hint)
    return renamed


def _our_names(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """block2.layer.1.bn1.weight, layer3.0.downsample.0.weight -> blocks.<number>..., and the names around the blocks.

    Blocks are counted through all stages. Of a pre-activation network the batch norm stands at the end, and the
    shortcut is a convolution alone.
    """
    places = [(int(m[1] or m[2]), int(m[3])) for name in state if (m := BLOCK.fullmatch(name))]
    if "stem.weight" not in own or not places:
        return state
    number = {place: n for n, place in enumerate(sorted(set(places)))}
    preactivation = "last_bn.weight" in own
    around = {"conv1": "stem", "bn1": "last_bn" if preactivation else "stem_bn", "bn": "last_bn", "fc": "linear"}
    renamed = {}
    for name, value in state.items():
        if match := BLOCK.fullmatch(name):
            rest = re.sub(r"^(convShortcut|downsample)\.", "shortcut.", match[4])
            if preactivation:
                rest = re.sub(r"^shortcut\.0\.", "shortcut.", rest)
            name = f"blocks.{number[int(match[1] or match[2]), int(match[3])]}.{rest}"
        else:
            start, dot, rest = name.partition(".")
            name = around.get(start, start) + dot + rest
        renamed[name] = value
    return renamed if len(renamed) == len(state) else state  # two of one name: it is no file of theirs


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
