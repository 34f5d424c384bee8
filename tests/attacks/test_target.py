"""Target: batches do not show, every pass is counted, training mode is refused, bf16 verdicts are checked again."""

from __future__ import annotations

import pytest
import torch
from oracles import small_cnn
from torch import nn

from attacks.contract import ThreatModel
from attacks.losses import cross_entropy
from attacks.model import ModelError
from attacks.noise import Noise
from attacks.pgd import PGD
from attacks.target import Target


def images(count=20):
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_batches_do_not_show():
    model, x = small_cnn().double(), images().double()
    y = model(x).argmax(1)
    whole = Target(model, 100).loss_grad(x, y, cross_entropy)
    parts = Target(model, 3).loss_grad(x, y, cross_entropy)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(whole, parts, strict=True))
    assert torch.allclose(Target(model, 3).logits(x), model(x))


def test_passes_are_counted_image_by_image():
    model, x = small_cnn(), images()
    y = model(x).argmax(1)
    target = Target(model, 3).counting(len(x))
    target.logits(x)
    some = torch.tensor([4, 7])
    target[some].loss_grad(x[some], y[some], cross_entropy)
    target[some][torch.tensor([False, True])].logits(x[7:8])
    assert (target.forward_passes, target.backward_passes) == (23, 2)
    forward, backward = target.passes_per_image
    assert forward[4] == 2 and forward[7] == 3 and forward[0] == 1
    assert backward.nonzero().flatten().tolist() == [4, 7]


def test_training_mode_is_refused_even_in_a_submodule():
    model = nn.Sequential(small_cnn(), nn.BatchNorm2d(1)).eval()
    model[1].train()
    with pytest.raises(ModelError, match="training mode"):
        Target(model)
    assert Target(model, allow_training=True).model is model


def test_output_that_is_not_logits_is_refused():
    with pytest.raises(ModelError, match="shape"):
        Target(nn.Conv2d(3, 2, 3).eval()).logits(images())


class Quantiser(nn.Module):
    """16 grey levels, as a defence has them; with gradients as if there were no rounding, or by writing into x."""

    def __init__(self, writes: str) -> None:
        super().__init__()
        self.inner, self.writes = small_cnn(), writes

    def forward(self, x):
        if self.writes == "data":
            x.data.mul_(15).round_().div_(15)
        elif self.writes == "tensor":
            x.mul_(1.0)
        else:
            x = x + (x.mul(15).round().div(15) - x).detach()
        return self.inner(x)


@pytest.mark.parametrize("way", ["logits", "gradients", "margin_gradients", "module"])
def test_a_model_that_writes_into_its_input_reaches_no_image_of_the_attack(way):
    """Else it rounds the attack's images, and the clean ones, and counts as robust by its own doing."""

    def run(model):
        target, given = Target(model.eval(), 7), images()
        y = torch.zeros(len(given), dtype=torch.int64)
        if way == "logits":
            found = target.logits(given)
        elif way == "gradients":
            found = target.loss_grad(given, y, cross_entropy)[1]
        elif way == "margin_gradients":
            found = torch.cat([part[2] for part in target.margin_gradients(given, y, y[:, None] + 1)])
        else:
            variable = given.clone().requires_grad_(True)
            (found,) = torch.autograd.grad(target.module()(variable).sum(), variable)
            given = variable.detach()
        assert torch.equal(given, images())
        return found

    honest, sly = Quantiser("nothing"), Quantiser("data")
    sly.load_state_dict(honest.state_dict())
    assert torch.allclose(run(sly), run(honest), atol=1e-6)
    assert run(Quantiser("tensor")).isfinite().all(), "writing where autograd looks on is no error"


class Blind(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner, self.how = small_cnn(), how

    def forward(self, x):
        if self.how == "numpy":
            return self.inner(torch.from_numpy(x.numpy()))
        with torch.set_grad_enabled(self.how != "no_grad" and torch.is_grad_enabled()):
            return self.inner(x.detach())


@pytest.mark.parametrize(
    "how, words", [("no_grad", "no way from the logits"), ("detach", "no way from the logits"), ("numpy", "numpy")]
)
def test_a_model_without_gradients_is_a_sentence_and_not_robust(how, words):
    target, x = Target(Blind(how).eval()), images()
    y = target.logits(x).argmax(1)
    variable = x.clone().requires_grad_(True)
    for ask in (
        lambda: target.loss_grad(x, y, cross_entropy),
        lambda: list(target.margin_gradients(x, y, y[:, None])),
        lambda: torch.autograd.grad(target.module()(variable).sum(), variable),
    ):
        with pytest.raises(ModelError, match=words):
            ask()


def test_what_a_model_raises_has_its_name_and_a_full_memory_is_still_halved():
    class Raises(nn.Module):
        def forward(self, x):
            raise KeyError("third layer")

    class Full(nn.Module):
        def forward(self, x):
            if len(x) > 2:
                raise torch.OutOfMemoryError("no memory")
            return x.flatten(1)

    with pytest.raises(ModelError, match=r"fails on images \(20, 3, 12, 12\): KeyError: 'third layer'"):
        Target(Raises().eval()).logits(images())
    assert len(Target(Full().eval()).logits(images())) == 20


def test_parameter_gradients_are_not_filled():
    model, x = small_cnn(), images()
    Target(model).loss_grad(x, model(x).argmax(1), cross_entropy)
    assert all(p.grad is None for p in model.parameters())


def test_render_gives_the_gradient_of_the_latent():
    model, x = small_cnn().double(), images(6).double()
    y = model(x).argmax(1)
    latent = torch.full((6, 1, 1, 1), 0.3, dtype=torch.float64)
    _, grad, _ = Target(model, 4).loss_grad(latent, y, cross_entropy, lambda v, rows: x[rows] * (1 + v))
    shift = 1e-6
    loss = [cross_entropy(model(x * (1.3 + s)), y) for s in (shift, -shift)]
    assert torch.allclose(grad.flatten(), (loss[0] - loss[1]).detach() / (2 * shift), atol=1e-6)


def test_bfloat16_success_is_confirmed_in_float32():
    """A model on the edge: in bfloat16 many images look fooled that are not; none of them may leave the loop."""
    model, x = small_cnn(), images(200)
    y = model(x).argmax(1)
    target = Target(model, gradient_precision="bfloat16")
    looks = next(target.gradients(x, y, cross_entropy))[3].argmax(1) != y[: len(x)]
    attack = PGD(ThreatModel("Linf", 0.02), 10, 0.004, start="none")
    x_adv = attack(target, x, y, Noise(0, torch.arange(len(x))))
    early = (x_adv - x).abs().amax((1, 2, 3)) < 0.0199
    fooled = model(x_adv).argmax(1) != y
    assert fooled.any() and early.any()
    assert fooled[early].all(), f"{int(looks.sum())} clean images look fooled in bfloat16"


def test_rows_may_be_a_slice():
    model, x = small_cnn(), images()
    target = Target(model).counting(len(x))
    target[torch.arange(5, 15)][2:4].logits(x[7:9])
    assert target.passes_per_image[0].nonzero().flatten().tolist() == [7, 8]


class Remembers(nn.Module):
    """Returns logits that it keeps."""

    def __init__(self):
        super().__init__()
        self.inner = small_cnn()

    def forward(self, x):
        self.logits = self.inner(x)
        return self.logits


def test_the_module_has_the_models_logits_and_gradients_and_hides_the_model():
    model, x = Remembers().double().eval(), images(6)
    y = model(x.double()).argmax(1)
    module = Target(model).module()
    variable = x.clone().requires_grad_(True)
    logits = module(variable)
    assert logits.dtype == torch.float32 and torch.allclose(logits.double(), model(x.double()), atol=1e-6)
    (grad,) = torch.autograd.grad(cross_entropy(logits, y).sum(), variable, retain_graph=True)
    (again,) = torch.autograd.grad(cross_entropy(logits, y).sum(), variable)
    _, expected, _ = Target(model).loss_grad(x.double(), y, cross_entropy)
    assert torch.allclose(grad.double(), expected, atol=1e-6) and torch.equal(grad, again)
    assert not module.training
    module.train()
    module.requires_grad_(False)
    assert not model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert sum(p.numel() for p in module.parameters()) == 0


@pytest.mark.parametrize("gradient", [False, True])
def test_what_the_module_returns_may_be_overwritten(gradient):
    model, x = Remembers().eval(), images(3)
    logits = Target(model).module()(x.requires_grad_(gradient))
    with torch.no_grad():
        logits.fill_(-torch.inf)
    assert torch.isfinite(model.logits).all()


def test_the_module_counts_on_the_targets_images():
    model, x = small_cnn(), images(8)
    target = Target(model, 3).counting(8)
    some = target[torch.tensor([2, 5, 7])]
    some.module()(x[:3])  # all of its images: once each
    some.module()(x[:7])  # any others: in turn
    target[torch.tensor([0])].module()(x)  # a single image: all of them
    assert target.passes_per_image[0].tolist() == [8, 0, 4, 0, 0, 3, 0, 3] and target.forward_passes == 18
    variable = x[:3].clone().requires_grad_(True)
    logits = some.module()(variable)
    for column in range(2):
        torch.autograd.grad(logits[:, column].sum(), variable, retain_graph=True)
    assert target.passes_per_image[1].tolist() == [0, 0, 2, 0, 0, 2, 0, 2] and target.backward_passes == 6
    assert target.forward_passes == 21


def test_verdicts_are_in_float32_that_is_not_rounded_to_ten_bits():
    """What GPUs obey; the settings of the user are there again afterwards, also when the model fails."""
    places = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before, seen = [place.fp32_precision for place in places], []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append({place.fp32_precision for place in places})
            return torch.zeros(len(x), 2)

    target = Target(Spy().eval())
    target.logits(torch.zeros(4, 1, 2, 2))
    assert seen == [{"ieee"}] and [place.fp32_precision for place in places] == before
    with pytest.raises(ModelError, match="ZeroDivisionError"):
        Target(nn.Sequential(Broken()).eval()).logits(torch.zeros(4, 1, 2, 2))
    assert [place.fp32_precision for place in places] == before


class Broken(nn.Module):
    """A model that fails."""

    def forward(self, x):
        return x / (1 // 0)
