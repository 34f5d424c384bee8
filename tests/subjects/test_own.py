"""A model of one's own, whatever its library: factories are called by their signatures, logits are found, heads are
mapped, and what is put in front of the network is what was said.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bench.commands.cli import main
from bench.ground.config import UserError
from bench.ledger.folder import Results
from bench.subjects import chosen, factories, hubs, models, normalization, outputs, own
from bench.subjects.chosen import Choice
from bench.subjects.data import Images
from bench.subjects.heads import read_labels
from bench.subjects.normalization import Inputs

CIFAR = (3, 32, 32)
FACTORIES = """
from torch import nn
import torchvision

asked = []

def net(inside, classes):
    asked.append((inside, classes))
    return nn.Sequential(nn.Flatten(), nn.Linear(inside * 64, classes))

def shaped(image_shape, num_classes): return net(image_shape[0], num_classes)
def swapped(n_classes, in_chans): return net(in_chans, n_classes)
def positional(s, k): return net(s[0], k)
def anything(*given): return net(given[0][0], given[1])
def optional(width=3, num_classes=1000): return net(1, num_classes)
def untouched(depth=18, width=64): return net(1, 10)
def keywords(weights=None, **more): return net(1, more["num_classes"])
def closed(**more):
    if more: raise TypeError("closed() got an unexpected keyword argument 'num_classes'")
    return net(1, 10)
def asks(channels, depth): return net(channels, 10)
def sided(img_size, channels=3): return net(channels, 10) if img_size == 8 else None
class Carries(nn.Module):
    def __init__(self, form="tensor"):
        super().__init__()
        self.form, self.inner = form, net(1, 10)
    def forward(self, x):
        logits = self.inner(x)
        from types import SimpleNamespace
        return {"object": SimpleNamespace(logits=logits), "dict": {"loss": 0, "logits": logits},
                "tuple": (logits, x), "list": [logits], "image": (x, logits), "tensor": logits}[self.form]
def objects(): return Carries("object")
def dicts(): return Carries("dict")
def tuples(): return Carries("tuple")
def lists(): return Carries("list")
def images(): return Carries("image")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's own in the current folder, which imports torchvision."""
    (tmp_path / "mine.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("mine", None)  # another test's
    factories.load_module("mine:shaped", "mine")
    mine = sys.modules["mine"]
    mine.asked.clear()
    yield mine
    del sys.modules["mine"]


@pytest.mark.parametrize(
    "name, given",
    [("shaped", (1, 7)), ("swapped", (1, 7)), ("positional", (1, 7)), ("anything", (1, 7)), ("optional", (1, 7)),
     ("untouched", (1, 10)), ("keywords", (1, 7)), ("closed", (1, 10)), ("sided", (1, 10))],
)  # fmt: skip
def test_a_factory_is_given_what_its_signature_asks_for_and_nothing_else(mine, name, given):
    assert isinstance(factories.from_factory(f"mine:{name}", (1, 8, 8), 7), nn.Module) and mine.asked == [given]


def test_a_factory_that_asks_for_more_is_told_what_there_is(mine):
    with pytest.raises(UserError, match="mine:asks: it asks for depth; a factory may ask for an image shape"):
        factories.from_factory("mine:asks", (1, 8, 8), 7)


@pytest.mark.parametrize("form", ["objects", "dicts", "tuples", "lists"])
def test_logits_are_taken_out_of_what_carries_them_and_said_once(mine, form, capsys):
    made, _ = (models.create(f"mine:{form}", (1, 8, 8), 10) for _ in range(2))
    x = torch.rand(3, 1, 8, 8)
    assert isinstance(made, outputs.Logits) and torch.equal(made(x), made.network.inner(x))
    assert capsys.readouterr().err.count("taken as the logits") == 1


def test_a_tensor_is_left_alone_and_images_are_no_logits(mine):
    assert type(models.create("mine:untouched", (1, 8, 8), 10)).__name__ == "Sequential"
    assert type(models.create("mine:images", (1, 8, 8), 10)).__name__ == "Carries"


def test_such_a_network_is_trained_registered_and_attacked_like_any_other(mine, capsys):
    short = ["--set", "*-digits.schedule.epochs=1", "--set", "*-digits.inner.steps=1", "--results", "r"]
    assert main(["train", "at-digits", "--arch", "mine:dicts", *short]) == 0
    run = capsys.readouterr().out.split()[0]
    assert main(["attack", run, "clean", "--arch", "mine:dicts", "--images", "20", "--results", "r"]) == 0


# --- libraries --------------------------------------------------------------------------------------------------------


def weights_of(arch: str, path: Path, classes: int = 10, shape=CIFAR) -> nn.Module:
    network = models.create(arch, shape, classes, seed=1)
    torch.save(network.state_dict(), path)
    return network


@pytest.mark.parametrize("arch", ["torchvision:shufflenet_v2_x0_5", "torchvision.models:resnet18"])
def test_torchvision_by_name_and_by_factory_with_the_classes_of_the_data_or_of_the_file(tmp_path, arch):
    x = torch.rand(2, *CIFAR)
    ten = weights_of(arch, tmp_path / "ten.pt")
    found = own.find(str(tmp_path / "ten.pt"), own.About(arch), CIFAR, 10).make()
    assert torch.equal(found(x), ten.eval()(x)) and found(x).shape == (2, 10)
    many = weights_of(arch, tmp_path / "many.pt", 1000)
    with pytest.raises(UserError, match="its head is of 1000 classes; --labels FILE says which"):
        own.find(str(tmp_path / "many.pt"), own.About(arch), CIFAR, 10).make()
    (tmp_path / "labels").write_text("\n".join(str(99 * k) for k in range(10)))
    mapped = own.find(str(tmp_path / "many.pt"), own.About(arch, labels=tmp_path / "labels"), CIFAR, 10).make()
    assert torch.equal(mapped(x), many.eval()(x)[:, ::99][:, :10])


def test_a_name_without_weights_needs_a_network_and_a_wrong_one_is_told_the_nearest(tmp_path, monkeypatch):
    def offline(*_: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"cannot be downloaded .*Name or service not known.* --weights FILE"):
        own.find("torchvision:resnet18", own.About(), CIFAR, 10)
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        own.find("torchvision:resnet19", own.About(), CIFAR, 10)


def test_a_package_that_is_missing_is_told_by_its_pip_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match=r'pip install "robustness-bench\[timm\]"'):
        hubs.check("timm:resnet18")


def test_timms_own_normalisation_is_put_inside_said_and_left_out_on_request(tmp_path, capsys):
    pytest.importorskip("timm")
    name, file = "timm:resnet10t", tmp_path / "w.pt"
    plain, x = weights_of(name, file), torch.rand(2, *CIFAR)
    mean, std = torch.tensor(normalization.NAMED["imagenet"])[:, :, None, None]
    found = own.find(name, about := own.About(weights=file), CIFAR, 10).make()
    own.say_inputs(name, found, about, 3)
    assert torch.allclose(found(x), plain((x - mean) / std), atol=1e-5)
    assert "mean 0.485, 0.456, 0.406" in (said := capsys.readouterr().err) and "timm's configuration" in said
    bare = own.find(name, own.About(weights=file, inputs=Inputs(normalization="none")), CIFAR, 10).make()
    assert torch.equal(bare(x), plain(x))


def test_a_librarys_network_is_another_under_another_name_or_behind_other_inputs(tmp_path):
    arch, file = "torchvision:shufflenet_v2_x0_5", tmp_path / "w.safetensors"
    save_file(models.create(arch, CIFAR, 10, seed=0).state_dict(), file)
    about = {"model": str(file), "results": Results(tmp_path), "arch": arch}
    test = Images(torch.rand(1, *CIFAR), torch.zeros(1, dtype=torch.int64), torch.arange(1))
    dataset = SimpleNamespace(image_shape=CIFAR, classes=10, test=test)
    device = torch.device("cpu")
    ids = {
        Choice(**about, **more).subjects(dataset, device)[0].run_id
        for more in ({}, {"normalization": "cifar10"}, {"normalization": "none"}, {"input_range": (0.0, 255.0)})
    }
    assert len(ids) == 3, "none is what nothing said is"
    network, names = nn.Linear(2, 2), (arch, "torchvision:another")
    one, other = (chosen._identity(network, own.Own(nn.Identity, name, name), CIFAR) for name in names)
    assert one != other


# --- what goes in -----------------------------------------------------------------------------------------------------


def test_a_range_and_a_normalisation_in_it_are_one_map_of_images_in_0_to_1():
    """Written out: images are taken to the range first, and mean and std are in its units."""
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for span in ((0.0, 255.0), (-1.0, 1.0), (2.0, 5.0)):
        mean, std = (10.0, 20.0, 30.0), (2.0, 3.0, 4.0)
        raw = x * (span[1] - span[0]) + span[0]
        expected = (raw - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        found = models.Normalize(*Inputs(mean, std, span=span).statistics(3))(x)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
        assert torch.allclose(models.Normalize(*Inputs(span=span).statistics(3))(x), raw, rtol=1e-5, atol=1e-5)
    assert Inputs(normalization="none").statistics(3) is None and Inputs().statistics(3) is None


@pytest.mark.parametrize(
    "said, wrong",
    [
        ({"normalization": "imagent"}, "did you mean 'imagenet'"),
        ({"normalization": "mnist"}, "of 1 channel"),
        ({"normalization": "imagenet", "mean": (0.5,), "std": (0.5,)}, "give one or the other"),
        ({"mean": (0.5,) * 3}, "go together"),
        ({"mean": (0.5,) * 3, "std": (0.5, 0.0, 0.5)}, "above 0"),
    ],
)
def test_what_cannot_be_put_in_front_is_refused(said, wrong):
    with pytest.raises(UserError, match=wrong):
        Inputs(**said).statistics(3)


@pytest.mark.parametrize("text", ["", "a", "255,0", "1,2,3", "0,nan", "inf"])
def test_a_range_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="--range"):
        normalization.read_range(text)


# --- heads ------------------------------------------------------------------------------------------------------------


class Head(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :5]


def test_a_class_that_several_logits_stand_for_has_the_largest_and_all_others_are_left_out():
    x = torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    z = x.flatten(1)
    found = outputs.Mapped(Head(), [[4], [0, 2]])(x)
    assert torch.equal(found, torch.stack([z[:, 4], z[:, [0, 2]].amax(1)], 1))
    with pytest.raises(ValueError, match="names logit 5, and the network returns 5"):
        outputs.Mapped(Head(), [[5], [0]])(x)


@pytest.mark.parametrize("name, text", [("a.txt", "# order\n3\n1, 2 # two\n\n0\n"), ("a.json", "[3, [1, 2], 0]"),
                                        ("b.json", '{"0": 3, "2": [0], "1": [1, 2]}')])  # fmt: skip
def test_labels_are_read_in_every_form(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_labels(tmp_path / name, 3) == [[3], [1, 2], [0]]


@pytest.mark.parametrize(
    "name, text, wrong",
    [("a", "0\n1\n", "labels for 2 classes, and the data set has 3"), ("a", "0\n1\n1\n", "logit 1 stands for class 1"),
     ("a", "0\n-1\n2\n", "-1 of class 1"), ("a", "cat\n1\n2\n", "cannot read labels"),
     ("a.json", "[0, [], 2]", "class 1 has"),
     ("a.json", "[0, 1.5, 2]", "no whole number"), ("a.json", '{"0": 1, "x": 2, "2": 3}', "cannot read"),
     ("a.json", json.dumps([True, 0, 2]), "no whole number"), ("gone", None, "cannot read labels")],
)  # fmt: skip
def test_labels_that_are_none_are_refused(tmp_path, name, text, wrong):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=wrong):
        read_labels(tmp_path / name, 3)


def test_a_larger_head_is_refused_without_labels_whatever_makes_it(mine, capsys):
    assert main(["attack", "mine:optional", "clean", "--images", "5", "--labels", "labels"]) == 2
    (Path("labels")).write_text("\n".join(map(str, range(990, 1000))))
    capsys.readouterr()
    assert main(["attack", "mine:optional", "clean", "--images", "5", "--labels", "labels"]) == 0
    assert mine.asked[-1] == (1, 1000), "the factory's own head"
    Path("wide.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 12))\n"
    )
    assert main(["attack", "wide:make", "clean", "--images", "5"]) == 2
    assert "returns 12 classes; the data set has 10; --labels FILE says" in capsys.readouterr().err
