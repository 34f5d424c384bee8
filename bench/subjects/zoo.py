"""Names of RobustBench's model zoo (Croce et al. 2021, https://arxiv.org/abs/2010.09670): DATASET/THREAT/NAME, with the
weights in models/DATASET/THREAT/NAME.pt, the layout of its own loader.

Names whose architecture is one of ours are read without the package. Which those are, and the normalisation in front of
them, was found by comparing every network of robustbench 1.1.1 with ours. Others are made by the package (an extra);
the weights are read here, as tensors alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.ground.config import UserError, choose, first_line
from bench.subjects.normalization import Statistics

THREATS = ("Linf", "L2", "corruptions", "corruptions_3d")
DATASETS = ("cifar10", "cifar100", "imagenet")
_ROUNDED: Statistics = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
_EXACT: Statistics = (
    (0.4913997551666284, 0.48215855929893703, 0.4465309133731618),
    (0.24703225141799082, 0.24348516474564, 0.26158783926049628),
)
_ARCHS = {  # of cifar10: architecture -> the names of a threat
    "Linf": {
        "wrn-28-10": "Carmon2019Unlabeled Sehwag2020Hydra Wang2020Improving Hendrycks2019Using Wu2020Adversarial_extra "
        "Zhang2020Geometry Sridhar2021Robust Standard",
        "wrn-34-10": "Zhang2019Theoretically Huang2020Self Zhang2019You Zhang2020Attacks Wu2020Adversarial "
        "Sehwag2021Proxy Sitawarin2020Improving Chen2020Efficient Cui2020Learnable_34_10 Addepalli2021Towards_WRN34 "
        "Chen2021LTD_WRN34_10 Jia2022LAS-AT_34_10 Addepalli2022Efficient_WRN_34_10 Cui2023Decoupled_WRN-34-10 "
        "Chen2024Data_WRN_34_10",
        "resnet18": "Sehwag2021Proxy_R18 Addepalli2021Towards_RN18 Addepalli2022Efficient_RN18",
    },
    "L2": {
        "wrn-28-10": "Rony2019Decoupling Standard",
        "wrn-34-10": "Wu2020Adversarial Sehwag2021Proxy Augustin2020Adversarial_34_10 "
        "Augustin2020Adversarial_34_10_extra",
        "resnet18": "Sehwag2021Proxy_R18",
        "preact-resnet18": "Rice2020Overfitting",
    },
    "corruptions": {
        "wrn-28-10": "Standard",
        "wrn-34-10": "Addepalli2021Towards_WRN34 Addepalli2022Efficient_WRN_34_10",
        "preact-resnet18": "Kireev2021Effectiveness_Gauss50percent Kireev2021Effectiveness_AugMixNoJSD "
        "Kireev2021Effectiveness_RLAT Kireev2021Effectiveness_RLATAugMixNoJSD Kireev2021Effectiveness_RLATAugMix",
    },
}
_STATISTICS: Mapping[str, Statistics] = {  # by the beginning of the name
    "Hendrycks2019Using": ((0.5,) * 3, (0.5,) * 3),
    "Chen2020Efficient": _ROUNDED,
    "Rice2020Overfitting": _ROUNDED,
    "Kireev2021Effectiveness": _ROUNDED,
    "Rony2019Decoupling": ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "Augustin2020Adversarial_34_10": _EXACT,
}
_IN_CODE = ("Hendrycks2019Using",)  # whose normalisation stands in the forward pass
_DEPTHS = {"resnet18": 2, "preact-resnet18": 2, "wrn-28-10": 4, "wrn-34-10": 5}  # blocks of a stage
_KEYS = {"Andriushchenko2020Understanding": "last", "Kireev2021Effectiveness": "last"}  # of a file with several


class Entry(NamedTuple):
    """A name of the zoo."""

    dataset: str
    threat: str
    name: str

    @property
    def file(self) -> Path:
        """Where its weights lie, below the current folder."""
        return Path("models") / self.dataset / self.threat / f"{self.name}.pt"

    @property
    def ours(self) -> tuple[str, Statistics | None] | None:
        """Its architecture by our names and what is put in front; None where none of ours is it."""
        known = _ARCHS.get(self.threat, {}) if self.dataset == "cifar10" else {}
        arch = next((arch for arch, names in known.items() if self.name in names.split()), None)
        return None if arch is None else (arch, _of_start(_STATISTICS, self.name))

    @property
    def key(self) -> str | None:
        """Which network of a file with several the zoo takes."""
        return _of_start(_KEYS, self.name)


def entry(dataset: str, threat: str, name: str) -> Entry:
    """A name of the zoo, or a new one. Raises UserError."""
    if dataset not in DATASETS:
        raise UserError(f"RobustBench's layout is of {', '.join(DATASETS)}, and not of {dataset}")
    choose(threat, THREATS, "threat")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UserError(f"--name {name!r}: a name of the zoo is letters, digits, '_', '-' and '.'")
    return Entry(dataset, threat, name)


def state_of(entry: Entry, arch: str, state: Mapping[str, Tensor], statistics: Statistics | None) -> dict[str, Any]:
    """What its loader wants to find in the file: our network's tensors under the names of its. Raises UserError for a
    known name that is of another architecture or normalises otherwise.
    """
    whole = f"RobustBench's {entry.dataset}/{entry.threat}/{entry.name}"
    known_arch, known = entry.ours or (arch, statistics)
    if known_arch != arch:
        raise UserError(f"{whole} is a {known_arch}, and this network a {arch}; give another --name")
    named = {_their_name(arch, name): value.detach().cpu().clone() for name, value in state.items()}
    if (known is None and statistics is not None) or (entry.name in _IN_CODE and not _alike(known, statistics)):
        raise UserError(f"{whole} normalises otherwise than this network; give another --name")
    if known is not None and entry.name not in _IN_CODE:  # its own buffers, which 0 and 1 leave without effect
        mean, std = statistics or ((0.0,) * len(known[0]), (1.0,) * len(known[1]))
        named |= {"mu": torch.tensor(mean).view(1, -1, 1, 1), "sigma": torch.tensor(std).view(1, -1, 1, 1)}
    return {entry.key or "state_dict": named}


def _alike(first: Statistics | None, second: Statistics | None) -> bool:
    """Whether two normalisations are one, in float32."""
    return first is not None and second is not None and torch.equal(torch.tensor(first), torch.tensor(second))


def _their_name(arch: str, name: str) -> str:
    """blocks.5.conv1.weight -> layer3.1.conv1.weight, or block2.layer.1.conv1.weight of a WRN; others as they are."""
    if arch not in _DEPTHS:
        return name
    wide, depth = arch.startswith("wrn"), _DEPTHS[arch]
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        stage, place, rest = int(match[1]) // depth + 1, int(match[1]) % depth, match[2]
        if arch != "resnet18":  # its shortcut is a convolution alone
            rest = re.sub(r"^shortcut\.", "convShortcut." if wide else "shortcut.0.", rest)
        return f"block{stage}.layer.{place}.{rest}" if wide else f"layer{stage}.{place}.{rest}"
    start, dot, rest = name.partition(".")
    last = {"last_bn": "bn1", "linear": "fc"} if wide else {"last_bn": "bn"}
    return {"stem": "conv1", "stem_bn": "bn1", **last}.get(start, start) + dot + rest


def _of_start(known: Mapping[str, Any], name: str) -> Any:
    return next((value for start, value in known.items() if name.startswith(start)), None)


def parse(called: str) -> Entry:
    """ "cifar10/Linf/Standard". Raises UserError."""
    parts = called.removesuffix(".pt").split("/")
    if len(parts) != 3 or not all(parts):
        raise UserError(f"robustbench:{called}: write robustbench:DATASET/THREAT/NAME, as cifar10/Linf/Standard")
    return Entry(choose(parts[0], DATASETS, "RobustBench data set"), choose(parts[1], THREATS, "threat"), parts[2])


def entry_of(path: Path) -> Entry | None:
    """The name that a file has in the zoo's layout, DATASET/THREAT/NAME.pt; None of any other."""
    dataset, threat = ("", "", *path.parts)[-3:-1]
    return Entry(dataset, threat, path.stem) if dataset in DATASETS and threat in THREATS else None


def missing(called: str) -> str:
    """What is said where its weights are not there."""
    entry = parse(called)
    return (
        f"robustbench:{called}: there is no {entry.file} below the current folder; put the file of RobustBench's model "
        "zoo there (robustbench.utils.load_model downloads it), or give it with --weights FILE"
    )


def create(called: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The package's network, with its initial weights. Raises UserError."""
    entry = parse(called)
    known = _models()[entry.dataset][entry.threat]
    made = known[choose(entry.name, known, f"network of RobustBench ({entry.dataset}, {entry.threat})")]
    if isinstance(made["gdrive_id"], list):
        raise UserError(f"robustbench:{called} is an ensemble of several files, which is not read here")
    return made["model"]()


def _models() -> dict[str, dict[str, Any]]:
    """The package's networks, by data set and threat. Raises UserError where it is not installed."""
    _lend_autoattack()
    try:
        found = importlib.import_module("robustbench.model_zoo").model_dicts
    except ImportError as error:
        why = "" if getattr(error, "name", None) == "robustbench" else f" or cannot be imported ({first_line(error)})"
        raise UserError(
            f'the package robustbench is not installed{why}: pip install "robustness-bench[robustbench]"; without it '
            "say the architecture with --arch and give the file as MODEL"
        ) from error
    return {
        dataset.value: {threat.value: names for threat, names in threats.items()} for dataset, threats in found.items()
    }


def _lend_autoattack() -> None:
    """The package imports `autoattack`, which no index has; pyautoattack is the same code under another name."""
    if importlib.util.find_spec("autoattack") is None:
        for name in ("", ".state"):
            sys.modules.setdefault(f"autoattack{name}", importlib.import_module(f"pyautoattack{name}"))
