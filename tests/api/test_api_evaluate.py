"""bench.evaluate and bench.attack: right by arithmetic, whatever form images come in, and nothing else is touched."""

from __future__ import annotations

import random
from copy import deepcopy

import linear
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import bench
from bench.ledger.evals import read_eval
from bench.ledger.folder import Results

EPS = 0.03
FAST = {"norm": "Linf", "eps": EPS}


class Restless(nn.Module):
    """Draws from every global generator, and counts its passes in a buffer and in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.seen = linear.network(), 0
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        torch.rand(1), np.random.rand(), random.random()
        return self.network(x)


def test_the_worst_case_is_what_arithmetic_says():
    x, y = linear.images()
    result = bench.evaluate(linear.network(), x, y, settings=linear.CALM, **FAST)
    right = linear.network()(x).argmax(1) == y
    stands = right & (linear.margins(x) > EPS)
    assert 5 < stands.sum() < right.sum() - 5, "some fall and some do not"
    assert result.images["robust"].tolist() == stands.tolist()
    assert (result.clean.n, result.clean.value) == (60, pytest.approx(float(right.float().mean())))
    assert result.robust.value == pytest.approx(float(stands.float().mean()))
    assert result.robust.low < result.robust.value < result.robust.high
    assert "all passed" in result.trust and not result.signs and len(result.findings) > 10


def test_the_adversarial_images_are_those_that_were_judged():
    x, y = linear.images()
    result = bench.evaluate(
        linear.network(), x, y, attacks=["pgd-20", "square"], settings={"square.queries": 20}, **FAST
    )
    x_adv, images = result.adversarial, result.images
    assert x_adv.shape == x.shape and x_adv.dtype == torch.float32 and 0 <= x_adv.min() and x_adv.max() <= 1
    np.testing.assert_allclose((x_adv - x).abs().flatten(1).amax(1), images["linf"], atol=1e-6)
    assert linear.network()(x_adv).argmax(1).tolist() == images["adversarial_prediction"].tolist()
    assert set(result.fallen["fell_under"]) <= {"pgd-20", "square"} and len(result.fallen)
    assert (images.loc[images["robust"], "fell_under"] == "").all()
    rows = result.attacks
    assert rows["attack"].tolist() == ["pgd-20", "square"] and (rows["tried"] - rows["fell"] == rows["left"]).all()
    assert rows["tried"].tolist() == [54, rows["left"][0]] and rows["robust"].iloc[-1] == result.robust.value


def test_an_attack_for_which_nothing_was_left_is_named():
    x, y = linear.images(12)
    result = bench.evaluate(linear.network(), x, y, norm="Linf", eps=0.5, settings=linear.CALM)
    assert result.not_run == ("apgd-ce", "apgd-t", "fab-t", "square") and result.robust.value == 0
    assert "square" in repr(result) and "no image was left" in repr(result)


def test_images_are_the_same_in_every_form():
    x, y = linear.images(20)
    levels = (x * 255).round().byte()
    plain = levels.float() / 255
    forms = {
        "float32": (plain, y),
        "float64 array": (plain.double().numpy(), y.numpy()),
        "channels first": (levels, y.tolist()),
        "channels last": (levels.permute(0, 2, 3, 1).numpy(), y.to(torch.uint8)),
        "read-only, reversed twice": (plain.numpy()[::-1].copy()[::-1], y.numpy().astype(np.int32)),
    }
    forms["read-only, reversed twice"][0].flags.writeable = False
    results = {name: bench.attack(linear.network(), "pgd-20", *form, **FAST) for name, form in forms.items()}
    for name, result in results.items():
        pd.testing.assert_frame_equal(result.images, results["float32"].images, obj=name)
        assert torch.equal(result.adversarial, results["float32"].adversarial), name


def test_colour_images_in_bytes_have_their_channels_last_or_first():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 2)).eval()
    x, y = torch.randint(0, 256, (6, 3, 4, 5), dtype=torch.uint8), torch.arange(6) % 2
    first, last = (bench.attack(network, "fgsm", form, y) for form in (x, x.permute(0, 2, 3, 1)))
    assert torch.equal(first.adversarial, last.adversarial)


def test_the_model_and_the_random_numbers_stay_as_they_were():
    x, y = linear.images(20)
    model = Restless().eval()
    model.network(x).sum().backward()
    before, grad = deepcopy(model.state_dict()), model.network.weight.grad.clone()
    kept = x.clone(), y.clone()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    bench.evaluate(model, x, y, attacks="pgd-20", **FAST)
    assert model.seen == 0 and not model.training and model.network.weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.network.weight.grad, grad)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    assert (np.random.get_state()[1] == states[1]).all() and torch.equal(x, kept[0]) and torch.equal(y, kept[1])


def test_nothing_is_kept_unless_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = linear.images(20)
    result = bench.attack(linear.network(), "fgsm", x, y, **FAST)
    assert result.record is None and not list(tmp_path.iterdir()) and "nothing was kept" in repr(result)
    kept = bench.attack(linear.network(), "fgsm", x, y, results=tmp_path / "mine", **FAST)
    run_id, eval_id = kept.record.parent.name, kept.record.stem
    record = read_eval(Results(tmp_path / "mine"), run_id, eval_id)
    assert run_id.startswith("Linear-") and record.attack == "fgsm" and record.eps == EPS
    pd.testing.assert_frame_equal(record.images, kept.images.drop(columns="fell_under"))


def test_a_model_in_memory_is_known_by_its_weights_and_its_code(tmp_path):
    x, y = linear.images(10)

    def run_of(model):
        return bench.attack(model, "fgsm", x, y, results=tmp_path, **FAST).record.parent.name

    trained = linear.network()
    trained(x).sum().backward()  # a gradient that was left there is no other model
    assert run_of(linear.network()) == run_of(linear.network()) == run_of(trained)
    assert run_of(linear.network()) != run_of(linear.network(scale=2.0))


def test_eps_and_settings_are_as_on_the_command_line():
    x, y = linear.images(20)
    said: list[str] = []
    half = bench.attack(linear.network(), "pgd-20", x, y, eps="4/255", settings={"pgd-20.steps": 3}, say=said.append)
    assert half.eps == 4 / 255 and half.images["backward_passes"].max() == 3
    assert any("scaled with the radius" in line for line in said)
    few = bench.evaluate(linear.network(), x, y, attacks="clean", images=5)
    assert len(few.images) == 5 and few.attacks.empty and "95 % interval" in repr(few)


def test_a_network_that_cannot_be_copied_is_attacked_itself():
    x, y = linear.images(20)
    model = linear.network()
    model.held = (value for value in [1])  # a generator
    result = bench.attack(model, "pgd-20", x, y, **FAST)
    assert "cannot be copied" in result.trust or any("cannot be copied" in words for words in result.signs)
    assert result.images.equals(bench.attack(linear.network(), "pgd-20", x, y, **FAST).images)


def test_a_transfer_from_another_network_in_memory():
    x, y = linear.images(20)
    flipped = linear.network(-1.0)
    own = bench.attack(linear.network(), "pgd-100-last", x, y, **FAST)
    other = bench.attack(linear.network(), "pgd-100-last", x, y, source=flipped, **FAST)
    assert own.robust.value < other.robust.value, "what fools its opposite is right for it"


class Carries(nn.Module):
    """A network whose output is not its logits, but holds them."""

    def __init__(self, form) -> None:
        super().__init__()
        self.network, self.form = linear.network(), form

    def forward(self, x):
        logits = self.network(x)
        return {"logits": logits, "loss": None} if self.form is dict else (logits, x)


@pytest.mark.parametrize("form", [dict, tuple])
def test_a_network_in_memory_may_carry_its_logits(form):
    x, y = linear.images()
    plain, carried = (bench.attack(one, "pgd-20", x, y, **FAST) for one in (linear.network(), Carries(form).eval()))
    assert carried.images["robust"].tolist() == plain.images["robust"].tolist()


def test_what_is_said_of_a_network_in_memory_is_done_to_it(tmp_path):
    """Normalisation goes inside, and --labels picks the classes of a larger head: nothing is left out in silence."""
    x, y = linear.images()
    wanted = bench.attack(linear.network(), "pgd-20", x, y, **FAST).images["robust"].tolist()
    network = linear.network()
    network.weight.data *= 0.25  # what it makes of (x - 0.5) / 0.25, which is 4 x and a shift that it does not see
    found = bench.attack(network, "pgd-20", x, y, mean=(0.5,), std=(0.25,), **FAST)
    assert found.images["robust"].tolist() == wanted
    (tmp_path / "labels.txt").write_text("1\n0\n")
    swapped = bench.attack(linear.network(), "pgd-20", x, 1 - y, labels=tmp_path / "labels.txt", **FAST)
    assert swapped.images["robust"].tolist() == wanted and swapped.model == "Linear"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_mode_of_the_caller_takes_the_gradients_away(mode):
    x, y = linear.images()
    wanted = bench.attack(linear.network(), "pgd-20", x, y, **FAST).images["robust"].tolist()
    network = linear.network()
    with mode():
        assert bench.attack(network, "pgd-20", x * 1, y * 1, **FAST).images["robust"].tolist() == wanted
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
