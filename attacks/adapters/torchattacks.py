"""Attacks of torchattacks 3 by the name of their class: Kim 2020, https://arxiv.org/abs/2010.01950.

An attack that takes a radius is run at `threat.eps`, in its own norm. One that takes none (CW, DeepFool, the L0
attacks) is read by the distance of what it found, as a minimal-norm attack.

Worked around, in 3.5.1: a model that is wrapped in a module in training mode is left in training mode (the module here
is in evaluation mode, and the model is out of its reach); FAB, JSMA, PGDL2 and SparseFool crash on images that are not
contiguous; the number of classes is 10 unless given (it is the model's here); seeds are 0 or the time of day.
Not worked around: FAB in L1 crashes on every image and is refused; MIFGSM and its relatives divide by a gradient of 0
and then stay where they are; JSMA aims at class (y + 1) modulo 10 whatever the model; CW takes logits below 0 for 0.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from attacks.adapters import Setting, arguments, choose, library, run_in_batches
from attacks.contract import ThreatModel
from attacks.noise import Noise
from attacks.target import Target

NO_ATTACK = {"VANILA", "MultiAttack", "LGV"}  # nothing at all, and wrappers of other attacks or of training
RADII = ("eps", "max_epsilon")


@dataclass(frozen=True)
class TorchAttacks:
    """An attack of torchattacks.

    threat: in the attack's norm where it takes a radius; for the others it is where the verdict is read. name: of the
    class, such as "MIFGSM". settings: arguments of the class, where a fraction may be text, "2/255"; the others have
    torchattacks' defaults. batch: images at a time; only 1 keeps an image independent of the others. Raises ValueError.
    """

    threat: ThreatModel
    name: str
    settings: dict[str, Setting] = field(default_factory=dict)
    batch: int = 1
    version: int = 1

    def __post_init__(self) -> None:
        choose("torchattacks", self.name, _known())
        arguments(self._who, _known()[self.name], self.settings, ("norm", "n_classes", "seed", *RADII))
        norms = self._norms()
        if self.threat.norm not in norms:
            raise ValueError(f"{self._who} works in {', '.join(norms)}, not in {self.threat.norm}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1; got {self.batch}")

    @property
    def closest(self) -> bool:
        """Whether the attack takes no radius; see `attacks.contract.Attack`."""
        return not set(RADII) & set(self._parameters)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        return run_in_batches(self._who, self.batch, self._run, target, x, y, noise, self.closest)

    @property
    def _who(self) -> str:
        return f"torchattacks' {self.name}"

    @property
    def _parameters(self) -> tuple[str, ...]:
        return tuple(inspect.signature(_known()[self.name]).parameters)

    def _norms(self) -> tuple[str, ...]:
        if self.closest:
            return "Linf", "L2", "L1", "L0"
        if "norm" in self._parameters:
            return "Linf", "L2"
        return ("L2",) if self.name.endswith("L2") else ("Linf",)

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        cls = _known()[self.name]
        ours: dict[str, Any] = {name: self.threat.eps for name in RADII} | {"norm": self.threat.norm, "seed": seed}
        if "n_classes" in self._parameters:
            ours["n_classes"] = model(x[:1]).shape[1]
        settings = arguments(self._who, cls, self.settings, ours)
        attack = cls(model, **settings, **{name: ours[name] for name in ours if name in self._parameters})
        return attack(x, y)


def _known() -> dict[str, Any]:
    """Name -> class of the attacks that need a model, images, labels and plain settings only."""
    torchattacks = library("torchattacks")
    return {name: getattr(torchattacks, name) for name in torchattacks.__all__ if name not in NO_ATTACK}
