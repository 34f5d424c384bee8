"""How good a network is after an epoch, on validation images: what `best` is chosen by and health is judged from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attacks.contract import ThreatModel
from attacks.noise import Noise
from attacks.pgd import PGD
from attacks.target import Precision, Target
from trainers.contract import Inner
from trainers.health import TrainingError
from trainers.network import masked_words, masks


class Split(NamedTuple):
    """Images [N, C, H, W] in [0, 1], or bytes that are multiples of 1/255; labels [N] int64, image ids [N] int64."""

    x: Tensor
    y: Tensor
    ids: Tensor


def images_of(x: Tensor) -> Tensor:
    """[B, C, H, W] as float32 in [0, 1]: bytes are multiples of 1/255, as the data set reads them."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


class Measured(NamedTuple):
    """One network on the validation images; see `trainers.health.EpochReport`."""

    clean: float
    robust: float
    single_step: float
    constant: bool


def measure(
    network: nn.Module, validation: Split, types: Sequence[Inner], steps: int, seed: int, precision: Precision
) -> Measured:
    """Accuracies under no attack, and under PGD with that many steps, and one step, of all types of perturbation.

    Noise comes from the seed alone, so epochs are compared on equal terms. Raises TrainingError.
    """
    target = Target(network, gradient_precision=precision)
    logits = target.logits(validation.x)
    if not torch.isfinite(logits).all():
        masked = bool(masks(logits))
        raise TrainingError(masked_words("it") if masked else "it returns NaN or infinity; lower the learning rate")
    right = logits.argmax(1) == validation.y
    noise = Noise(seed, validation.ids)

    def under(attacks: list[PGD]) -> float:
        standing = right.clone()
        for attack in attacks:
            x, y = validation.x[standing], validation.y[standing]
            if len(x):
                x_adv = attack(target, x, y, noise[standing])
                standing[standing.clone()] = target.logits(x_adv).argmax(1) == y
        return float(standing.sum()) / len(validation.y)

    threats = [(ThreatModel(inner.norm, inner.eps), inner.step) for inner in types]
    return Measured(
        clean=float(right.float().mean()),
        robust=under([PGD(threat, steps, step) for threat, step in threats]),
        single_step=under([PGD(threat, 1, threat.eps, start="none") for threat, _ in threats]),
        constant=len(logits.argmax(1).unique()) == 1,
    )
