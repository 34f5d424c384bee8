"""Networks as people write them, in training: each works, bit for bit where that can be said, or gets a sentence."""

from __future__ import annotations

import dataclasses
import math
import threading
import warnings
from collections import namedtuple
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from methods import INNER, method
from oracles import small_cnn
from test_loop import EVERYTHING, same
from tiny import SCHEDULE, networks, stripes, train, weights
from torch import Tensor, nn

from attacks.model import ModelError
from trainers import TRAINERS
from trainers.at import AT
from trainers.contract import Cohort, teachers_of
from trainers.health import TrainingError
from trainers.loop import Fit, fit
from trainers.network import copied
from trainers.schedule import Schedule
from trainers.validation import Split

ONE = dataclasses.replace(SCHEDULE, epochs=1)
Outputs = namedtuple("Outputs", ["logits", "aux_logits"])


class Own(nn.Module):
    """A network of somebody's, who does something before and after it."""

    def __init__(self, before: Callable = lambda x: x, after: Callable = lambda z, own: z, seed: int = 0) -> None:
        super().__init__()
        self.inner, self.before, self.after = small_cnn(1, 2, seed), before, after
        self.kept = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inner(self.before(x)), self)


def own(before: Callable = lambda x: x, after: Callable = lambda z, own: z, members: int = 1) -> list[Own]:
    return [Own(before, after, seed) for seed in range(members)]


def taught(
    name: str, schedule: Schedule, group: Sequence[nn.Module], teachers: Sequence[nn.Module], count: int = 48, **options
) -> Fit:
    """A training with that teacher, where the method has one."""
    trainer = method(name)
    options["teachers"] = [teacher.eval() for teacher in teachers[: teachers_of(trainer)]]
    return fit(trainer, group, stripes(count), stripes(20, 1), schedule, 0, **options)


# --- what a network does to its input reaches nobody ---------------------------------------------------------------


def out_of_place(x: Tensor) -> Tensor:
    return x.sub(0.3).div(0.35)


IN_PLACE = {
    "normalises": lambda x: x.sub_(0.3).div_(0.35),
    "through data": lambda x: (x.data.sub_(0.3).div_(0.35), x)[1],
}


@pytest.mark.parametrize("name", sorted(TRAINERS))
def test_a_network_that_writes_into_its_input_trains_to_the_same_bits(name: str):
    """An epoch without and one with AWP, averaged, smoothed and augmented."""
    members, schedule = method(name).members, dataclasses.replace(EVERYTHING, epochs=2)
    before, result = train(name, schedule, group=own(out_of_place, members=members))
    after, other = train(name, schedule, group=own(IN_PLACE["normalises"], members=members))
    assert all(torch.equal(weights(a), weights(b)) for a, b in zip(before, after, strict=True))
    same(result, other)


@pytest.mark.parametrize("name", ["trades", "dml", "mat"])
def test_nor_does_one_that_autograd_does_not_see_writing_or_an_augmentation(name: str):
    members = method(name).members
    (before, _), (after, _) = (
        train(name, dataclasses.replace(ONE, augment=True), group=own(change, members=members))
        for change in (out_of_place, IN_PLACE["through data"])
    )
    assert all(torch.equal(weights(a), weights(b)) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", ["ard", "dd", "mat-offline"])
def test_nor_does_a_teacher(name: str):
    ends = []
    for change in (out_of_place, IN_PLACE["normalises"]):
        group = networks(1)
        taught(name, ONE, group, own(change))
        ends.append(weights(group[0]))
    assert torch.equal(*ends)


def test_nor_does_it_write_into_what_the_caller_holds():
    images, validation = stripes(), stripes(20, 1)
    kept = images.x.clone(), validation.x.clone()
    fit(method("trades"), own(IN_PLACE["normalises"]), images, validation, ONE, 0)
    assert torch.equal(images.x, kept[0]) and torch.equal(validation.x, kept[1])


def test_logits_that_a_network_writes_over_in_its_next_pass_are_kept():
    """As CUDA graphs do: TRADES holds its clean logits while the adversarial ones are made."""

    def reused(z: Tensor, own: Own) -> Tensor:
        if own.kept.shape != z.shape:
            own.kept = torch.zeros_like(z)
        own.kept = own.kept.detach()
        return own.kept.copy_(z)

    ends = [train("trades", ONE, group=own(after=after))[0][0] for after in (lambda z, own: z, reused)]
    assert torch.equal(*(weights(end.inner) for end in ends))


# --- what comes out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["at", "trades", "mat", "natural"])
@pytest.mark.parametrize(
    ("after", "words"),
    [
        (lambda z, own: Outputs(z, z) if own.training else z, "returns a Outputs in training mode.*auxiliary outputs"),
        (lambda z, own: (z, z) if own.training else z, "returns a tuple in training mode"),
        (lambda z, own: {"logits": z} if own.training else z, "returns a dict in training mode"),
        (lambda z, own: [z] if own.training else z, "returns a list in training mode"),
        (lambda z, own: None if own.training else z, "returns a NoneType in training mode"),
        (lambda z, own: z.argmax(1) if own.training else z, "returns torch.int64"),
        (lambda z, own: z[:1] if own.training else z, r"returns shape \(1, 2\) for 16 images"),
        (lambda z, own: z[..., None, None] if own.training else z, r"returns shape \(16, 2, 1, 1\)"),
        (lambda z, own: z.detach() if own.training else z, "no gradient reaches the weights of network 1"),
        (lambda z, own: (z * math.nan) if own.training else z, "loss of the first batch is nan, before any weight"),
        (lambda z, own: z + (z * 0).abs().sqrt() if own.training else z, "gradient of the first batch is no number"),
        (
            lambda z, own: 1 / 0 if own.training else z,
            r"network 1 fails on images \(16, 1, 8, 8\) in training mode: Zero",
        ),
    ],
)
def test_what_is_no_logits_in_training_mode_is_a_sentence(name: str, after: Callable, words: str):
    with pytest.raises(ModelError, match=words):
        train(name, ONE, group=own(after=after, members=method(name).members))


class Unreturnable(torch.autograd.Function):
    """A rounding that somebody forgot to write the way back of."""

    @staticmethod
    def forward(ctx, z):
        return z.round()


def test_what_only_the_backward_pass_raises_is_a_sentence():
    once_more = own(after=lambda z, own: Unreturnable.apply(z) if own.training else z)
    with pytest.raises(ModelError, match="backward pass of the training fails: NotImplementedError"):
        train("natural", ONE, group=once_more)


@pytest.mark.parametrize("name", sorted(TRAINERS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_logits_of_another_precision_train_every_method(name: str, dtype: torch.dtype):
    _, result = train(name, ONE, group=own(after=lambda z, own: z.to(dtype), members=method(name).members))
    _, expected = train(name, ONE, group=own(members=method(name).members))
    assert result.history[0].loss == pytest.approx(expected.history[0].loss, rel=0.03)
    group = Cohort(own(after=lambda z, own: z.to(dtype)))
    assert group.logits(0, stripes(4).x).dtype == (dtype if dtype == torch.float64 else torch.float32)


# --- classes that are masked ---------------------------------------------------------------------------------------


def masked(z: Tensor, own: Own, value: float = -math.inf) -> Tensor:
    """Two classes and a third one that never is."""
    return torch.cat([z, torch.full_like(z[:, :1], value)], 1)


@pytest.mark.parametrize("name", sorted(TRAINERS))
def test_a_masked_class_is_named_and_no_learning_rate_blamed(name: str):
    with pytest.raises((ModelError, TrainingError), match=r"logit of -inf.*masked class") as caught:
        taught(name, ONE, own(after=masked, members=method(name).members), own(after=masked))
    assert "learning rate" not in str(caught.value)


@pytest.mark.parametrize("name", ["at", "trades", "alp", "mat"])
def test_a_large_negative_number_in_its_place_trains(name: str):
    group = own(after=lambda z, own: masked(z, own, -1e4), members=method(name).members)
    assert math.isfinite(train(name, ONE, group=group)[1].history[0].loss)


def test_a_class_that_is_masked_in_one_mode_only_is_named_too():
    for mode in (True, False):
        group = own(after=lambda z, own, mode=mode: masked(z, own, -math.inf if own.training is mode else -1e4))
        with pytest.raises((ModelError, TrainingError), match="logit of -inf"):
            train("at", ONE, group=group)


def test_a_training_that_diverges_is_still_told_of_its_learning_rate():
    for name in ("at", "trades", "natural"):
        with pytest.raises(TrainingError, match="learning rate"):
            train(name, dataclasses.replace(ONE, lr=1e30))


# --- weights -------------------------------------------------------------------------------------------------------


def old_weight_norm(network: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        network[0] = nn.utils.weight_norm(network[0])
        network[2] = nn.utils.spectral_norm(network[2])
    return network


def new_weight_norm(network: nn.Module) -> nn.Module:
    nn.utils.parametrizations.weight_norm(network[0])
    nn.utils.parametrizations.spectral_norm(network[2])
    return network


@pytest.mark.parametrize("kind", [old_weight_norm, new_weight_norm])
@pytest.mark.parametrize("name", ["at", "mat"])
def test_weights_that_are_computed_can_be_averaged_and_resumed(name: str, kind: Callable, tmp_path: Path):
    """Networks that have been run before, as most have: the computed weight lies around then."""

    def group() -> list[nn.Module]:
        torch.manual_seed(0)  # spectral norm draws a vector
        made = [kind(network) for network in networks(method(name).members)]
        return [(network.train()(stripes(4).x), network.eval())[1] for network in made]

    path = tmp_path / "checkpoint.pt"
    ended, expected = train(name, EVERYTHING, group=group())
    left = iter(range(4, -1, -1))

    def interrupt() -> None:
        if next(left, 1) == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(name, EVERYTHING, group=group(), checkpoint=path, minutes=0, on_step=interrupt)
    _, result = train(name, EVERYTHING, group=group(), checkpoint=path)
    same(expected, result)
    assert not torch.equal(expected.last[0].state["0.bias"], ended[0].state_dict()["0.bias"]), "it is an average"


def test_a_scripted_network_can_be_averaged():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(small_cnn(1, 2, 0))
    ends = [train("at", EVERYTHING, group=[network])[1].last[0].state for network in (scripted, small_cnn(1, 2, 0))]
    assert all(torch.allclose(value, ends[1][name], atol=1e-5) for name, value in ends[0].items())


def test_weights_that_the_optimiser_does_not_take_are_a_sentence():
    group = own(after=lambda z, own: z + own.table(torch.zeros(len(z), dtype=torch.long)))
    group[0].table = nn.Embedding(2, 2, sparse=True)
    with pytest.raises(ModelError, match=r"a step of the optimiser fails: RuntimeError: .*sparse"):
        train("at", ONE, group=group)


def test_what_awp_forgets_is_forgotten_too_where_a_network_puts_new_buffers_in_place_of_the_old():
    """A running mean of its own: one update a batch, that of the second pass."""

    def counting(z: Tensor, own: Own) -> Tensor:
        if own.training:
            own.seen = own.seen + 1
        return z

    for schedule in (ONE, dataclasses.replace(ONE, awp=0.01)):
        group = own(after=counting)
        group[0].register_buffer("seen", torch.zeros(1))
        train("at", schedule, group=group)
        assert group[0].seen == 3, "three batches"


def test_a_copy_computes_its_own_weights():
    network = old_weight_norm(small_cnn(1, 2, 0)).train()
    x = stripes(4).x
    network(x)
    average = copied(network, "it")
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.mul_(2)
    first, second = average.eval()(x), network.eval()(x)
    assert not torch.allclose(first, second) and network[0].weight_g is not average[0].weight_g


def test_what_cannot_be_copied_is_a_sentence_and_trains_without_averages():
    group = own()
    group[0].lock = threading.Lock()
    with pytest.raises(ModelError, match=r"network 1 cannot be copied.*ema.*lock"):
        train("at", dataclasses.replace(ONE, ema=0.9), group=group)
    train("at", ONE, group=group)


def test_networks_without_a_weight_to_train_are_refused_and_partly_frozen_ones_train():
    frozen = small_cnn(1, 2, 0).requires_grad_(False)
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    for network, words in (
        (frozen, "no weights to train"),
        (nn.Flatten(), "no weights to train"),
        (lazy, "lazy layers"),
    ):
        with pytest.raises(ModelError, match=f"network 1 has {words}"):
            train("at", ONE, group=[network])
    with pytest.raises(ModelError, match="network 2 has no weights"):
        train("mat", ONE, group=[small_cnn(1, 2, 1), frozen])
    partly = small_cnn(1, 2, 0)
    partly[0].requires_grad_(False)
    before = {name: value.clone() for name, value in partly.state_dict().items()}
    train("at", EVERYTHING, group=[partly])
    assert torch.equal(before["0.weight"], partly[0].weight)
    assert any(not torch.equal(before[name], value) for name, value in partly.state_dict().items())


# --- a last batch of one image -------------------------------------------------------------------------------------


def with_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize(("images", "batch_size"), [(49, 16), (48, 47), (49, 48), (48, 1)])
@pytest.mark.parametrize("name", sorted(TRAINERS))
def test_a_last_batch_of_one_under_batch_norm_is_refused_before_it_costs_an_epoch(
    name: str, images: int, batch_size: int
):
    steps: list[int] = []
    group = [*networks(method(name).members - 1), with_norm()]  # the last one alone has it
    schedule = dataclasses.replace(ONE, batch_size=batch_size)
    words = rf"in batches of {batch_size} leave a last batch of one, on which network {len(group)} .*more than 1 value"
    with pytest.raises(ModelError, match=words):
        taught(name, schedule, group, networks(1), images, on_step=lambda: steps.append(1))
    assert not steps


def test_the_batch_size_that_is_named_does_train():
    images = Split(*(part[:41] for part in stripes(48)))
    for batch_size, fitting in ((20, 21), (8, 9), (40, 41)):
        schedule = dataclasses.replace(ONE, batch_size=batch_size)
        with pytest.raises(ModelError, match=f"41 training images in batches of {batch_size} .* such as {fitting}$"):
            fit(AT(INNER), [with_norm()], images, images, schedule, 0)
        fit(AT(INNER), [with_norm()], images, images, dataclasses.replace(schedule, batch_size=fitting), 0)


def test_networks_that_take_one_image_are_tried_on_it_without_a_trace():
    """Without batch norm, and with batch norm over more than one place: the bits are those of a training untried."""
    images = stripes(49)
    for network in (
        lambda: small_cnn(1, 2, 0),
        lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.2), small_cnn(1, 2, 0)),
    ):
        ends = []
        for tried in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                if not tried:
                    patch.setattr("trainers.loop.check_last_batch", lambda *given: None)
                one = network()
                torch.manual_seed(5)
                fit(AT(INNER), [one], images, images, ONE, 0)
                ends.append((weights(one), torch.rand(1)))
        assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))
