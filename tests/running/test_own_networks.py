"""Networks of a user's own, trained by the commands: what cannot be judged is not trained, lazy layers are, and an
ensemble's parts do not see each other.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.commands.cli import main
from bench.ground.config import UserError
from bench.subjects import models

SHORT = ["--set", "*-digits.schedule.epochs=1", "--set", "*-digits.inner.steps=1"]
OWN = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, shape=(1, 8, 8), classes=10):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

    def forward(self, x):
        return self.net(x.sub_(0.3).div_(0.35))


class OutOfPlace(Model):
    def forward(self, x):
        return self.net(x.sub(0.3).div(0.35))


class Nine(Model):
    def __init__(self):
        super().__init__(classes=9)


class Probabilities(Model):
    def forward(self, x):
        return super().forward(x).softmax(1)


class Masked(Model):
    def forward(self, x):
        return super().forward(x).index_fill(1, torch.tensor([3]), -torch.inf)


class MaskedInTraining(Model):
    def forward(self, x):
        return super().forward(x).index_fill(1, torch.tensor([3]), -torch.inf if self.training else -1e4)


class Lazy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10))


class NoFit(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.LazyLinear(10), nn.Linear(7, 7))


class Expanded(Model):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4]).view(1, 1, 1, 1).expand(1, 1, 8, 8))

    def forward(self, x):
        return self.net(x - self.mean)
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)


def bench(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str, str]:
    """(exit code, last line of output, last line of error)."""
    code = main([*words, "--results", "results"])
    output, error = capsys.readouterr()
    return code, *((text.strip().splitlines() or [""])[-1] for text in (output, error))


@pytest.mark.parametrize("recipe", ["trades-digits", "mat-digits", "natural-digits"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Nine", "network 1: the model returns 9 classes; the data set has 10"),
        ("Probabilities", "network 1: the model returns probabilities"),
        ("Masked", "network 1: it returns a logit of -inf beside ordinary ones (a masked class?)"),
        ("MaskedInTraining", "network 1 returns a logit of -inf beside ordinary ones (a masked class?)"),
        ("NoFit", "own_networks:NoFit: its lazy layers fail on an image (1, 8, 8): RuntimeError"),
    ],
)
def test_what_could_not_be_judged_is_not_trained(capsys, recipe: str, name: str, words: str):
    code, _, error = bench(capsys, "train", recipe, *SHORT, "--arch", f"own_networks:{name}")
    assert code == 2 and error.startswith(f"bench: {words}") and "learning rate" not in error


def test_in_a_table_it_is_a_failed_cell_with_the_sentence(capsys):
    code, _, error = bench(capsys, "run", "table2", *SHORT, "--images", "10", "--arch", "own_networks:MaskedInTraining")
    assert code == 1 and "network 1 returns a logit of -inf" in error


@pytest.mark.parametrize("name", ["Lazy", "Expanded"])
def test_lazy_layers_and_expanded_buffers_are_trained_averaged_and_judged(capsys, name: str):
    averaged = ["--set", "mat-digits.schedule.ema=0.9", "--set", "mat-digits.schedule.awp=0.01"]
    arch = f"own_networks:{name}"
    code, run_id, _ = bench(capsys, "train", "mat-digits", *SHORT, *averaged, "--arch", arch)
    assert code == 0
    code, output, _ = bench(capsys, "attack", run_id, "fgsm-digits", "--images", "20", "--arch", arch)
    assert code == 0 and output


def test_a_seed_fixes_the_weights_of_lazy_layers_too():
    first, second, other = (models.create("own_networks:Lazy", (1, 8, 8), 10, seed) for seed in (0, 0, 1))
    assert torch.equal(first[3].weight, second[3].weight) and not torch.equal(first[3].weight, other[3].weight)
    assert first[3].in_features == 144 and not first.training
    with pytest.raises(UserError, match="NoFit: its lazy layers fail"):
        models.create("own_networks:NoFit", (1, 8, 8), 10)


def test_the_parts_of_an_ensemble_do_not_see_what_the_others_did_to_the_image():
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ends = [models.create(f"own_networks:{n}+own_networks:{n}", (1, 8, 8), 10, 0) for n in ("Model", "OutOfPlace")]
    assert torch.equal(*(network(x.clone()) for network in ends))
