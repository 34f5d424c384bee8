"""Recipe + data + seed -> trained networks in the registry: what the one loop needs, put together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from attacks.noise import derive_seed
from bench import data, models, plan, registry
from bench.catalog import Recipe
from bench.data import Dataset
from bench.progress import Progress
from bench.records import Cost, Results, RunRecord, provenance
from trainers.loop import EpochReport, Fit, Member, fit


@dataclass(frozen=True)
class Training:
    """One training of one cohort. training_id: see `bench.plan`; it names the folder and guards the checkpoint."""

    training_id: str
    recipe: Recipe
    dataset: Dataset
    arch: str
    seed: int
    device: torch.device
