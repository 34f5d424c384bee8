"""Any method by name, small cohorts, and the losses of the methods written out directly."""

from __future__ import annotations

import torch
from oracles import small_cnn
from torch import Tensor

from attacks.noise import Noise
from bench.contracts.problems import INNER, THREE
from trainers import TRAINERS
from trainers.contract import Cohort, Inner, Trainer

SHORT = {  # few steps; half of the weight on labels, where the papers leave them a tenth and train for 200 epochs; and
    # clean images too, where a teacher that is sure of all images teaches nothing on adversarial ones
    "act": {"alpha_robust": 0.5, "alpha_natural": 0.5, "temperature": 1.0},
    "cat": {"alpha": 0.5},
    "saad": {"beta": 1.0},
    "at-msd": {"steps": 2},
    "mat-mp": {"msd_steps": 2},
}
Y = torch.tensor([0, 1, 2, 3, 0])


def method(name: str, inner: Inner = INNER, **settings: object) -> Trainer:
    """The method of that name, against `inner` alone or, where it takes several attacks, against THREE."""
    kind = TRAINERS[name]
    settings = SHORT.get(name, {}) | settings
    return kind(THREE, **settings) if "inners" in kind.__dataclass_fields__ else kind(inner, **settings)


def cohort(members: int, count: int = 6) -> tuple[Cohort, Tensor, Tensor]:
    """Networks that differ, in training mode, without batch norm, and a teacher; a batch with its images' noise."""
    group = Cohort([small_cnn(1, 4, seed).train() for seed in range(members)], teachers=[small_cnn(1, 4, 99)])
    group.noise = Noise(1, torch.arange(count))
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    return group, x, torch.arange(count) % 4


def logits(seed: int, count: int = 5, classes: int = 4) -> Tensor:
    """Random logits in float64."""
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed)).double()


def kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(p || q) per image, from probabilities."""
    p, q = p_logits.softmax(1), q_logits.softmax(1)
    return (p * (p / q).log()).sum(1)


def ce(z: Tensor, y: Tensor) -> Tensor:
    """-log p_y per image, from probabilities."""
    return -z.softmax(1)[torch.arange(len(y)), y].log()


def bce(z: Tensor, y: Tensor) -> Tensor:
    """Boosted cross-entropy per image, from probabilities."""
    others = z.softmax(1).clone()
    others[torch.arange(len(y)), y] = 0
    return ce(z, y) - (1 - others.amax(1)).log()
