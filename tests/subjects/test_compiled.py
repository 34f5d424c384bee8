"""Compiled attack passes: the same verdicts, at a place that counting decides, and only where they are the network."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from subjects.test_quick import images, plain

from attacks.contract import ThreatModel
from attacks.deepfool import DeepFool
from attacks.noise import Noise
from attacks.pgd import PGD
from attacks.target import Target
from bench.judge.evaluate import evaluate
from bench.ledger.ids import EVAL_OPTIONS
from bench.subjects import compiled as module
from bench.subjects.compiled import Compiled
from bench.subjects.data import Images
from bench.subjects.folding import arranged
from bench.subjects.quick import Arrangement
from trainers.passes import no_compiler

pytestmark = pytest.mark.skipif(bool(no_compiler(torch.device("cpu"))), reason="no compiler here")


@pytest.fixture(scope="module")
def networks():
    """A network, and its copy that compiles after 32 images; batches of 16."""
    network, x = plain(), images()
    return network, Compiled(arranged(network, x), 16, after=32)


def ids(x):
    return Noise(0, torch.arange(len(x)))


def test_batches_are_filled_up_or_cut_and_small_rests_run_as_they_are():
    parts = {count: list(Compiled(plain(), 16)._parts(count)) for count in (16, 13, 11, 6, 2, 0)}
    assert parts[16] == [(slice(0, 16), 16)] and parts[13] == [(slice(0, 13), 16)]
    assert parts[11] == [(slice(0, 4), 4), (slice(4, 8), 4), (slice(8, 11), 4)]
    assert parts[6] == [(slice(0, 4), 4), (slice(4, 6), None)] and parts[2] == [(slice(0, 2), None)]
    assert parts[0] == [(slice(0, 0), None)]


@pytest.mark.parametrize(
    "attack", [PGD(ThreatModel("Linf", 0.02), 8, 0.005), DeepFool(ThreatModel("L2", 0.4))], ids=["pgd", "deepfool"]
)
def test_verdicts_are_those_of_the_network_as_it_is(networks, attack):
    network, copy = networks
    x = images()
    y = network(x).argmax(1)
    here, there = (attack(Target(network, 16, quick=quick), x, y, ids(x)) for quick in (copy, network))
    assert torch.allclose(here, there, atol=1e-4)
    fooled = [network(x_adv).argmax(1) != y for x_adv in (here, there)]
    assert torch.equal(*fooled) and 0 < int(fooled[0].sum()), "the sample must hold images that fall"
    assert not copy.refused and copy.seen[16, True, False] > 32, "compiled code has run"


def test_what_is_compiled_is_decided_by_counting_so_the_bits_are_the_same_twice(networks):
    network, first = networks
    x = images()
    y, attack = network(x).argmax(1), PGD(ThreatModel("L2", 0.5), 8, 0.1, stop="last")
    made = [attack(Target(network, 16, quick=Compiled(first.network, 16, after=32)), x, y, ids(x)) for _ in range(2)]
    never = attack(Target(network, 16, quick=first.network), x, y, ids(x))
    assert torch.equal(*made) and not torch.equal(made[0], never), "compiled code rounds otherwise"


def test_nothing_is_compiled_before_it_pays(monkeypatch):
    monkeypatch.setattr(module, "_code_of", None)
    copy = Compiled(arranged(plain(), images()), 16)
    for _ in range(5):
        copy(images(16))
    assert copy.after == module.WORTH["cpu"] / module.operations(copy.network, images(1)) > 1e6


@pytest.mark.parametrize(
    "lie, words",
    [
        (lambda z, x: z * 1.01, "other logits"),
        (lambda z, x: z.detach() + 0 * x.sum(), "other gradients"),
        (lambda z, x: [][0], "out of range"),
    ],
)
def test_code_that_is_another_function_is_not_used_and_that_is_said(lie, words, monkeypatch, capsys):
    copy, x = Compiled(arranged(plain(), images()), 16, after=16), images(16)
    monkeypatch.setattr(module, "_code_of", lambda network, state: lambda state, x: lie(network(x), x))
    outs = [copy(x) for _ in range(3)]
    assert all(torch.equal(out, copy.network(x)) for out in outs) and words in copy.refused[16, True, False]
    assert capsys.readouterr().err.count("not compiled") == 1
    monkeypatch.setattr(module, "_code_of", lambda network, state: lambda state, x: network(x))
    with torch.no_grad():
        copy(images(32)[:16]), copy(x)
    assert list(copy.refused) == [(16, True, False)], "what goes wrong in one kind of pass leaves the others"


@pytest.mark.parametrize(
    "ours, theirs, words",
    [
        (0.0, 0.0, ""),
        (0.0, 1e-3, "logits"),
        (0.01, 0.015, ""),  # bfloat16 rounds so, with and without a compiler
        (0.01, 0.03, "logits"),
        (0.01, float("nan"), "logits"),
    ],
)
def test_in_mixed_precision_compiled_code_is_held_to_the_error_that_is_there_without_it(ours, theirs, words):
    logits, slope = torch.rand(16, 10), torch.rand(16, 1, 8, 8)
    off = torch.ones(16, 10)
    assert words in module._worse((logits, slope), (logits + ours * off, slope), (logits + theirs * off, slope))
    assert bool(words) == bool(module._worse((logits, slope), (logits + ours, slope), (logits + theirs, slope)))


@pytest.mark.parametrize("share, words", [(0.2, ""), (0.3, "gradients")])
def test_gradients_of_a_quarter_of_the_images_may_jump_and_no_more(share, words):
    logits, slope = torch.rand(100, 10), torch.rand(100, 1, 8, 8)
    turned = torch.where(torch.arange(100)[:, None, None, None] < 100 * share, -slope, slope)
    assert words in module._worse((logits, slope), (logits, slope), (logits, turned))
    assert bool(words) == bool(module._worse((logits, slope), (logits, slope), (logits, turned)))


def test_an_evaluation_compiles_only_where_it_is_asked_to(monkeypatch):
    made = []
    monkeypatch.setattr("bench.subjects.quick.Compiled", lambda copy, batch: made.append(batch) or copy)
    network, x = plain(), images()
    some = Images(x, network(x).argmax(1), torch.arange(len(x)))
    attack = PGD(ThreatModel("Linf", 0.02), 2, 0.01)
    verdicts = [
        evaluate(network, attack, some, 10, run=Arrangement(20, compile=kind)).table.to_dict()
        for kind in ("off", "auto")
    ]
    assert made == [20] and verdicts[0] == verdicts[1]


def test_what_rounds_otherwise_has_its_own_id():
    every = [Arrangement(None, precision, kind) for kind in ("off", "auto") for precision in ("float32", "bfloat16")]
    assert [one.identity for one in every] == list(EVAL_OPTIONS)
    assert Arrangement(7).identity == {"gradient_precision": "float32"}, "and old ids are as they were"


def test_networks_of_one_architecture_share_their_code(networks):
    network, _ = networks
    before = len(module._code)
    other = deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    second, x = Compiled(arranged(other, images()), 16, after=0), images(16).requires_grad_(True)
    assert torch.allclose(second(x), other(x), atol=1e-5) and not second.refused and len(module._code) == before
    assert not torch.allclose(other(x), network(x), atol=1e-2)
