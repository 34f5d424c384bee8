"""Other people's weights: official layouts fit ours with the same logits, of several networks the one that was taken is
said, and what no network can be made of is a sentence.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.ground.config import UserError
from bench.subjects import models, weights

CIFAR = (3, 32, 32)


def unit(inside: int, outside: int, stride: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)


class Plain(nn.Module):
    """The block of He et al. 2016, figure 5 (a), with a projection where the shape changes, under CIFAR code's names
    (`shortcut`) or torchvision's (`downsample`).
    """

    def __init__(self, inside: int, outside: int, stride: int, side: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = unit(inside, outside, stride), nn.BatchNorm2d(outside)
        self.conv2, self.bn2 = unit(outside, outside, 1), nn.BatchNorm2d(outside)
        self.side = side
        if stride > 1 or inside != outside:
            self.add_module(side, nn.Sequential(unit(inside, outside, stride, 1), nn.BatchNorm2d(outside)))

    def forward(self, x: Tensor) -> Tensor:
        way = getattr(self, self.side, None)
        return F.relu((x if way is None else way(x)) + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Before(nn.Module):
    """The block of He et al. 2016 (Identity Mappings), figure 1 (b): the projection reads the first activation."""

    def __init__(self, inside: int, outside: int, stride: int, side: str) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inside), unit(inside, outside, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outside), unit(outside, outside, 1)
        if stride > 1 or inside != outside:
            self.shortcut = nn.Sequential(unit(inside, outside, stride, 1))

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        way = self.shortcut(active) if hasattr(self, "shortcut") else x
        return way + self.conv2(F.relu(self.bn2(self.conv1(active))))


class Official(nn.Module):
    """Written from the papers and the official names alone: conv1, bn1 or bn, layer1 ..., linear or fc."""

    def __init__(
        self, block: type, widths: list[int], depth: int, side: str = "shortcut", last: str = "linear"
    ) -> None:
        super().__init__()
        self.before, self.last, inside = block is Before, last, widths[0]
        self.conv1 = unit(3, inside, 1)
        self.add_module("bn" if self.before else "bn1", nn.BatchNorm2d(widths[-1] if self.before else inside))
        for stage, width in enumerate(widths, 1):
            blocks = []
            for n in range(depth):
                blocks.append(block(inside, width, 2 if stage > 1 and n == 0 else 1, side))
                inside = width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.stages = len(widths)
        self.add_module(last, nn.Linear(inside, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = x if self.before else F.relu(self.bn1(x))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        x = F.relu(self.bn(x)) if self.before else x
        return getattr(self, self.last)(F.avg_pool2d(x, x.shape[-1]).flatten(1))


OFFICIAL: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "CIFAR code": ("resnet18", lambda: Official(Plain, [64, 128, 256, 512], 2)),
    "torchvision's names": ("resnet18", lambda: Official(Plain, [64, 128, 256, 512], 2, "downsample", "fc")),
    "pre-activation": ("preact-resnet18", lambda: Official(Before, [64, 128, 256, 512], 2)),
    "ResNet-20": ("resnet20", lambda: Official(Plain, [16, 32, 64], 3)),
    "ResNet-20, torchvision's names": ("resnet20", lambda: Official(Plain, [16, 32, 64], 3, "downsample", "fc")),
    "ResNet-8": ("resnet8", lambda: Official(Plain, [16, 32, 64], 1)),
}


@pytest.mark.parametrize("prefix", ["", "module.", "module.model."])
@pytest.mark.parametrize("name", OFFICIAL)
def test_official_checkpoints_have_the_logits_of_an_independent_implementation(name, prefix, tmp_path):
    """Also with statistics of batch norm that are not those it starts with."""
    if prefix and name != "CIFAR code":
        pytest.skip("one architecture says it of the prefixes")
    arch, make = OFFICIAL[name]
    torch.manual_seed(0)
    theirs = make()
    x = torch.rand(8, *CIFAR)
    theirs.train()(3 * x)
    state = {f"{prefix}{key}": value for key, value in theirs.eval().state_dict().items()}
    torch.save({"net": state, "acc": 94.0, "epoch": 199}, tmp_path / "ckpt.pth")
    ours = weights.from_weights(tmp_path / "ckpt.pth", arch, CIFAR, 10)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5) and theirs(x).std() > 0.01
    if arch == "resnet18":
        assert sum(p.numel() for p in ours.parameters()) == 11_173_962


def test_an_official_checkpoint_keeps_the_normalisation_in_front_of_it(tmp_path):
    """As of nn.DataParallel(nn.Sequential(normalisation, network))."""
    torch.manual_seed(0)
    theirs = OFFICIAL["ResNet-8"][1]().eval()
    state = {f"module.1.{key}": value for key, value in theirs.state_dict().items()}
    state |= {"module.0.mean": torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), "module.0.std": torch.full((3,), 0.25)}
    torch.save(state, tmp_path / "w.pt")
    x = torch.rand(4, *CIFAR)
    ours = weights.from_weights(tmp_path / "w.pt", "resnet8", CIFAR, 10)
    expected = theirs((x - torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)) / 0.25)
    assert torch.allclose(ours(x), expected, atol=1e-5)


def test_a_layout_that_only_looks_alike_is_refused(tmp_path):
    """Without projections (He's option A), without the last batch norm, another depth, a file with both names."""
    for change, words in (
        (lambda state: {k: v for k, v in state.items() if "shortcut" not in k}, r"missing: blocks\.1\.shortcut"),
        (lambda state: {k: v for k, v in state.items() if not k.startswith("layer3")}, "missing: blocks"),
        (lambda state: state | {"layer3.1.conv1.weight": torch.ones(64, 64, 3, 3)}, "not known: blocks"),
        (lambda state: state | {"stem.weight": state["conv1.weight"]}, "not known: conv1"),
    ):
        torch.save(change(OFFICIAL["ResNet-8"][1]().state_dict()), tmp_path / "w.pt")
        with pytest.raises(UserError, match=words):
            weights.from_weights(tmp_path / "w.pt", "resnet8", CIFAR, 10)
    rice = OFFICIAL["pre-activation"][1]().state_dict()
    torch.save({k: v for k, v in rice.items() if not k.startswith("bn.")}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"missing: last_bn"):
        weights.from_weights(tmp_path / "w.pt", "preact-resnet18", CIFAR, 10)


# --- several networks -------------------------------------------------------------------------------------------------


def state(seed: int) -> dict[str, Tensor]:
    return models.create("cnn-a", (1, 8, 8), 10, seed=seed).state_dict()


def load(path, key: str | None = None) -> nn.Module:
    return weights.from_weights(path, "cnn-a", (1, 8, 8), 10, key=key)


def is_of(network: nn.Module, seed: int) -> bool:
    return torch.equal(network.state_dict()["0.weight"], state(seed)["0.weight"])


PAIRS = {
    "state_dict and state_dict_ema": lambda a, b: {"state_dict": a, "state_dict_ema": b, "epoch": 3},
    "net and ema": lambda a, b: {"ema": b, "net": a},
    "model and best": lambda a, b: {"best": b, "model": a},
    "in a wrapper": lambda a, b: {"state": {"model": a, "model_ema": b}, "epoch": 1},
    "wrapped twice": lambda a, b: {"model": {"state_dict": a}, "ema": {"state_dict": b}},
    "ordered": lambda a, b: OrderedDict(model_state_dict=OrderedDict(a), ema_state_dict=OrderedDict(b)),
    "in one mapping": lambda a, b: {f"model.{k}": v for k, v in a.items()} | {f"ema.{k}": v for k, v in b.items()},
    "Lightning": lambda a, b: {
        "state_dict": {f"model.{k}": v for k, v in a.items()} | {f"model_ema.module.{k}": v for k, v in b.items()}
    },
    "with an optimiser": lambda a, b: {
        "net": a, "ema": b, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 1}]}
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_of_two_networks_the_one_that_was_taken_is_said_and_a_key_takes_the_other(name, tmp_path, capsys):
    path = tmp_path / "two.pt"
    torch.save(PAIRS[name](state(1), state(2)), path)
    network, said = load(path), capsys.readouterr().err
    assert said.startswith(f"bench: {path} holds 2 sets of weights (") and "--weights-key takes another" in said
    keys = said.partition("(")[2].partition(")")[0].split(", ")
    taken = said.partition("; ")[2].partition(" was taken")[0]
    assert len(keys) == 2 and taken in keys and is_of(network, 1)
    other = next(key for key in keys if key != taken)
    assert is_of(load(path, taken), 1) and is_of(load(path, other), 2)
    assert capsys.readouterr().err == ""


def test_networks_that_no_word_ranks_are_to_be_named(tmp_path):
    torch.save({"student": state(1), "teacher": state(2)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"holds 2 sets of weights \(student, teacher\); say which with --weights-key"):
        load(tmp_path / "w.pt")
    assert is_of(load(tmp_path / "w.pt", "teacher"), 2)


@pytest.mark.parametrize("key", ["emma", "", "state_dict.0", "epoch", "state", "ema."])
def test_an_unknown_key_lists_what_is_there(key, tmp_path):
    torch.save({"state_dict": state(1), "ema": state(2), "epoch": torch.tensor(3)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=rf"under '{key}'; --weights-key may be: ema, state_dict|does not fit"):
        load(tmp_path / "w.pt", key)
    save_file(state(1), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"may be: nothing, as it is one set of weights|does not fit"):
        load(tmp_path / "w.safetensors", key)


def test_one_network_in_any_wrapper_is_taken_without_a_word(tmp_path, capsys):
    for whole in (state(1), {"weights": state(1)}, {"a": {"b": {"net": state(1)}}, "args": {"lr": 0.1}, "c": [1]}):
        torch.save(whole, tmp_path / "w.pt")
        assert is_of(load(tmp_path / "w.pt"), 1)
    assert capsys.readouterr().err == ""


# --- what no network can be made of -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mean, std", [(0.5, 0.0), (0.5, -0.2), (0.5, float("nan")), (0.5, float("inf")),
                                       (float("nan"), 0.2), (float("-inf"), 0.2), (0.5, 1e-60)])  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_normalisation_that_nothing_can_be_divided_by_is_refused(mean, std, prefix, tmp_path):
    content = {f"{prefix}1.{key}": value for key, value in state(0).items()}
    content |= {f"{prefix}0.mean": torch.tensor([mean]), f"{prefix}0.std": torch.tensor([std])}
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match="a deviation a finite one above 0"):
        load(tmp_path / "w.pt")


def odd(kind: str) -> Tensor:
    """A tensor that is none of plain numbers."""
    plain = torch.ones(16, 1, 4, 4)
    made = {
        "mkldnn": lambda: plain.to_mkldnn(),
        "sparse": lambda: plain.to_sparse(),
        "csr": lambda: torch.eye(3).to_sparse_csr(),
        "quantised": lambda: torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
        "quantised per channel": lambda: torch.quantize_per_channel(
            plain, torch.full((16,), 0.1), torch.zeros(16, dtype=torch.int64), 0, torch.qint8
        ),
        "meta": lambda: plain.to("meta"),
        "complex": lambda: plain * 1j,
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "jagged": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "lazy": lambda: nn.parameter.UninitializedParameter(),
        "bits": lambda: torch.zeros(16, dtype=torch.uint8).view(torch.bits8),
    }
    return made[kind]()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["mkldnn", "sparse", "csr", "quantised", "quantised per channel", "meta", "complex",
                                  "nested", "jagged", "lazy", "bits"])  # fmt: skip
def test_a_tensor_of_another_kind_is_a_sentence_of_ours(kind, tmp_path, monkeypatch):
    if kind == "mkldnn":  # torch does not write it: as if another release had
        torch.save(state(0), tmp_path / "w.pt")
        monkeypatch.setattr(torch, "load", lambda *given, **more: state(0) | {"0.weight": odd(kind)})
    else:
        torch.save(state(0) | {"0.weight": odd(kind)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"0\.weight is no plain tensor of real numbers|is not plain weights"):
        load(tmp_path / "w.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2, torch.int64])
def test_real_numbers_of_any_width_are_read(dtype, tmp_path):
    torch.save({key: value.to(dtype) for key, value in state(0).items()}, tmp_path / "w.pt")
    assert load(tmp_path / "w.pt")(torch.rand(2, 1, 8, 8)).dtype == torch.float32


def test_deep_wrappers_are_a_sentence(tmp_path):
    whole: object = state(0)
    for _ in range(300):
        whole = {"model": whole}
    torch.save(whole, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"more than 40 deep in each other|cannot be read"):
        load(tmp_path / "w.pt")


@pytest.mark.parametrize("shape, classes", [((10**6, 10**6, 10**6), 10), ((1, 8, 8), 10**9), ((3, 10**5, 10**5), 10)])
@pytest.mark.parametrize("arch", ["cnn-small", "cnn-a", "resnet18", "cnn-a+cnn-a"])
def test_what_does_not_fit_is_refused_before_terabytes_are_allocated(arch, shape, classes, tmp_path):
    torch.save(state(0), tmp_path / "w.pt")
    with pytest.raises(UserError, match="does not fit"):
        weights.from_weights(tmp_path / "w.pt", arch, shape, classes)
