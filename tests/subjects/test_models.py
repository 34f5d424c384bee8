"""Architectures and weights files: shapes, no unused parameters, and every way a file can be wrong."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bench.ground.config import UserError
from bench.subjects import data, models, weights
from bench.subjects.quick import quick

REAL = Path(os.environ.get("BENCH_DATA", ""))
SMALL = ["cnn-small", "cnn-a", "resnet8", "resnet20"]


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_logits_have_their_shape_and_every_parameter_is_used(name):
    model = models.create(name, (3, 32, 32), 7, seed=0)
    assert not model.training
    logits = model(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape, classes", [((1, 8, 8), 2), ((3, 64, 64), 1000), ((1, 28, 28), 10)])
def test_other_sizes(name, shape, classes):
    assert models.create(name, shape, classes)(torch.rand(3, *shape)).shape == (3, classes)


def test_sizes_are_the_published_ones():
    """WRN-34-10 46.2 M, WRN-28-10 36.5 M, ResNet-18 11.2 M, ResNet-20 0.27 M parameters."""
    millions = {"wrn-34-10": 46.2, "wrn-28-10": 36.5, "resnet18": 11.2, "resnet20": 0.27}
    for name, expected in millions.items():
        with torch.device("meta"):
            count = sum(p.numel() for p in models.MODELS[name]((3, 32, 32), 10).parameters())
        assert count / 1e6 == pytest.approx(expected, rel=0.02), name


def test_blocks_are_those_of_their_papers():
    """Written out: the pre-activation shortcut starts after the first activation, and only where the shape changes."""
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    for inside, outside, stride in ((4, 4, 1), (4, 8, 2)):
        for kind in (models.BasicBlock, models.PreActBlock):
            torch.manual_seed(0)
            block = kind(inside, outside, stride).eval()
            for norm in (block.bn1, block.bn2):
                nn.init.normal_(norm.bias)
                norm.running_mean.normal_()
            if kind is models.PreActBlock:
                active = block.bn1(x).relu()
                short = x if block.shortcut is None else block.shortcut(active)
                expected = block.conv2(block.bn2(block.conv1(active)).relu()) + short
                assert (block.shortcut is None) == (inside == outside)
            else:
                expected = (block.bn2(block.conv2(block.bn1(block.conv1(x)).relu())) + block.shortcut(x)).relu()
                assert (len(block.shortcut) == 0) == (inside == outside)
            assert torch.allclose(block(x), expected, atol=1e-6)
            assert expected.shape == (2, outside, 6 // stride, 6 // stride)


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_convolutions_start_as_in_the_code_of_the_papers(name):
    """Standard deviation: He's sqrt(2 / fan-out), or that of torch's uniform draw in +- 1 / sqrt(fan-in)."""
    model, torchs = models.create(name, (3, 32, 32), 10, seed=0), name in ("resnet18", "preact-resnet18")
    several = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000]
    assert several
    for module in several:
        area = module.kernel_size[0] * module.kernel_size[1]
        expected = (1 / (3 * module.in_channels * area)) ** 0.5 if torchs else (2 / (module.out_channels * area)) ** 0.5
        assert module.weight.std().item() == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("name", ["resnet18", "preact-resnet18"])
def test_resnet18_starts_at_the_norm_of_the_official_ones(name):
    """40.0 over all convolutions of their networks at seed 0, measured; He's draw has 87.7."""
    model = models.create(name, (3, 32, 32), 10, seed=0)
    convolutions = [module.weight.flatten() for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert torch.cat(convolutions).norm().item() == pytest.approx(40.0, abs=0.05)


def test_an_architecture_has_its_version_in_every_place_of_a_name():
    assert models.versions(["cnn-small", "wrn-34-10"]) == {}
    assert set(models.versions(["cnn-small", "oracles:small_cnn"])) == {"oracles:small_cnn"}, "the hash of its code"
    assert models.versions(["resnet8+resnet18", "cnn-a"]) == {"resnet18": 2}


def test_a_seed_fixes_the_weights_and_the_global_state_is_untouched():
    state = torch.random.get_rng_state()
    a, b, c = (models.create("cnn-a", (1, 8, 8), 10, seed) for seed in (1, 1, 2))
    assert torch.equal(a[0].weight, b[0].weight) and not torch.equal(a[0].weight, c[0].weight)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_normalisation_is_inside():
    plain = models.create("cnn-a", (3, 8, 8), 10, seed=0)
    inside = models.create("cnn-a", (3, 8, 8), 10, seed=0, normalize=([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    x = torch.rand(4, 3, 8, 8)
    mean, std = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    assert torch.allclose(inside(x), plain((x - mean) / std), atol=1e-6)
    with pytest.raises(UserError, match="3 values"):
        models.create("cnn-a", (3, 8, 8), 10, normalize=([0.5], [0.2]))


def test_a_users_own_factory(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(
        "from torch import nn\n"
        "def plain(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "def sized(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes))\n"
        "def broken(): raise RuntimeError('out of paper')\n"
        "def wrong(): return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for factory in ("plain", "sized"):
        assert models.create(f"own_models:{factory}", (1, 8, 8), 10)(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    for factory, message in (("broken", "out of paper"), ("wrong", "not a torch.nn.Module"), ("none", "no attribute")):
        with pytest.raises(UserError, match=message):
            models.create(f"own_models:{factory}", (1, 8, 8), 10)
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        models.create("resnet19", (1, 8, 8), 10)


def state():
    return models.create("cnn-a", (1, 8, 8), 10, seed=3).state_dict()


def load(path, arch="cnn-a", classes=10, **options):
    return weights.from_weights(path, arch, (1, 8, 8), classes, **options)


def test_files_wrappers_and_prefixes_all_give_the_same_network(tmp_path):
    x = torch.rand(2, 1, 8, 8)
    expected = models.create("cnn-a", (1, 8, 8), 10, seed=3)(x)
    save_file(state(), tmp_path / "a.safetensors")
    torch.save(state(), tmp_path / "b.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state().items()}, "epoch": 3}, tmp_path / "c.pt")
    for name in ("a.safetensors", "b.pt", "c.pt"):
        assert torch.equal(load(tmp_path / name)(x), expected)


def test_a_file_that_holds_its_normalisation_keeps_it(tmp_path):
    model = models.create("cnn-a", (1, 8, 8), 10, seed=3, normalize=([0.4], [0.2]))
    save_file(model.state_dict(), tmp_path / "n.safetensors")
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(load(tmp_path / "n.safetensors")(x), model(x))
    with pytest.raises(UserError, match="its own normalisation"):
        load(tmp_path / "n.safetensors", normalize=([0.4], [0.2]))


class Evil:
    def __reduce__(self):
        return (os.system, ("touch hacked",))


def make(path, kind):
    if kind == "truncated safetensors":
        save_file(state(), path)
        path.write_bytes(path.read_bytes()[:-50])
    elif kind == "truncated torch":
        torch.save(state(), path)
        path.write_bytes(path.read_bytes()[:-500])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"weight": Evil()}))
    elif kind == "whole module":
        torch.save(nn.Linear(2, 2), path)
    elif kind == "list":
        torch.save([torch.zeros(2)], path)
    elif kind == "noise":
        path.write_bytes(b"<html>quota exceeded</html>")


@pytest.mark.parametrize(
    "suffix, kind, message",
    [
        ("safetensors", "truncated safetensors", "not a whole safetensors file"),
        ("pt", "truncated torch", "cannot be read as weights|not plain weights"),
        ("pt", "pickle", "not plain weights"),
        ("pt", "whole module", "not plain weights"),
        ("pt", "list", "holds no state dict"),
        ("pt", "noise", "not plain weights|cannot be read"),
        ("pt", "missing", "cannot read weights"),
    ],
)
def test_files_that_are_not_weights_are_refused_and_run_nothing(tmp_path, monkeypatch, suffix, kind, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"file.{suffix}"
    make(path, kind)
    with pytest.raises(UserError, match=message):
        load(path)
    assert not (tmp_path / "hacked").exists()


def test_altered_files_and_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(state(), path)
    with pytest.raises(UserError, match="truncated or altered"):
        load(path, sha256="0" * 64)
    with pytest.raises(UserError, match=r"another shape: .*7\.weight"):
        load(path, classes=5)
    with pytest.raises(UserError, match=r"missing: stem\.weight"):
        load(path, arch="resnet8")


def test_wrn_checkpoints_with_their_unused_block_are_mapped(tmp_path, monkeypatch):
    """The names of TRADES' WRN: block1.layer.0.bn1 ..., bn1, fc, convShortcut, and a sub_block1 that nothing uses."""
    thin = lambda shape, classes: models.ResNet(  # noqa: E731
        models.PreActBlock, 4, (8, 8, 8), (2, 2, 2), shape, classes, preactivation=True
    )
    monkeypatch.setitem(models.MODELS, "wrn-thin", thin)
    model = models.create("wrn-thin", (3, 16, 16), 10, seed=1)
    theirs = {}
    for name, value in model.state_dict().items():
        if name.startswith("blocks."):
            index, rest = name.split(".", 2)[1:]
            name = f"block{int(index) // 2 + 1}.layer.{int(index) % 2}.{rest.replace('shortcut', 'convShortcut')}"
        name = name.replace("stem.", "conv1.").replace("last_bn.", "bn1.").replace("linear.", "fc.")
        theirs[name] = value
    theirs |= {name.replace("block1.", "sub_block1."): v for name, v in theirs.items() if name.startswith("block1.")}
    torch.save({"state_dict": {f"module.{name}": value for name, value in theirs.items()}}, tmp_path / "w.pt")
    loaded = weights.from_weights(tmp_path / "w.pt", "wrn-thin", (3, 16, 16), 10)
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(x), model(x))


@pytest.mark.skipif(not (REAL / "checkpoints").is_dir(), reason="BENCH_DATA holds no checkpoints folder")
def test_published_checkpoints_have_their_published_clean_accuracy():
    statistics = ([125.3 / 255, 123.0 / 255, 113.9 / 255], [63.0 / 255, 62.1 / 255, 66.7 / 255])
    cifar, mnist = data.load("cifar10", REAL).test, data.load("mnist", REAL).test
    numbers = [int(n) for n in (REAL / "checkpoints" / "cifar10_cnn_a_adv.images.txt").read_text().split()]
    path = REAL / "checkpoints" / "cifar10_cnn_a_adv.pt"
    model = weights.from_weights(path, "cnn-a", (3, 32, 32), 10, statistics)
    chosen = cifar.take(torch.tensor(numbers))
    with torch.no_grad():
        assert (model(chosen.x).argmax(1) == chosen.y).sum() == 140
        assert (model(cifar.x).argmax(1) == cifar.y).sum() == 6565
        model = weights.from_weights(REAL / "checkpoints" / "mnist_wk17a_linf0.1.pt", "cnn-a", (1, 28, 28), 10)
        assert (model(mnist.x).argmax(1) == mnist.y).sum() == 9811


def test_an_ensemble_is_the_mean_of_probabilities():
    whole = models.create("cnn-a+cnn-a", (3, 32, 32), 10, seed=4)
    parts = [models.create("cnn-a", (3, 32, 32), 10, seed=seed) for seed in (4, 5)]
    x = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean = (parts[0](x).softmax(1) + parts[1](x).softmax(1)) / 2
    assert torch.allclose(whole(x).exp(), mean, atol=1e-6)
    assert torch.allclose(quick(whole, x)(x), whole(x), atol=1e-5) and quick(whole, x) is not whole
    state = models.ensemble_state([part.state_dict() for part in parts])
    assert state.keys() == whole.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in whole.state_dict().items())
    with pytest.raises(UserError, match="'resnet9'"):
        models.check_name("cnn-a+resnet9")
