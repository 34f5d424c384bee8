"""What a model promises: a factory of an image shape and a number of classes; its network trains and can be judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from attacks.losses import cross_entropy
from attacks.model import ModelError
from attacks.target import Target
from bench.contracts.problems import no_global_randomness, require, weights
from bench.ground.config import UserError
from bench.judge.evaluate import check_logits
from bench.subjects import models
from bench.subjects.fingerprint import fingerprint

SHAPES: tuple[tuple[tuple[int, int, int], int], ...] = (((3, 32, 32), 10), ((1, 28, 28), 10), ((1, 8, 8), 10))
SAME = 1e-4  # of the largest logit: float32 in batches of another size rounds otherwise
COUNT = 8


class _Tried(NamedTuple):
    """A network of that name, and images that it takes."""

    network: nn.Module
    x: Tensor
    classes: int


def _try(name: str, seed: int = 0) -> _Tried:
    """Of the usual shapes the first that it takes. Raises UserError where it takes none."""
    refused: list[str] = []
    for shape, classes in SHAPES:
        x = torch.rand(COUNT, *shape, generator=torch.Generator().manual_seed(1))
        try:
            network = models.create(name, shape, classes, seed)
            Target(network).true_logits(x)
        except (UserError, ModelError) as error:
            refused.append(f"{shape}: {error}")
            continue
        return _Tried(network, x, classes)
    raise UserError(f"model {name} takes no images of the shapes that are tried: {'; '.join(refused)}")


def returns_logits(name: str) -> None:
    """[N, K] numbers, of any size and sign."""
    tried = _try(name)
    check_logits(Target(tried.network).true_logits(tried.x), tried.classes)


def draws_its_weights_from_the_seed(name: str) -> None:
    """The same seed gives the same weights, another one others; the global generators are untouched."""
    with no_global_randomness("making a network", "draw initial weights with torch, whose state is put back"):
        first, second, other = (_try(name, seed).network for seed in (0, 0, 1))
    require(
        torch.equal(weights(first), weights(second)),
        "one seed is one network",
        "two networks of seed 0 differ; draw initial weights with torch's own generator alone",
    )
    require(
        not torch.equal(weights(first), weights(other)),
        "another seed is another network",
        "seeds 0 and 1 give equal weights, so that networks of a cohort would be one; set no seed in the factory",
    )


def answers_each_image_alone(name: str) -> None:
    """In evaluation mode the answer for an image depends on nothing else, and is the same again."""
    network, x, _ = _try(name)
    before, whole = fingerprint(network), Target(network).true_logits(x)
    near = SAME * max(1.0, float(whole.abs().max()))
    tries = {
        "the same images again": Target(network).true_logits(x),
        "images one by one": Target(network, 1).true_logits(x),
        "images in another order": Target(network).true_logits(x.flip(0)).flip(0),
    }
    for said, logits in tries.items():
        apart = float((logits - whole).abs().max())
        require(
            apart <= near,
            "the answer for an image depends on that image alone",
            f"{said} give other logits (by {apart:.3g}); in evaluation mode use no statistics of the batch, no dropout "
            "and no noise",
        )
    require(
        fingerprint(network) == before,
        "a forward pass in evaluation mode changes nothing",
        "weights, buffers or modes changed; update statistics only `if self.training`",
    )


def has_gradients(name: str) -> None:
    """A loss has a gradient in the image and, in training mode, in the weights."""
    network, x, classes = _try(name)
    y = torch.arange(len(x)) % classes
    _, grad, _ = Target(network).loss_grad(x, y, cross_entropy)
    require(
        bool(torch.isfinite(grad).all()) and bool(grad.abs().amax() > 0),
        "the loss has a finite gradient in the image",
        "it is 0 or no number: no attack by gradients would find anything; take out rounding, .detach() and no_grad",
    )
    loss = cross_entropy(network.train()(x.clone()), y).mean()
    given = [value for value in network.parameters() if value.requires_grad]
    found = torch.autograd.grad(loss, given, allow_unused=True) if loss.requires_grad else ()
    require(
        any(one is not None and bool(one.abs().max() > 0) for one in found),
        "in training mode the loss has a gradient in the weights",
        "there is none, so that nothing can be trained; take out no_grad and .detach() in forward",
    )


def is_saved_whole(name: str) -> None:
    """The state dict of one network makes another answer the same."""
    network, x, classes = _try(name)
    other = models.create(name, tuple(x.shape[1:]), classes, 1)  # type: ignore[arg-type]
    state = load(save({key: value.contiguous() for key, value in network.state_dict().items()}))
    other.load_state_dict(state)
    apart = float((Target(other).true_logits(x) - Target(network).true_logits(x)).abs().max())
    require(
        apart == 0.0,
        "a network is its state dict",
        f"one with the same state dict answers otherwise (by {apart:.3g}); register what it computes with as parameter "
        "or buffer",
    )


LAWS: tuple[Callable[[str], None], ...] = (
    returns_logits,
    draws_its_weights_from_the_seed,
    answers_each_image_alone,
    has_gradients,
    is_saved_whole,
)
