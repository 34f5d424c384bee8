"""What a training method promises (`trainers.contract.Trainer`), each promise tried on trainings of a second."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks.noise import Noise
from bench.contracts.problems import INNER, Broken, no_global_randomness, require, small_cnn, stripes, weights
from bench.ground.config import build, settings_of
from bench.subjects.data import Images, augment
from bench.subjects.fingerprint import fingerprint
from trainers.contract import Cohort, Trainer, teachers_of
from trainers.health import TrainingError
from trainers.loop import Fit, fit
from trainers.natural import Natural
from trainers.schedule import Schedule

SCHEDULE = Schedule(epochs=4, batch_size=16, lr=0.02, validation_steps=2)
EASY = Schedule(epochs=8, batch_size=16, lr=0.02, validation_steps=2, augment=False)
COUNT, CLASSES = 6, 4  # of one batch
CODE = (".py", ".pyc", ".so", ".pyd")  # files that are opened to import something
_opened: list[str] | None = None


def batch(trainer: Trainer) -> tuple[Cohort, Tensor, Tensor]:
    """Networks that differ, in training mode, without batch norm; images [6, 1, 8, 8] and labels."""
    networks = [small_cnn(1, CLASSES, seed).train() for seed in range(trainer.members)]
    cohort = Cohort(networks, teachers=[small_cnn(1, CLASSES, 99)] * teachers_of(trainer))
    cohort.noise = Noise(1, torch.arange(COUNT))
    x = torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    return cohort, x, torch.arange(COUNT) % CLASSES


def losses_of(trainer: Trainer, cohort: Cohort, x: Tensor, y: Tensor) -> list[Tensor]:
    """Of the first round. Raises Broken where they are not one scalar for each network."""
    cohort.begin()
    losses = trainer.batch_loss(cohort, x, y)
    fits = isinstance(losses, list | tuple) and len(losses) == trainer.members
    fits = fits and all(isinstance(one, Tensor) and one.dim() == 0 for one in losses)
    require(
        fits,
        f"batch_loss returns a list of one scalar for each of its {trainer.members} network(s)",
        f"it returned {_shapes(losses)}; average over the batch, as in cross_entropy(...).mean()",
    )
    return list(losses)


def has_a_loss_with_a_gradient(trainer: Trainer) -> None:
    """Every loss is a number, and every network learns from their sum."""
    cohort, x, y = batch(trainer)
    losses = losses_of(trainer, cohort, x, y)
    require(
        all(bool(torch.isfinite(one)) for one in losses),
        "a loss is a number",
        f"on random images it is {[float(one.detach()) for one in losses]}; look for log(0), 0 / 0 and exp",
    )
    total = torch.stack(losses).sum()
    advice = "compute it from cohort.logits(n, x), not under no_grad, with .item() or .detach()"
    promise = "every network of the cohort learns from the loss"
    require(total.requires_grad, promise, f"the loss has no gradient; {advice}")
    for n, network in enumerate(cohort.networks, 1):
        grads = torch.autograd.grad(total, list(network.parameters()), retain_graph=True, allow_unused=True)
        moved = any(grad is not None and bool(grad.abs().max() > 0) for grad in grads)
        require(moved, promise, f"no gradient reaches network {n}; {advice}")


def leaves_its_batch_alone(trainer: Trainer) -> None:
    """Images, labels, weights, modes and the global generators are untouched by the loss."""
    cohort, x, y = batch(trainer)
    before, copies = [fingerprint(one) for one in (*cohort.networks, *cohort.teachers)], (x.clone(), y.clone())
    with no_global_randomness("a method", "draw from cohort.noise, as in cohort.noise.fork('mix').uniform()"):
        losses_of(trainer, cohort, x, y)
    require(
        torch.equal(x, copies[0]) and torch.equal(y, copies[1]),
        "the images and labels of a batch stay as they are",
        "batch_loss wrote into them, and they are the training set; begin with x.clone()",
    )
    require(
        [fingerprint(one) for one in (*cohort.networks, *cohort.teachers)] == before,
        "the loop alone changes weights, gradients and modes",
        "batch_loss did; return the losses, and run networks by cohort.logits(n, x, mode=...)",
    )


def says_the_same_again(trainer: Trainer) -> None:
    """The same batch, the same loss: nothing is remembered from batch to batch."""
    cohort, x, y = batch(trainer)
    first, second = ([float(one.detach()) for one in losses_of(trainer, cohort, x, y)] for _ in range(2))
    require(
        first == second,
        "the same networks, images and noise give the same loss",
        f"they gave {first} and then {second}; draw from cohort.noise, and keep no state in the method",
    )


def reads_nothing_but_its_batch(trainer: Trainer) -> None:
    """No file and no data set is opened while a loss is computed: test images never come near a training."""
    cohort, x, y = batch(trainer)
    losses_of(trainer, cohort, x, y)  # what is imported late is imported now
    with _watched() as opened:
        losses_of(trainer, cohort, x, y)
    require(
        not opened,
        "a method sees the images of its batch and no others",
        f"batch_loss opened {', '.join(dict.fromkeys(opened))}; a number of a network that saw test images is void, "
        "and what else it needs belongs into its settings",
    )


def is_one_result_for_one_seed(trainer: Trainer) -> None:
    """Two trainings of one seed end in the same bits, and another seed ends elsewhere."""
    first, second, other = (train(trainer, seed=seed)[0] for seed in (0, 0, 1))
    for a, b, c in zip(first, second, other, strict=True):
        require(
            torch.equal(weights(a), weights(b)),
            "one seed is one result",
            "two trainings of seed 0 differ; draw from cohort.noise, and keep no state in the method or its module",
        )
        require(not torch.equal(weights(a), weights(c)), "another seed is another result", "seeds 0 and 1 end the same")


def goes_on_in_the_same_bits(trainer: Trainer, schedule: Schedule = SCHEDULE) -> None:
    """A training of 12 batches that is stopped after 2, 3 and 4 more, and goes on from its checkpoint."""
    promise = "a training that was stopped goes on, and ends in the same bits"
    whole, expected = train(trainer, schedule, group=with_dropout(trainer.members))
    with tempfile.TemporaryDirectory() as folder:
        for stop_after in (2, 3, 4, 99):
            group, left = with_dropout(trainer.members), iter(range(stop_after - 1, -1, -1))

            def interrupt(left: Iterator[int] = left) -> None:
                if next(left) == 0:
                    raise KeyboardInterrupt

            about: dict[str, Any] = {"checkpoint": Path(folder, "checkpoint.pt"), "identity": "a", "minutes": 0}
            try:
                _, result = train(trainer, schedule, group=group, on_step=interrupt, **about)
            except KeyboardInterrupt:
                torch.rand(5)  # what a program does in between must not matter
    require(stop_after - len(list(left)) == 12 - 9, promise, "its last part did not begin at the tenth batch")
    same = all(torch.equal(weights(a), weights(b)) for a, b in zip(whole, group, strict=True))
    require(
        same and _figures(expected) == _figures(result),
        promise,
        "it ended in others: something is kept beside weights, which no checkpoint holds; compute it from the batch or "
        "from cohort.noise, or keep it with cohort.note",
    )


def is_made_again_from_its_settings(trainer: Trainer) -> None:
    """Records hold settings, and what is known of a network is read from them."""
    again = _again(trainer)
    require(
        again == trainer and trainer.version >= 1,
        "a method is a frozen dataclass of plain settings with a version of 1 or more",
        f"from {settings_of(trainer)} comes {again}; keep every setting in a field",
    )


def learns(trainer: Trainer, least: float = 0.75, schedule: Schedule = EASY) -> None:
    """Two classes that lie far apart: the loss falls, and `least` are right under small attacks."""
    promise, advice = "a method learns what is easy", "look at the sign and the size of its loss"
    try:
        _, result = train(trainer, schedule)
    except TrainingError as error:
        raise Broken(f"promised: {promise}. But {error}; {advice}") from error
    first, last = result.history[0].loss, result.history[-1].loss
    robust = [snapshot.robust for snapshot in result.last]
    require(
        last < first and all(share > least for share in robust),
        promise,
        f"after {schedule.epochs} epochs the loss went from {first:.3g} to {last:.3g}, and of validation images under "
        f"attack {', '.join(f'{share:.0%}' for share in robust)} are right; {advice}",
    )


LAWS: tuple[Callable[[Trainer], None], ...] = (
    has_a_loss_with_a_gradient,
    leaves_its_batch_alone,
    says_the_same_again,
    reads_nothing_but_its_batch,
    is_one_result_for_one_seed,
    goes_on_in_the_same_bits,
    is_made_again_from_its_settings,
    learns,
)


def train(
    trainer: Trainer,
    schedule: Schedule = SCHEDULE,
    seed: int = 0,
    group: Sequence[nn.Module] | None = None,
    **options: Any,
) -> tuple[Sequence[nn.Module], Fit]:
    """The method, made anew, on `stripes`: its networks, which are `group` where that is given, and what fit says."""
    group = [small_cnn(1, 2, one) for one in range(trainer.members)] if group is None else group
    if teachers_of(trainer):
        options["teachers"] = [_teacher(schedule)]
    train_on, validate_on = stripes(), stripes(20, 1)
    result = fit(_again(trainer), group, train_on, validate_on, schedule, seed, augment=augment, flip=True, **options)
    return group, result


def with_dropout(count: int) -> list[nn.Module]:
    """Networks with batch norm, and with dropout, which draws from the global generator."""
    return [nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.2), small_cnn(1, 2, seed)) for seed in range(count)]


def _teacher(schedule: Schedule) -> nn.Module:
    """A naturally trained network."""
    natural: Any = Natural(INNER)
    return train(natural, schedule)[0][0]


def _again(trainer: Trainer) -> Trainer:
    made: Trainer = build(type(trainer), settings_of(trainer), "its settings")
    return made


def _figures(result: Fit) -> list[Any]:
    """All that a training tells, without its times; weights as their sums of bits."""
    snapshots = [*result.best, *result.last]
    bits = [[value.double().sum().item() for value in one.state.values()] for one in snapshots]
    told = [(one.epoch, one.clean, one.robust) for one in snapshots]
    return [bits, told, [(one.loss, one.single_step, one.forward_passes) for one in result.history]]


def _shapes(losses: Any) -> str:
    if not isinstance(losses, list | tuple):
        return f"a {type(losses).__name__}"
    shapes = [str(list(one.shape)) if isinstance(one, Tensor) else type(one).__name__ for one in losses]
    return ", ".join(shapes) or "none"


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Files that are opened to be read, and images of data sets that are asked for, meanwhile."""
    global _opened
    if not hasattr(sys, "_bench_watches"):
        sys.addaudithook(_hear)  # which stays, and hears nothing between
        sys._bench_watches = True  # type: ignore[attr-defined]
    read, found = Images._read, list[str]()

    def told(self: Images, begin: int = 0, end: int | None = None) -> Tensor:
        found.append("a data set")
        return read(self, begin, end)

    _opened, Images._read = found, told  # type: ignore[method-assign]
    try:
        yield found
    finally:
        _opened, Images._read = None, read  # type: ignore[method-assign]


def _hear(event: str, given: tuple[Any, ...]) -> None:
    if _opened is None or event != "open" or not isinstance(given[0], str | bytes | os.PathLike):
        return
    path, mode = os.fsdecode(given[0]), str(given[1] or "r")
    if "r" in mode and not path.endswith(CODE) and not path.startswith(("/proc/", "/sys/", "/dev/")):
        _opened.append(path)
