"""RobustBench's layout, without its package and with it: a checkpoint made here is imported, attacked, exported, and
loaded again by the package's own loader, with the same logits.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from shards import write_shards
from slowly import slow

from bench.commands.cli import main
from bench.ground.config import UserError
from bench.ledger.folder import Results
from bench.subjects import models, own, registry, zoo

CIFAR = (3, 32, 32)
ROUNDED = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))


def checkpoint(folder: Path, called: str, arch: str, statistics=None) -> torch.nn.Module:
    """models/DATASET/THREAT/NAME.pt with weights of its own, and the network that it is of."""
    entry, network = zoo.parse(called), models.create(arch, CIFAR, 10, seed=3)
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1), module.running_var.uniform_(0.5, 1.5)
    (folder / entry.file).parent.mkdir(parents=True)
    torch.save(zoo.state_of(entry, arch, network.state_dict(), statistics), folder / entry.file)
    return models.with_normalization(network, CIFAR, statistics)


CHECKPOINTS = [
    ("cifar10/Linf/Sehwag2021Proxy_R18", "resnet18", None),
    ("cifar10/L2/Rice2020Overfitting", "preact-resnet18", ROUNDED),
]


@pytest.mark.parametrize("called, arch, statistics", [CHECKPOINTS[0], *slow(CHECKPOINTS[1:])])
def test_a_checkpoint_made_here_goes_in_and_comes_out_the_same(tmp_path, monkeypatch, capsys, called, arch, statistics):
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "data" / "cifar10", "cifar10", "train", 1)
    write_shards(tmp_path / "data" / "cifar10", "cifar10", "test", 1)
    network, where = checkpoint(tmp_path, called, arch, statistics), ["--data-dir", "data", "--results", "r"]
    assert main(["import", f"robustbench:{called}", *where]) == 0
    run = capsys.readouterr().out.split()[-1]
    assert main(["attack", run, "fgsm", "--images", "4", *where]) == 0
    x = torch.rand(4, *CIFAR)
    entry = zoo.parse(called)
    again = [
        "export",
        run,
        "--format",
        "robustbench",
        "--name",
        called.partition("/")[2],
        "--out",
        "out",
        "--results",
        "r",
    ]
    assert main(again) == 0
    file = Path("out") / entry.file
    found = own.find(str(file), own.About(), CIFAR, 10).make()  # by its place alone
    assert torch.equal(found(x), network(x)) and torch.equal(registry.load(Results(Path("r")), run)[0](x), network(x))
    assert "fgsm | Linf 0.0313725 | 4 |" in (page := Path("out/README.md").read_text()) and "load_model" in page


@pytest.mark.skipif(importlib.util.find_spec("robustbench") is None, reason="the package robustbench is not installed")
@pytest.mark.parametrize("called, arch, statistics", [*CHECKPOINTS, ("cifar10/Linf/Standard", "wrn-28-10", None)])
@pytest.mark.filterwarnings("ignore")
def test_the_packages_own_loader_finds_the_same_logits(tmp_path, called, arch, statistics):
    network, entry = checkpoint(tmp_path, called, arch, statistics), zoo.parse(called)
    pytest.importorskip("pkg_resources", reason="robustbench needs setuptools below 81")
    zoo._models()
    from robustbench.utils import load_model

    theirs = load_model(entry.name, model_dir=tmp_path / "models", dataset=entry.dataset, threat_model=entry.threat)
    x = torch.rand(2, *CIFAR)
    with torch.no_grad():
        assert torch.allclose(theirs(x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "called, wrong",
    [("cifar10/Linf", "DATASET/THREAT/NAME"), ("cifar11/Linf/Standard", "did you mean 'cifar10'"),
     ("cifar10/linf/Standard", "did you mean 'Linf'"),
     ("cifar10/Linf/Standard", "there is no models/cifar10/Linf/Standard.pt")],
)  # fmt: skip
def test_a_name_that_is_not_there_is_a_sentence(tmp_path, monkeypatch, called, wrong):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=wrong):
        own.find(f"robustbench:{called}", own.About(), CIFAR, 10)


def test_a_network_is_not_exported_under_the_name_of_another_kind():
    state = models.create("resnet8", CIFAR, 10).state_dict()
    standard, moved = zoo.parse("cifar10/Linf/Standard"), zoo.parse("cifar10/Linf/Hendrycks2019Using")
    with pytest.raises(UserError, match="is a wrn-28-10, and this network a resnet8"):
        zoo.state_of(standard, "resnet8", state, None)
    for entry, statistics in ((standard, ROUNDED), (moved, None)):
        with pytest.raises(UserError, match="normalises otherwise"):
            zoo.state_of(entry, "wrn-28-10", {}, statistics)
    for bad in ("../x", "", "a/b"):
        with pytest.raises(UserError, match=r"--name|no name"):
            zoo.entry("cifar10", "Linf", bad)
