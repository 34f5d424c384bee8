"""What an attack says that it spends at most is what it spends where nothing falls, and never less."""

from __future__ import annotations

import pytest
import torch
from test_attacks import SETTINGS
from torch import Tensor, nn

from attacks import ATTACKS
from attacks.contract import Attack, budget_of
from attacks.noise import Noise
from attacks.target import Target

CLASSES, IMAGES = 4, 6
SILENT = {"pointwise", "foolbox", "torchattacks", "pyautoattack"}  # whose passes depend on the image, or on a library
SEARCHES = {"autoattack", "cw", "a3", "strong", "patterns"}  # bisections, a line search, what is given up: at most
CASES = [
    pytest.param(name, ATTACKS[name](**settings), id=f"{name}-{index}")
    for name in ATTACKS
    if name not in SILENT
    for index, settings in enumerate(SETTINGS[name])
]


class Slanted(nn.Module):
    """Logits of a random linear map, and `lead` more for class 0: with a large lead no image is ever fooled."""

    def __init__(self, lead: float) -> None:
        super().__init__()
        weight = torch.rand(CLASSES, 192, generator=torch.Generator().manual_seed(3)) - 0.5
        self.weight, self.lead = nn.Parameter(weight), lead
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight[:, : x[0].numel()].T + self.lead * (torch.arange(CLASSES) == 0)


def spent(attack: Attack, lead: float) -> Tensor:
    """[2, IMAGES]: forward and backward passes."""
    channels = next(iter(getattr(attack, "channels", ())), 1)
    x = torch.rand(IMAGES, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    target = Target(Slanted(lead)).counting(IMAGES)
    y = target.logits(x).argmax(1)
    target = Target(Slanted(lead)).counting(IMAGES)
    attack(target, x, y, Noise(0, torch.arange(IMAGES)))
    return target.passes_per_image


@pytest.mark.parametrize("name, attack", CASES)
def test_no_image_costs_more_than_its_budget_and_one_that_stands_costs_all_of_it(name, attack):
    budget = budget_of(attack, CLASSES)
    firm, loose = spent(attack, lead=1000.0), spent(attack, lead=0.0)
    for passes in (firm, loose):
        assert passes[0].max() <= budget.forward and passes[1].max() <= budget.backward
    if budget.leaves and budget.usual == 1 and name not in SEARCHES:
        assert (firm[0] == budget.forward).all() and (firm[1] == budget.backward).all()
    if not budget.leaves and budget.usual == 1:  # a minimal-norm attack refines, or walks, where it has found something
        most = torch.maximum(firm, loose).amax(1)
        assert most[0] >= budget.forward * 0.5 and most[1] >= budget.backward * 0.5


def test_every_attack_says_what_it_spends_or_is_known_not_to():
    silent = {name for name in ATTACKS if budget_of(ATTACKS[name](**SETTINGS[name][0]), CLASSES) is None}
    assert silent == SILENT, "give it `passes(classes)`, see attacks.contract.Budget"


@pytest.mark.parametrize("name", ["pgd", "apgd", "mim", "fog", "msd"])
def test_an_attack_that_runs_to_its_end_whatever_falls_says_so(name):
    kinds = ATTACKS[name].__dataclass_fields__
    settings = SETTINGS[name][0]
    assert budget_of(ATTACKS[name](**settings), CLASSES).leaves
    if "stop" in kinds:
        assert not budget_of(ATTACKS[name](**settings | {"stop": "last"}), CLASSES).leaves


def test_fewer_classes_are_fewer_targets():
    attack = ATTACKS["fab"](**SETTINGS["fab"][0])
    assert budget_of(attack, 2).backward == 6 and budget_of(attack, 100).backward == 18


def test_an_attack_of_ones_own_that_says_nothing_has_no_budget():
    class Own:
        closest = False

    assert budget_of(Own(), CLASSES) is None
