"""A network that expects other inputs than it is given gives itself away, and an honest one does not."""

from __future__ import annotations

import os

import pytest
import torch
from keras_cnn import keras_file, load_keras
from tiny import stripes
from torch import nn

from bench.commands.cli import main
from bench.judge.inputs import of_inputs
from bench.subjects import data, models
from bench.subjects.blank import Blank
from bench.subjects.data import Images
from bench.subjects.normalization import NAMED, in_span


class Picky(nn.Module):
    """Says the class of stripes by the mean of the left half minus the right, if its images have the range's mean."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        unit = (x - self.low) / (self.high - self.low)
        left = unit[..., :4].mean((1, 2, 3)) - unit[..., 4:].mean((1, 2, 3))
        fits = ((unit.amax((1, 2, 3)) - 0.8).abs() < 0.3) & ((unit.amin((1, 2, 3)) - 0.0).abs() < 0.1)
        return torch.stack([left, -left], 1) * fits[:, None] + torch.tensor([0.0, 1e-3])


def images() -> Images:
    return Images(*stripes(60))


def found(network: nn.Module) -> list[str]:
    chosen, network = images(), network.eval()
    return of_inputs(Blank(network), chosen, network(chosen.x))


@pytest.mark.parametrize("low, high, said", [(0, 255, "--range 255"), (-1, 1, "--range -1,1")])
def test_another_range_is_said_with_the_option_for_it(low, high, said):
    (words,) = found(Picky(low, high))
    assert f"with {said}:" in words and "50% are right" in words and "100%" in words


def test_a_network_that_is_right_as_it_is_has_no_sign_and_one_that_never_is_has_none():
    assert found(Picky(0, 1)) == []
    assert found(Picky(7, 9)) == []


def test_a_normalisation_that_is_too_much_is_said():
    twice = models.in_front(models.Normalize([0.1307], [0.3081]), Picky(0, 1))
    (words,) = found(twice)
    assert "--normalization none" in words
    missing = models.in_front(models.Normalize(*in_span(None, (0.0, 1.0), 1) or ([0.0], [1.0])), Picky(-0.4242, 2.8215))
    assert "--normalization mnist" in found(missing)[0] and NAMED["mnist"] is not None


def test_it_is_in_the_record_and_beside_the_number(tmp_path, monkeypatch, capsys):
    """Digits by their own pixels in 0..255, with a threshold that nothing in [0, 1] crosses."""
    (tmp_path / "bytes_only.py").write_text(
        "import torch\nfrom torch import nn\nfrom sklearn.datasets import load_digits\n"
        "class Nearest(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        x, y = load_digits(return_X_y=True)\n"
        "        means = [torch.tensor(x[y == k].mean(0) / 16 * 255) for k in range(10)]\n"
        "        self.register_buffer('means', torch.stack(means).float())\n"
        "    def forward(self, x):\n        return -torch.cdist(x.flatten(1), self.means) / 100\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["attack", "bytes_only:Nearest", "fgsm-digits", "--images", "60"]) == 0
    assert "with --range 255: the model expects other inputs" in capsys.readouterr().out
    assert main(["attack", "bytes_only:Nearest", "fgsm-digits", "--images", "60", "--range", "255"]) == 0
    again = capsys.readouterr()
    assert "expects other inputs" not in again.out and "taken to [0, 255]" in again.err


def test_a_strangers_network_gives_itself_away():
    """The Keras CNN of cifar-10-model 7.4.0, which expects 0..255: 83 % of the first 500 test images there."""
    content = keras_file()
    pytest.importorskip("h5py")
    if content is None:
        pytest.skip("BENCH_KERAS_CNN names no wheel of cifar-10-model 7.4.0, nor its cnn_model.h5")
    if not os.environ.get("BENCH_DATA"):
        pytest.skip("BENCH_DATA is not set")
    network, chosen = load_keras(content), data.load("cifar10").test.head(500)
    with torch.no_grad():
        plain, inside = network(chosen.x), network(chosen.x * 255)
    assert (plain.argmax(1) == chosen.y).float().mean() < 0.15
    assert (inside.argmax(1) == chosen.y).float().mean().item() == pytest.approx(0.834, abs=0.01)
    assert "--range 255" in of_inputs(Blank(network), chosen, plain)[0]
