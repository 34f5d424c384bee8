"""Compiled passes: the same function up to rounding, one seed one result, exact resume, a word where no compiler is."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from methods import method
from test_loop import same
from tiny import SCHEDULE, networks, stripes, train, weights

from bench.ground.config import settings_of
from bench.subjects import models
from trainers.health import TrainingError
from trainers.loop import fit
from trainers.passes import EAGER, Passes, no_compiler, passes_for
from trainers.schedule import Schedule

CPU = torch.device("cpu")
COMPILED = replace(SCHEDULE, compile="auto")
pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler's own
needs_a_compiler = pytest.mark.skipif(bool(no_compiler(CPU)), reason=f"no compiler here: {no_compiler(CPU)}")


def both(mode: bool, frozen: bool) -> list[tuple[torch.Tensor, ...]]:
    """What resnet8 makes of 8 images, as it is and compiled: logits, gradients, buffers afterwards."""
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = []
    for passes in (Passes(), Passes(8)):
        network = models.create("resnet8", (3, 16, 16), 10, seed=0).train(mode)
        passes.arrange([network])
        image = passes.arranged(x).clone().requires_grad_(True)
        logits = passes(network, image, frozen)
        wanted = [image] if frozen else [image, *network.parameters()]
        grads = torch.autograd.grad(logits.square().sum(), wanted)
        found.append((logits.detach(), *grads, *(buffer.clone() for buffer in network.buffers())))
    return found


@needs_a_compiler
@pytest.mark.parametrize(
    "mode, frozen",
    [
        pytest.param(True, False, marks=pytest.mark.slow),
        (False, True),
        pytest.param(True, True, marks=pytest.mark.slow),
    ],
)
def test_a_compiled_pass_is_the_same_function_and_moves_the_same_statistics(mode: bool, frozen: bool):
    for plain, compiled in zip(*both(mode, frozen), strict=True):
        assert torch.allclose(plain.float(), compiled.float(), rtol=2e-3, atol=2e-4)


@needs_a_compiler
def test_an_attack_on_compiled_code_leaves_no_gradient_in_the_weights():
    network, passes = networks(1)[0], Passes(4)
    x = stripes(4).x.clone().requires_grad_(True)
    passes.frozen(network)(x).sum().backward()
    assert x.grad is not None and all(parameter.grad is None for parameter in network.parameters())


@needs_a_compiler
def test_networks_of_one_architecture_share_the_code():
    passes = Passes(4)
    for network in networks(3):
        passes(network, stripes(4).x)
    assert len(passes._compiled) == 1


@needs_a_compiler
@pytest.mark.parametrize("name", ["at", "mat"])
def test_one_seed_twice_is_one_result_and_stopping_changes_no_bit(name: str, tmp_path: Path):
    _, whole = train(name, COMPILED)
    path = tmp_path / "checkpoint.pt"
    left = [3]

    def interrupt() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(name, COMPILED, checkpoint=path, identity="a", minutes=0, on_step=interrupt)
    assert path.exists()
    _, resumed = train(name, COMPILED, checkpoint=path, identity="a", minutes=0)
    same(whole, resumed)
    assert whole.run_as.startswith("channels last, compiled")


@needs_a_compiler
def test_a_checkpoint_is_not_continued_with_other_rounding(tmp_path: Path):
    path = tmp_path / "checkpoint.pt"
    train("at", COMPILED, checkpoint=path, identity="a")
    with pytest.raises(TrainingError, match="rounds otherwise"):
        train("at", SCHEDULE, checkpoint=path, identity="a")


@pytest.mark.slow
def test_without_a_compiler_it_runs_as_it_is_and_says_so():
    code = (
        "import torch; from trainers.passes import passes_for; "
        "passes, words = passes_for('auto', 8, torch.device('cpu')); print(passes.batch, words)"
    )
    environment = os.environ | {"CXX": "/nonexistent/c++", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith(f"None {EAGER}, as there is no compiler ("), done.stdout + done.stderr[-500:]


def test_off_compiles_nothing_and_keeps_the_identity():
    assert passes_for("off", 8, CPU)[1] == EAGER
    assert "compile" not in settings_of(SCHEDULE)
    assert settings_of(COMPILED) == settings_of(SCHEDULE) | {"compile": "auto"}


def test_training_images_in_bytes_train_to_the_same_bits():
    levels = (stripes(24).x * 255).round().to(torch.uint8)
    split, results = stripes(24), []
    for x in (levels, levels.float() / 255):
        made = networks(1)
        fit(method("at"), made, split._replace(x=x), split, Schedule(2, batch_size=8, augment=False), 0)
        results.append(weights(made[0]))
    assert torch.equal(*results)
