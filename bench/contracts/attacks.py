"""What an attack promises (`attacks.contract.Attack`), each promise tried on small networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from attacks.contract import Attack, budget_of
from attacks.noise import Noise
from attacks.target import Target
from bench.contracts.problems import Broken, no_global_randomness, require, saturated_images, small_cnn
from bench.ground.config import build, settings_of
from bench.judge.evaluate import AttackError, check_contract
from bench.subjects.fingerprint import fingerprint

SAME = 1e-7  # float64 in batches of another size rounds otherwise
Problem = tuple[nn.Module, Tensor, Tensor]


def problem(
    shape: tuple[int, ...] = (3, 12, 12), classes: int = 10, count: int = 24, dtype: torch.dtype = torch.float64
) -> Problem:
    """A network, images that it gets right, and their labels."""
    model = small_cnn(shape[0], classes).to(dtype)
    x = saturated_images(count, shape, 3).to(dtype)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def shaped(attack: Attack, channels: int, side: int) -> tuple[int, int, int]:
    """The shape, with as many channels as the attack knows where it does not know so many."""
    known = getattr(attack, "channels", (channels,))
    return (channels if channels in known else known[0], side, side)


def run(attack: Attack, found: Problem, batch_size: int | None = None, ids: Tensor | None = None) -> Tensor:
    """x_adv of the problem's images, which are judged only by their ids."""
    model, x, y = found
    return attack(Target(model, batch_size), x, y, Noise(0, torch.arange(len(x)) if ids is None else ids))


def stays_in_its_threat_model(attack: Attack) -> None:
    """Shape and type of the images, finite, inside [0, 1] and the radius, on several sizes and class counts."""
    for channels, side, classes in ((1, 8, 2), (3, 32, 1000), (3, 64, 10)):
        shape = shaped(attack, channels, side)
        _check(attack, problem(shape, classes, 3, torch.float32), f" on images {shape} of {classes} classes")


def fools_somebody(attack: Attack) -> None:
    """Of 24 images of a network that gives way to a few hundredths, at least one, and legally."""
    model, _, y = found = problem()
    x_adv = _check(attack, found, " on images in float64")
    with torch.no_grad():
        fallen = model(x_adv).argmax(1) != y
    require(
        bool(fallen.any()),
        "an attack fools some image of a network that is not robust at all",
        f"none of {len(y)} fell: its robust accuracy would be that of no attack; look at the sign of its loss, and at "
        "whether it returns the image that it found",
    )


def leaves_all_else_alone(attack: Attack) -> None:
    """The model, its input and the global generators are untouched."""
    model, x, y = found = problem()
    before, copies = fingerprint(model), (x.clone(), y.clone())
    with no_global_randomness("an attack", "draw from `noise`, as in noise.fork('start').uniform(*x.shape[1:])"):
        run(attack, found)
    require(
        fingerprint(model) == before,
        "the model's weights, buffers, mode and gradients stay as they are",
        "they changed; ask the target (logits, loss_grad), and call no backward() and no train() on the model",
    )
    require(
        torch.equal(x, copies[0]) and torch.equal(y, copies[1]),
        "the images and labels that an attack is given stay as they are",
        "it wrote into them; begin with x.clone()",
    )


def does_not_see_the_other_images(attack: Attack) -> None:
    """An image's result is the same again, in batches of another size, in another order, and alone."""
    model, x, y = found = problem()
    whole = run(attack, found)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    one = torch.tensor([3])
    tries: dict[str, tuple[Tensor, Tensor]] = {
        "the same call again": (whole, run(attack, found)),
        "batches of 5": (whole, run(attack, found, 5)),
        "another order": (whole[order], run(attack, (model, x[order], y[order]), ids=order)),
        "image 3 alone": (whole[one], run(attack, (model, x[one], y[one]), ids=one)),
    }
    for said, (wanted, got) in tries.items():
        exact = said.startswith("the same")
        require(
            torch.equal(wanted, got) if exact else torch.allclose(wanted, got, atol=SAME),
            "an image's result does not depend on the other images, their order or the batch size",
            f"{said} gives another result (by {float((wanted - got).abs().max()):.3g}); draw from `noise`, which "
            "belongs to each image, sum no loss or norm over images, and end for each image by itself",
        )


def bears_what_cannot_be_fooled(attack: Attack) -> None:
    """A constant network, which has no gradient, and no images at all."""
    model, x, _ = problem(shaped(attack, 1, 8), 3, 12)
    with torch.no_grad():
        model[-1].weight.zero_()  # type: ignore[index]
        model[-1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))  # type: ignore[index]
    y = torch.zeros(len(x), dtype=torch.int64)
    _check(attack, (model, x, y), " on a network whose gradient is 0 (no 0 / 0: add a tiny number below the fraction)")
    empty = run(attack, (model, x[:0], y[:0]))
    require(len(empty) == 0, "of no images an attack makes no images", f"it made {len(empty)}")


class _Fails(nn.Module):
    """The network until its `last` pass, which raises."""

    def __init__(self, network: nn.Module, last: int) -> None:
        super().__init__()
        self.network, self.last, self.passes = network, last, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        if self.passes == self.last:
            raise RuntimeError("a pass that fails, on purpose")
        out: Tensor = self.network(x)
        return out


def hides_no_error(attack: Attack) -> None:
    """What the network raises half way through comes out."""
    if attack.threat.norm == "corruptions":
        return  # asks no network
    model, x, y = problem(count=6)
    counted = _Fails(model, 0).eval()
    run(attack, (counted, x, y))
    require(counted.passes > 0, "an attack asks the target that it is given", "it made no pass through it")
    try:
        run(attack, (_Fails(model, counted.passes // 2 + 1).eval(), x, y))
    except Broken:
        raise
    except Exception:  # any: that something comes out is what is tried
        return
    raise Broken(
        "promised: an error of the network comes out of the attack. But it returned images as if nothing had happened, "
        "which would count as robust; take out the except around its passes"
    )


def spends_no_more_than_it_says(attack: Attack) -> None:
    """Where it has `passes`, from which times are estimated, no image costs more."""
    model, x, y = problem(shaped(attack, 1, 8), 4, 6)
    budget, target = budget_of(attack, 4), Target(model).counting(len(x))
    if budget is None:
        return
    attack(target, x, y, Noise(0, torch.arange(len(x))))
    most = tuple(target.passes_per_image.amax(1).tolist())
    require(
        most[0] <= budget.forward and most[1] <= budget.backward,
        f"an image costs at most {budget.forward} forward and {budget.backward} backward passes, as `passes` says",
        f"one cost {most[0]} and {most[1]}; say more, or leave `passes` out",
    )


def is_made_again_from_its_settings(attack: Attack) -> None:
    """Records hold settings, and `bench verify` makes the attack from them."""
    again: Any = build(type(attack), settings_of(attack), "its settings")
    require(
        again == attack and again.version == attack.version >= 1,
        "an attack is a frozen dataclass of plain settings with a version of 1 or more",
        f"from {settings_of(attack)} comes {again}; keep every setting in a field, and none that __post_init__ changes",
    )


LAWS: tuple[Callable[[Attack], None], ...] = (
    stays_in_its_threat_model,
    fools_somebody,
    leaves_all_else_alone,
    does_not_see_the_other_images,
    bears_what_cannot_be_fooled,
    hides_no_error,
    spends_no_more_than_it_says,
    is_made_again_from_its_settings,
)


def _check(attack: Attack, found: Problem, where: str) -> Tensor:
    """x_adv, which is legal. Raises Broken."""
    x_adv = run(attack, found)
    try:
        check_contract("it", attack, found[1], x_adv)
    except AttackError as error:
        raise Broken(
            f"promised: images of x's shape and type, finite, inside [0, 1] and the threat model. But {error}{where}"
        ) from error
    return x_adv
