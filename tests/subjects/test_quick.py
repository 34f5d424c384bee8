"""The quick copy: used where it is the same function with the same gradients, and nowhere else."""

from __future__ import annotations

from copy import deepcopy
from types import MethodType
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from attacks.contract import ThreatModel
from attacks.noise import Noise
from attacks.pgd import FGSM, PGD
from attacks.target import Target
from bench.judge.evaluate import craft, evaluate
from bench.subjects import models
from bench.subjects import quick as module
from bench.subjects.data import Images
from bench.subjects.quick import quick

SMALL = ["cnn-small", "cnn-a", "resnet8", "resnet20"]


def images(count=48, shape=(1, 8, 8), seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def settled(network, shape=(1, 8, 8)):
    """In evaluation mode, with statistics of images in its batch norms, scales other than 1, and several classes."""
    generator = torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d) and part.affine:
            part.weight.data.uniform_(0.5, 2, generator=generator)
            part.bias.data.normal_(generator=generator)
    with torch.no_grad():
        for seed in range(20):
            network.train()(images(64, shape, seed))
        network[-1].bias -= network.eval()(images()).mean(0)  # no class is everyone's
    return network


def block(width=8):
    return nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def head(width=8):
    return [nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * width, 10)]


def plain():
    torch.manual_seed(0)
    return settled(nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), block(), *head()))


def used_twice():
    torch.manual_seed(0)
    again = block()
    return settled(nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), again, again, *head()))


def shared(kind):
    """One norm behind two convolutions, or one convolution before two norms, and once without one."""
    torch.manual_seed(0)
    first, conv, norm, other = nn.Conv2d(1, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
    parts = [first, norm, nn.ReLU(), conv, norm]
    if kind == "convolution":
        parts = [first, conv, norm, nn.ReLU(), conv, nn.ReLU(), conv, other]
    return settled(nn.Sequential(*parts, *head()))


def hooked(kind):
    network = plain()
    if kind == "pre-hook of the whole":
        network.register_forward_pre_hook(lambda _, given: ((given[0] - 0.5) * 3,))
    elif kind == "pre-hook of a layer":
        network[1].register_forward_pre_hook(lambda _, given: (given[0] * 3,))
    elif kind == "hook of the whole":
        network.register_forward_hook(lambda _, given, out: out - 3 * out.detach().mean(1, keepdim=True) * out)
    elif kind == "hook of a layer":
        network[1].register_forward_hook(lambda _, given, out: out * 3)
    elif kind == "backward hook":
        network[2].register_full_backward_hook(lambda _, before, after: (-before[0],))
    else:
        network[3][0].register_full_backward_pre_hook(lambda _, after: (-after[0],))
    return network


def replaced(kind):
    network = plain()
    if kind == "forward of the whole":
        network.forward = MethodType(lambda self, x: nn.Sequential.forward(self, (x - 0.5) * 3), network)
    else:
        network[2].forward = lambda x: (x * 3).relu()
    return network


def parametrized(kind):
    network = plain()
    getattr(parametrizations, kind)(network[0])
    getattr(parametrizations, kind)(network[-1])
    return network.eval()


NETWORKS = {
    "plain": plain,
    "used twice": used_twice,
    "a norm behind two convolutions": lambda: shared("norm"),
    "a convolution before two norms": lambda: shared("convolution"),
    "in DataParallel": lambda: nn.DataParallel(plain()).eval(),
}
NETWORKS |= {
    kind: lambda kind=kind: hooked(kind)
    for kind in (
        "pre-hook of the whole", "pre-hook of a layer", "hook of the whole", "hook of a layer", "backward hook",
        "backward pre-hook",
    )
}  # fmt: skip
NETWORKS |= {kind: lambda kind=kind: replaced(kind) for kind in ("forward of the whole", "forward of a layer")}
NETWORKS |= {kind: lambda kind=kind: parametrized(kind) for kind in ("weight_norm", "spectral_norm", "orthogonal")}


def pgd(eps):
    return PGD(ThreatModel("Linf", eps), 10, eps / 4)


@pytest.fixture
def as_it_is(monkeypatch):
    """Runs what it is given with attacks on the network itself."""

    def run(made):
        with monkeypatch.context() as context:
            context.setattr("bench.subjects.quick.quick", lambda model, x: model)
            return made()

    return run


def judged(network, attack):
    x = images()
    with torch.no_grad():
        y = network(x).argmax(1)
    return evaluate(network, attack, Images(x, y, torch.arange(len(x))), 10, name="pgd")


@pytest.mark.parametrize("name", NETWORKS)
def test_an_attack_is_as_strong_as_on_the_network_itself(name, as_it_is):
    network = NETWORKS[name]()
    here, there = judged(network, pgd(0.02)), as_it_is(lambda: judged(network, pgd(0.02)))
    assert 0 < there.robust_accuracy < 1, "the sample must hold images on both sides"
    assert here.table["robust"].tolist() == there.table["robust"].tolist()


@pytest.mark.parametrize(
    "name", ["plain", "used twice", "a norm behind two convolutions", "a convolution before two norms"]
)
def test_a_norm_is_folded_at_each_call_of_a_convolution_that_goes_only_there(name):
    network, x = NETWORKS[name](), images()
    copy = quick(network, x)
    assert copy is not network and torch.allclose(copy(x), network(x), atol=1e-4)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in copy.modules())


@pytest.mark.parametrize("name", [*SMALL, "preact-resnet18"])
def test_the_copy_is_the_same_function(name):
    """Also after batch norm has seen data, whose statistics are what is folded; its gradients agree too."""
    model = models.create(name, (3, 16, 16), 10, seed=1, normalize=((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))).double()
    model.train()(images(32, (3, 16, 16)).double() * 3)
    x = images(8, (3, 16, 16)).double()
    copy = quick(model.eval(), x)
    x.requires_grad_(True)
    assert copy is not model and torch.allclose(copy(x), model(x), atol=1e-9)
    slopes = [torch.autograd.grad(net(x).square().sum(), x)[0] for net in (copy, model)]
    assert torch.allclose(*slopes, atol=1e-9)
    kinds = [type(part) for part in copy.modules()]
    if "resnet" in name:
        assert kinds.count(nn.BatchNorm2d) < [type(part) for part in model.modules()].count(nn.BatchNorm2d)
    assert all(not p.requires_grad for p in copy.parameters()) and all(p.requires_grad for p in model.parameters())


class Sly(nn.Module):
    """A copy that is none: in its values everywhere or only far from images, or in its gradients alone."""

    def __init__(self, network, lie):
        super().__init__()
        self.network, self.lie = deepcopy(network), lie

    def forward(self, x):
        z = self.network(x)
        if self.lie == "scale":
            return z * 1.01
        if self.lie == "away from images":
            return z + (x.flatten(1).std(1, keepdim=True) > 0.1) * z.flip(1)
        if self.lie == "gradients":
            return z - 0.5 * (z - z.detach())
        if self.lie == "without gradients":
            return z.detach()
        raise RecursionError(self.lie)


@pytest.mark.parametrize(
    "lie, words",
    [
        ("scale", "other logits"),
        ("away from images", "other logits"),
        ("gradients", "other gradients"),
        ("without gradients", "no way from the logits"),
        ("raises", "RecursionError"),
    ],
)
def test_a_copy_that_is_another_function_is_not_used_and_that_is_said_once(lie, words, monkeypatch, capsys):
    network, x = plain(), 0.5 + 0.1 * images()
    monkeypatch.setattr(module, "arranged", lambda model, x: Sly(model, lie).eval())
    assert quick(network, x) is network and quick(network, x) is network
    said = capsys.readouterr().err
    assert said.count("bench: attacks run on the network itself") == 1 and words in said


def test_what_tracing_raises_is_no_users_error(capsys):
    network = nn.Sequential(plain(), nn.Module()).eval()  # a module without a forward pass, which a trace runs into
    assert quick(network, images()) is network
    assert "missing the required" in capsys.readouterr().err


def test_comparing_costs_no_pass_of_the_attack_and_draws_no_global_random_number(as_it_is):
    network, attack = plain(), FGSM(ThreatModel("Linf", 0.03))
    state = torch.random.get_rng_state()
    both = judged(network, attack), as_it_is(lambda: judged(network, attack))
    passes = [verdicts.table[["forward_passes", "backward_passes"]] for verdicts in both]
    assert passes[0].equals(passes[1]) and set(passes[0]["backward_passes"]) == {1}
    assert torch.equal(torch.random.get_rng_state(), state)


def test_images_crafted_for_other_networks_are_made_on_the_network_too(as_it_is):
    network = NETWORKS["pre-hook of the whole"]()
    some = Images(images(), network(images()).argmax(1), torch.arange(48))
    made = craft(network, pgd(0.06), some, 10, name="pgd")
    assert torch.equal(made.x_adv, as_it_is(lambda: craft(network, pgd(0.06), some, 10, name="pgd")).x_adv)


class Functional(nn.Module):
    """A user's own, written with functions. size: what it branches on."""

    def __init__(self, size=None):
        super().__init__()
        self.size, self.net = size, plain()
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(3)) / 6)

    def forward(self, x):
        if self.size and x.shape[-1] != self.size:
            x = F.interpolate(x, self.size)
        first, norm, second = self.net[0], self.net[1], self.net[3][1]
        x = F.conv2d(x, first.weight, bias=first.bias, padding=1)
        torch._assert(x.ndim == 4, "as timm's norms ask")
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps).relu_()
        x = F.conv2d(x, self.weight, None, 1, 1)
        x = F.batch_norm(x, second.running_mean, second.running_var, weight=second.weight, bias=second.bias).relu()
        return self.net[-1](self.net[-2](self.net[-3](x)))


def norms_left(copy):
    """Batch norms in the code of a traced network, as a module or as a function."""
    modules = sum(isinstance(part, nn.BatchNorm2d) for part in copy.modules())
    return modules + sum("batch_norm" in str(node.target) for node in copy.graph.nodes)


@pytest.mark.parametrize("size", [None, 8, 12], ids=["by torch.fx", "by torch.export", "by torch.export, resized"])
def test_a_network_written_with_functions_is_arranged_too(size):
    network, x = Functional(size).eval(), images()
    copy = quick(network, x)
    assert copy is not network and norms_left(copy) == 0
    assert torch.allclose(copy(x[:7]), network(x[:7]), atol=1e-4), "and takes batches of any size"
    assert here_and_there(network, x)


def here_and_there(network, x):
    y = network(x).argmax(1)
    fooled = [PGD(ThreatModel("Linf", 0.05), 5, 0.02)(Target(network, quick=copy), x, y, Noise(0, torch.arange(len(x))))
              for copy in (quick(network, x), None)]  # fmt: skip
    first, second = (network(x_adv).argmax(1) != y for x_adv in fooled)
    return 0 < int(first.sum()) < len(x) and torch.equal(first, second)


SEEN: dict[int, object] = {}


class Branching(nn.Module):
    """Does another thing for other values, for every call or by chance: no trace is this network."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.net, self.calls, self.seen = kind, plain(), 0, []

    def forward(self, x):
        z = self.net(x)
        if self.kind == "values":
            return z if x.mean() > 0.5 else -z
        if self.kind == "python loop":
            return sum(z for _ in range(int(x.sum()) % 3 + 1))
        if self.kind == "calls":
            self.calls += 1
            return z * (1 + self.calls)
        if self.kind == "keeps":
            self.seen.append(1)
            return z * len(self.seen)
        if self.kind == "a global":
            SEEN[len(SEEN)] = z
            return SEEN[0] if len(SEEN[0]) == len(z) else z
        if self.kind == "noise at each call":
            return self.net(x + 0.05 * torch.randn_like(x))
        if self.kind == "noise of the trace":
            return self.net(x + 0.05 * torch.randn(1, 8, 8))
        if self.kind == "dropout":
            return self.net(F.dropout(x, 0.3))
        return self.net(torch.from_numpy(x.detach().numpy() * 1.0)) + 0 * x.sum()


@pytest.mark.parametrize(
    "kind",
    [
        "values",
        "python loop",
        "calls",
        "keeps",
        "noise at each call",
        "noise of the trace",
        "dropout",
        "numpy",
        "a global",
    ],
)
def test_a_network_that_no_trace_is_runs_as_it_is(kind):
    network = Branching(kind).eval()
    assert quick(network, images()) is network
    assert not SEEN, "a trace ran through it, and left what no network answers"


class Sharing(nn.Sequential):
    """Its class keeps what any of its networks has answered."""

    answered: ClassVar[list[torch.Tensor]] = []

    def forward(self, x):
        self.answered.append(super().forward(x))
        return self.answered[-1]


class SharingByMethod(Sharing):
    """The same, where its forward pass does not name it itself."""

    def forward(self, x):
        return self.kept(nn.Sequential.forward(self, x))

    def kept(self, z):
        self.answered.append(z)
        return z


def keep(z):
    SEEN[len(SEEN)] = z
    return z


class SharingByFunction(nn.Sequential):
    def forward(self, x):
        return keep(super().forward(x))


@pytest.mark.parametrize("kind", [Sharing, SharingByMethod, SharingByFunction])
def test_no_trace_writes_into_what_networks_share(kind):
    network = kind(plain()).eval()
    assert quick(network, images()) is network and not Sharing.answered and not SEEN


class Configured(nn.Sequential):
    """Its class holds a table that is read while a network is made, as in much published code."""

    widths: ClassVar[list[int]] = [8, 16]

    def __init__(self, *parts):
        super().__init__(*parts)
        self.width = self.widths[0]


def test_a_table_that_the_forward_pass_does_not_name_is_no_reason():
    network = Configured(plain()).eval()
    assert quick(network, images()) is not network


class Gated(nn.Module):
    """An activation in place. kept: what it activates is used again, and so has to be changed."""

    def __init__(self, kind, kept):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.act = nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), kind(inplace=True)
        self.last, self.kept = nn.Sequential(*head()), kept

    def forward(self, x):
        x = self.norm(self.conv(x))
        y = self.act(x)
        return self.last(y + 2 * x if self.kept else y)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("kind", [nn.SiLU, nn.Mish, nn.Hardswish])
def test_activations_in_place_that_would_copy_their_input(kind, kept):
    network, x = Gated(kind, kept).eval(), images()
    copy = quick(network, x)
    assert copy is not network
    in_place = [part.inplace for part in copy.modules() if type(part) is kind]
    assert in_place == [kept]
    variable, other = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    torch.testing.assert_close(copy(other), network(variable))
    slopes = [
        torch.autograd.grad(run(at).logsumexp(1).sum(), at)[0] for run, at in ((network, variable), (copy, other))
    ]
    torch.testing.assert_close(*slopes)
