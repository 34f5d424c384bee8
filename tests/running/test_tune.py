"""`bench tune`: what it measured is kept, said again, and advises only what gained."""

from __future__ import annotations

import pytest
import torch

from bench.ground.config import UserError
from bench.ground.files import cache_folder
from bench.running import tune as module
from bench.running.tune import start_up, tune
from bench.subjects import models, speed
from bench.subjects.speed import AS_IT_IS, PREDICTIONS, Rate, measured
from trainers import passes

CPU = torch.device("cpu")


@pytest.fixture
def quickly(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(speed, "SECONDS", 0.01)


def lines(**given):
    return tune("cnn-small", "digits", **{"device": "cpu", "batch_size": 8, "again": False} | given)


def test_every_way_is_measured_kept_and_said_again(quickly, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "no_compiler", lambda device: "no gcc")  # which would take most of a minute
    monkeypatch.setattr(passes, "no_compiler", lambda device: "no gcc")
    first = lines()
    ways = ["as it is", "folded", "folded, bfloat16", "predictions", "bfloat16"]
    said = [line[2:].partition("  ")[0] for line in first if line.startswith("  ")]
    assert set(ways) == {way for way in said if way and "quickest" not in way}
    monkeypatch.setattr(module, "attack_rates", None)
    again = lines()
    assert again[:-1] == first[:-1] and first[-1].startswith("kept") and again[-1].startswith("measured before")
    with pytest.raises(TypeError):
        lines(again=True)
    (file,) = (tmp_path / "tune").iterdir()
    file.write_text(file.read_text().replace('"cnn-small"', '"cnn-large"'))
    with pytest.raises(TypeError):  # a file that was tampered with counts for nothing
        lines()


def test_the_first_line_of_a_compiled_training_says_what_was_measured(quickly):
    network, x = models.create("cnn-small", (1, 8, 8), 10, seed=0), torch.rand(1, 1, 8, 8)
    assert "`bench tune cnn-small --dataset digits --batch-size 8` measures" in start_up(
        "cnn-small", "digits", network, x, 8
    )
    found = module.Tuned("cnn-small", "", 8, [], 8, [Rate(AS_IT_IS, 2.0), Rate("compiled", 1.0, once=30.0)])
    for attack in (module.default_batch_size(x), 8):  # measured as it comes, or for this batch
        name = cache_folder() / "tune" / f"{module.key(network, x, (attack, 8), CPU)}.json"
        module.write_json(name, found)
        assert "took 30 s and paid after 30 batches" in start_up("cnn-small", "digits", network, x, 8)
        name.unlink()
    assert "--batch-size 16` measures" in start_up("cnn-small", "digits", network, x, 16), "another batch is another"


def test_a_way_pays_where_its_seconds_are_fewer_and_no_earlier():
    plain = Rate(AS_IT_IS, 2.0)
    assert Rate("compiled", 1.5, once=10.0).pays_after(plain) == 20
    assert Rate("compiled", 2.0, once=1.0).pays_after(plain) is None
    assert Rate("compiled", failed="no gcc").pays_after(plain) is None


@pytest.mark.parametrize(
    "rates, words",
    [
        (
            [Rate("folded", 1.0), Rate("folded, compiled", 0.5, once=20)],
            "--compile auto; 2.00 times",
        ),
        ([Rate("folded", 1.0), Rate("folded, bfloat16", 0.98)], "the default is the quickest"),
        ([Rate("folded, compiled", failed="no gcc"), Rate("folded", 1.0), Rate(PREDICTIONS, 0.1)], "the default is"),
        ([Rate("bfloat16", 1.0)], "--gradient-precision bfloat16; 2.00"),
    ],
)
def test_only_what_gains_is_advised(rates, words):
    assert words in module._advice([Rate(AS_IT_IS, 2.0), *rates], module.SETTINGS)


def test_a_way_that_fails_is_told_and_costs_the_others_nothing():
    def fails():
        raise RuntimeError("no such operator\nmore")

    found = measured({"good": lambda: torch.rand(3), "bad": fails}, CPU)
    assert [rate.failed for rate in found] == ["", "no such operator"] and found[0].seconds > 0


def test_an_unknown_architecture_is_one_sentence(quickly):
    with pytest.raises(UserError, match="unknown model"):
        tune("resnet-eight", "cifar10", "cpu", None, False)
