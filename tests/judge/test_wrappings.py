"""Models in the wrappings that people have: each works as the network in it does, or gets a sentence with the cause."""

from __future__ import annotations

import warnings
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from attacks.adapters.foolbox import Foolbox
from attacks.boundary import Boundary
from attacks.contract import ThreatModel
from attacks.deepfool import DeepFool
from attacks.model import ModelError
from attacks.pgd import PGD
from attacks.square import Square
from attacks.target import Target
from bench.judge.evaluate import evaluate
from bench.subjects.data import Images
from bench.subjects.fingerprint import fingerprint

PIXELS = ThreatModel("Linf", 0.02)
ATTACKS = {"pgd": PGD(PIXELS, 5, 0.008), "deepfool": DeepFool(ThreatModel("L2", 0.1), 10), "square": Square(PIXELS, 50)}


def x_of(count=40):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def net():
    torch.manual_seed(0)
    parts = nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
    network = nn.Sequential(*parts)
    with torch.no_grad():
        network(x_of())
        network[-1].bias -= network.eval()(x_of()).mean(0)
    return network


def images(x=None):
    """They, or others, with what the network says of them as labels."""
    with torch.no_grad():
        return Images(x_of() if x is None else x, net()(x_of()).argmax(1), torch.arange(40))


def judged(model, attack, some=None):
    return evaluate(model, attack, some or images(), 10, name="attack")


def robust(model, attack, some=None):
    return judged(model, attack, some).table["robust"].tolist()


class Own(nn.Module):
    """A network in a class of its own. how: what its forward pass does besides."""

    def __init__(self, how="nothing", network=None):
        super().__init__()
        self.inner, self.how, self.passes = net() if network is None else network, how, 0
        self.scale = [torch.ones(1)]  # a tensor in a plain attribute, which no state dict has

    def forward(self, x):
        self.passes += 1
        if self.how == "checkpoint":
            return checkpoint(self.inner, x, use_reentrant=False)
        if self.how == "reentrant":
            return checkpoint(self.inner, x, use_reentrant=True)
        if self.how == "functional":
            conv, norm, *rest = self.inner
            h = F.batch_norm(conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias)
            return nn.Sequential(*rest)(h)
        if self.how == "functional_call":
            return torch.func.functional_call(self.inner, dict(self.inner.named_parameters()), (x,))
        if self.how == "vmap":
            return torch.func.vmap(lambda one: self.inner(one[None])[0])(x)
        if self.how == "branches":
            return torch.cat([self.inner(one[None]) if one.mean() > 0.5 else self.inner(one[None] + 0) for one in x])
        if self.how == "casts":
            return self.inner(x.to(self.inner[0].weight.dtype))
        return self.inner(x) * self.scale[0]


def exported(network, batch="free"):
    sizes = ({0: torch.export.Dim("batch")},) if batch == "free" else None
    return torch.export.export(network, (x_of(16),), dynamic_shapes=sizes).module()


def old_weight_norm():
    network = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(*network[:-1], nn.utils.weight_norm(network[-1])).eval()


WORK = {
    "compiled": lambda: torch.compile(net(), backend="aot_eager"),
    "exported": lambda: exported(net()),
    "scripted": lambda: torch.jit.script(net()),
    "traced": lambda: torch.jit.trace(net(), x_of(4)),
    "old weight norm": old_weight_norm,
    "channels last": lambda: net().to(memory_format=torch.channels_last),
    "double": lambda: net().double(),
    "own double": lambda: Own("casts", net().double()).eval(),
    "parallel": lambda: nn.DataParallel(Own()).eval(),
}
WORK |= {
    how: lambda how=how: Own(how).eval()
    for how in ("nothing", "checkpoint", "functional", "functional_call", "vmap", "branches")
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", WORK)
def test_a_network_in_a_wrapping_is_as_robust_as_the_network_in_it(name, attack):
    expected = robust(net(), ATTACKS[attack])
    assert 0 < sum(expected) < len(expected), "the sample must hold images on both sides"
    if (name, attack) == ("compiled", "deepfool"):  # several backward passes from one forward pass
        with pytest.raises(ModelError, match=r"cannot be differentiated.*donated_buffer=False"):
            robust(WORK[name](), ATTACKS[attack])
    else:
        assert robust(WORK[name](), ATTACKS[attack]) == expected


def changed(kind):
    """Networks that cannot be measured as they are."""
    network = net()
    if kind == "exported in training":
        return exported(network.train())
    if kind == "exported for 16 images":
        return exported(network, batch=16)
    if kind == "lazy":
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(10)).eval()
    if kind == "meta":
        return network.to("meta")
    if kind == "half":
        return network.half()
    return network.bfloat16() if kind == "bfloat16" else Own("casts", network).eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind, words",
    [
        ("exported in training", r"training mode.*before torch\.export"),
        ("exported for 16 images", r"fails on images \(40, 1, 8, 8\).*16"),
        ("lazy", "no values yet: 1.weight is of a lazy module"),
        ("meta", "no values yet: 0.weight is on the device meta"),
        ("half", r"weights are torch.float16, images torch.float32: call model.float\(\)"),
        ("bfloat16", "weights are torch.bfloat16, images torch.float32"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence_with_the_cause(kind, words):
    with pytest.raises(ModelError, match=words):
        judged(changed(kind), ATTACKS["pgd"])


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, how):
        ctx.how = how
        return x.clone()


class Wrong(Backward):
    @staticmethod
    def backward(ctx, slope):
        if ctx.how == "raises":
            raise IndexError("layer 9 of 8")
        return slope[:1], None


class Fails(Own):
    """Its forward pass runs; its backward pass does not."""

    def forward(self, x):
        if self.how == "in place":
            h = (2 * x).exp()
            out = self.inner(h)
            h.add_(1)
            return out
        if self.how == "no backward":
            return self.inner(Backward.apply(x, self.how))
        return super().forward(Wrong.apply(x, self.how) if self.how in ("raises", "shape") else x)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("attack", ["pgd", "deepfool"])
@pytest.mark.parametrize(
    "how, words",
    [
        ("in place", "modified by an inplace operation"),
        ("no backward", "NotImplementedError: You must implement either the backward"),
        ("raises", "IndexError: layer 9 of 8"),
        ("shape", "returned an invalid gradient"),
        ("reentrant", "use_reentrant"),
    ],
)
def test_what_only_the_backward_pass_raises_is_a_sentence_too(how, words, attack):
    with pytest.raises(ModelError, match=rf"cannot be differentiated on images \(\d+, 1, 8, 8\): .*{words}"):
        judged(Fails(how).eval(), ATTACKS[attack])


@pytest.mark.parametrize("how", ["in place", "raises"])
def test_it_is_one_for_attacks_of_libraries_too(how):
    x = x_of().requires_grad_(True)
    with pytest.raises(ModelError, match="cannot be differentiated"):
        torch.autograd.grad(Target(Fails(how).eval()).module()(x).sum(), x)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("how", ["in place", "no backward", "raises", "reentrant"])
def test_an_attack_without_gradients_takes_them(how):
    assert 0 < judged(Fails(how).eval(), ATTACKS["square"]).robust_accuracy < 1


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_network_is_attacked_by_what_needs_no_gradient():
    quantised = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8).eval()
    assert quantised.state_dict()["4._packed_params.dtype"] is torch.qint8
    for attack in (ATTACKS["square"], Boundary(ThreatModel("L2", 0.3), 20)):
        assert 0 < judged(quantised, attack).robust_accuracy < 1
    with pytest.raises(ModelError, match=r"autograd finds no way.*square and boundary need none"):
        judged(quantised, ATTACKS["pgd"])
    other = deepcopy(net())
    other[-1].bias.data[0] += 0.1
    other = torch.ao.quantization.quantize_dynamic(other, {nn.Linear}, dtype=torch.qint8).eval()
    assert fingerprint(quantised) == fingerprint(deepcopy(quantised)) != fingerprint(other)


def test_images_that_lie_channels_last_are_the_same_images():
    some = images(x_of().contiguous(memory_format=torch.channels_last))
    assert all(robust(net(), attack, some) == robust(net(), attack) for attack in ATTACKS.values())


@pytest.fixture
def doubles():
    """As the code of a user's factory may leave it."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("doubles")
def test_a_default_type_of_the_process_is_not_that_of_the_attacks():
    network, some = net().float(), images(torch.rand(40, 1, 8, 8, dtype=torch.float32))
    starts = [PGD(ThreatModel(norm, 0.02), 2, 0.01, restarts=2) for norm in ("Linf", "L2", "L1")]
    for attack in (*ATTACKS.values(), *starts, Foolbox(PIXELS, "LinfPGD", {"steps": 3})):
        assert judged(network, attack, some).x_adv.dtype == torch.float32
    assert torch.get_default_dtype() == torch.float64
