"""Attacks of foolbox 3 by the name of their class: Rauber et al. 2020, https://doi.org/10.21105/joss.02607.

foolbox has two families. A `FixedEpsilonAttack` is run at `threat.eps`, in the norm of its class, and its clipped
images are taken. A `MinimizationAttack` is run without a radius (`epsilons=None`), and its images are minimal-norm:
with a radius foolbox would shrink them to the ball and look only there.

Worked around, in 3.3.4: minimal-norm attacks that find nothing return black images, NaN or their last iterate (only
images that fool the model count here); attacks that start from a fooling image raise for the whole batch where one
image has no start (the start is searched here, by two of foolbox's attacks, and an image without one is left as it
was); PointwiseAttack fails on every numeric radius.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attacks.adapters import Setting, arguments, choose, library, run_in_batches
from attacks.contract import ThreatModel
from attacks.noise import Noise
from attacks.target import Target

NORMS = {0: "L0", 1: "L1", 2: "L2", float("inf"): "Linf"}  # p of foolbox's distances
NEED_MORE = {"DatasetAttack", "GenAttack", "BinarizationRefinementAttack"}  # other images, a target class, a threshold
FROM_A_START = ("BoundaryAttack", "HopSkipJumpAttack", "PointwiseAttack", "BrendelBethgeAttack")


@dataclass(frozen=True)
class Foolbox:
    """An attack of foolbox.

    threat: in the attack's own norm where foolbox bounds it ("own" for SpatialAttack); for a minimal-norm attack it is
    where the verdict is read, and for one that minimises any distance, which one. name: of the class, such as
    "L2DeepFoolAttack". settings: arguments of the class, where a fraction may be text, "2/255"; the others have
    foolbox's defaults. batch: images at a time; only 1 keeps an image independent of the others. Raises ValueError.
    """

    threat: ThreatModel
    name: str
    settings: dict[str, Setting] = field(default_factory=dict)
    batch: int = 1
    version: int = 1

    def __post_init__(self) -> None:
        choose("foolbox", self.name, _known())
        try:
            attack = self._build()
        except (TypeError, AssertionError, ImportError) as error:
            raise ValueError(f"{self._who} cannot be built with settings {self.settings}: {error}") from error
        if self.closest:
            fits = self.threat.norm != "own"
            works_in = "distances"
        else:
            works_in = NORMS[attack.distance.p] if hasattr(attack, "distance") else "own"
            fits = self.threat.norm == works_in
        if not fits:
            raise ValueError(f"{self._who} works in {works_in}, not in {self.threat.norm}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1; got {self.batch}")

    @property
    def closest(self) -> bool:
        """Whether foolbox minimises a distance; see `attacks.contract.Attack`."""
        return issubclass(_known()[self.name], library("foolbox.attacks.base").MinimizationAttack)

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        return run_in_batches(self._who, self.batch, self._run, target, x, y, noise, self.closest)

    @property
    def _who(self) -> str:
        return f"foolbox's {self.name}"

    def _build(self) -> Any:
        cls = _known()[self.name]
        settings = arguments(self._who, cls, self.settings, ("distance", "init_attack", "tensorboard"))
        if "distance" in inspect.signature(cls).parameters:
            settings["distance"] = getattr(library("foolbox.distances"), self.threat.norm.lower(), None)
        return cls(**settings)

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        wrapped = library("foolbox").PyTorchModel(model, bounds=(0, 1), device=x.device)
        if not self.name.endswith(FROM_A_START):
            _, clipped, _ = self._build()(wrapped, x, y, epsilons=None if self.closest else self.threat.eps)
            return clipped
        start, found = _start(self.name, wrapped, x, y)
        if found.any():
            _, x[found], _ = self._build()(wrapped, x[found], y[found], epsilons=None, starting_points=start[found])
        return x


def _known() -> dict[str, Any]:
    """Name -> class, aliases included, of the attacks that need images, labels and plain settings only."""
    attacks = library("foolbox.attacks")

    def runs_here(name: str, cls: Any) -> bool:
        is_attack = inspect.isclass(cls) and issubclass(cls, attacks.Attack)
        return is_attack and not inspect.isabstract(cls) and name not in NEED_MORE

    return {name: cls for name, cls in vars(attacks).items() if runs_here(name, cls)}


def _start(name: str, wrapped: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Images that fool the model, from which the attack of that name walks towards x; which of them do: [B] bool.

    foolbox's own default search first, and where that finds nothing the other one: on networks that give uniform noise
    the label of x, the default alone would leave every image of that class without an attack.
    """
    attacks = library("foolbox.attacks")
    searches = [attacks.LinearSearchBlendedUniformNoiseAttack(steps=50), attacks.SaltAndPepperNoiseAttack()]
    start, found = x.clone(), torch.zeros_like(y, dtype=torch.bool)
    for search in reversed(searches) if name == "PointwiseAttack" else searches:
        missing = (~found).nonzero().squeeze(1)
        if len(missing):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*failed to draw sufficient random inputs")
                start[missing], _, found[missing] = search(wrapped, x[missing], y[missing], epsilons=None)
    return start, found
