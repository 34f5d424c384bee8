"""What estimates go by: how fast a network runs here, and what an attack computes beside it; a second to measure.

Kept for this machine and network for an hour, since what else the machine does changes. Never part of a result.
"""

from __future__ import annotations

import copy
import hashlib
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.contract import Attack, ThreatModel
from attacks.noise import Noise
from attacks.pgd import FGSM
from attacks.target import Target, default_batch_size
from bench.ground.config import UserError
from bench.ground.files import cache_folder, read_json, write_json
from bench.ground.progress import Told
from bench.ground.provenance import seconds_since_1970
from bench.judge.evaluate import evaluate
from bench.running.tune import key
from bench.subjects.data import Images
from bench.subjects.quick import SAMPLE, SHARES, quick
from bench.subjects.speed import seconds_of, to_images, to_weights
from trainers.contract import Trainer
from trainers.rehearsal import Rehearsal, rehearse

VERSION = 2  # of what is measured
FRESH = 3600.0  # seconds that a measurement counts for
FEW = 2  # images of the smallest pass that is timed
PASS, WHOLE = 0.1, 0.25  # seconds: of a pass that is timed, about, and of all passes of one kind
SLOW = 0.01  # seconds of an image, from which measuring is said to take a while
OWN, LEAST = 0.1, 3  # seconds that an attack is watched for; passes in it
LOOKED_AT = 256  # images that judging is rehearsed on: signs look at fewer
T = TypeVar("T")


@dataclass(frozen=True)
class Rates:
    """Seconds of an image in a pass. forward, gradient: of the quick copy that attacks run on, the second forward and
    back to the image; ascent: the same of the network itself, which trainings attack; weights: forward and back to the
    weights, in training mode. step: seconds of one step of the optimiser. activations: bytes that an image keeps for
    the way back. size: bytes of the weights. given: seconds of a core that this process was given for each second of
    measuring; on a CPU that has nothing else to do 1 at least. least_forward, least_gradient: seconds of the quickest
    whole pass on FEW images, which one of hardly more takes too.
    """

    forward: float
    gradient: float
    ascent: float
    weights: float
    step: float
    activations: float
    size: int
    given: float
    least_forward: float = 0.0
    least_gradient: float = 0.0

    def of_pass(self, count: float) -> tuple[float, float]:
        """Seconds of an image forward, and forward and back to it, in passes on so many images."""
        return max(self.forward, self.least_forward / count), max(self.gradient, self.least_gradient / count)


@dataclass(frozen=True)
class Own:
    """Seconds for each forward pass of an image that an attack spends beside the network."""

    seconds: float


@dataclass(frozen=True)
class Judging:
    """Of judging one attack: passes forward and with a gradient, in images, and seconds that are not the network's."""

    forward: int
    gradient: int
    seconds: float


def rates_of(network: nn.Module, x: Tensor, batch: int, mixed: tuple[bool, bool] = (False, False)) -> Rates:
    """Of a network on images like x [1, C, H, W]; batch: of trainings, 0 for a network that is only attacked, a copy in
    evaluation mode that nobody else sees. mixed: whether gradient passes of attacks, and all of trainings, are in
    bfloat16. The network is left as it is.
    """
    name = f"{key(network, x, (default_batch_size(x), batch), x.device)}-{int(mixed[0])}{int(mixed[1])}"
    return _kept(name, Rates, lambda: _measure(network, x, batch, mixed))


def _measure(network: nn.Module, x: Tensor, batch: int, mixed: tuple[bool, bool]) -> Rates:
    wall, given = time.perf_counter(), time.process_time()
    with torch.random.fork_rng(devices=[]):
        judged, few = (copy.deepcopy(network).eval() if batch else network), _images(x, FEW)
        arranged = quick(judged, few)
        to_images(judged, few)
        slow = seconds_of(lambda: to_images(judged, few), x.device) / len(few)
        if slow > SLOW:
            Told.once("measuring how fast the network runs here, for an estimate of the time; a few seconds")
        attacked = _images(x, _fitting(default_batch_size(x), slow))
        forward = _each(lambda: _predict(arranged, attacked), attacked)
        gradient = _each(lambda: to_images(arranged, attacked, mixed[0]), attacked)
        least = _least(lambda: _predict(arranged, few), few), _least(lambda: to_images(arranged, few, mixed[0]), few)
        trained = _trained(network, judged, _images(x, _fitting(batch, slow)), mixed[1]) if batch else (0.0, 0.0, 0.0)
        activations, size = _saved(judged, few) / len(few), sum(p.nbytes for p in network.parameters())
    share = (time.process_time() - given) / (time.perf_counter() - wall)
    return Rates(forward, gradient, *trained, activations, size, share, *least)


def _trained(network: nn.Module, judged: nn.Module, x: Tensor, mixed: bool) -> tuple[float, float, float]:
    """`ascent`, `weights` and `step` of `Rates`."""
    trained = copy.deepcopy(network).train()
    ascent = _each(lambda: to_images(judged, x, mixed), x)
    weights = _each(lambda: to_weights(trained, trained, x, mixed), x)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.0, momentum=0.9)
    return ascent, weights, _each(optimizer.step, x) * len(x)


def _fitting(most: int, slow: float) -> int:
    """Images in a pass that takes about `PASS`, of a network that takes `slow` seconds for one; two at least."""
    return max(2, min(most, int(PASS / slow)))


def step_of(trainer: Trainer, x: Tensor, batch: int, classes: int, smoothing: float) -> Rehearsal:
    """The rehearsal of a training on batches of so many images like x [1, C, H, W]."""
    name = f"step-{_hashed(trainer, tuple(x.shape), str(x.device), batch, classes, smoothing)}"
    return _kept(name, Rehearsal, lambda: rehearse(trainer, _images(x, batch), classes, smoothing))


def own_of(attack: Attack, x: Tensor, images: int, classes: int) -> Own:
    """What an attack computes beside the network, on so many images like x [1, C, H, W]; watched for a moment, on a
    network that costs next to nothing and that only minimal-norm attacks fool.
    """
    size = min(images, default_batch_size(x))
    name = f"own-{_hashed(attack, tuple(x.shape), str(x.device), size, classes)}"
    return _kept(name, Own, lambda: _watch(attack, _images(x, size), classes))


def judging_of(x: Tensor, images: int, classes: int) -> Judging:
    """What judging so many images like x [1, C, H, W] costs beside their attack, signs included."""
    size = min(images, LOOKED_AT)
    name = f"judge-{_hashed(tuple(x.shape), str(x.device), size, classes)}"
    found = _kept(name, Judging, lambda: _judge(_images(x, size), classes))
    return Judging(found.forward + 3 * (images - size), found.gradient, found.seconds * (1 + images / size) / 2)


def _judge(x: Tensor, classes: int) -> Judging:
    network = _Free(x, classes, sure=True)
    images = Images(x.cpu(), torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x)))
    started = time.perf_counter()
    evaluate(network, FGSM(ThreatModel("Linf", 0.01)), images, classes)
    seconds = time.perf_counter() - started
    tally, here = network.tally, SAMPLE * len(SHARES)
    return Judging(tally.forward + 2 * here - len(x), tally.gradient + 2 * len(SHARES) - len(x), seconds)


def _watch(attack: Attack, x: Tensor, classes: int) -> Own:
    network = _Free(x, classes, sure=not attack.closest)
    y, noise = network(x).argmax(1), Noise(0, torch.arange(len(x), device=x.device))
    target = Target(network)
    started = network.started = time.perf_counter()
    try:
        attack(target, x, y, noise)
    except _Enough:
        pass
    return Own((time.perf_counter() - started) / max(1, target.forward_passes))


class _Enough(BaseException):
    """The moment is over. No Exception, so that nobody on the way takes it for an error of the network."""


@dataclass
class _Tally:
    """Of one network and of all copies that are made of it."""

    calls: int = 0
    forward: int = 0
    gradient: int = 0

    def __deepcopy__(self, memo: object) -> _Tally:
        return self


class _Free(nn.Module):
    """A network that costs next to nothing, in evaluation mode. sure: it gives every image class 0, by far."""

    def __init__(self, x: Tensor, classes: int, sure: bool) -> None:
        super().__init__()
        weight = torch.rand(classes, x[0].numel(), generator=torch.Generator().manual_seed(0)) - 0.5
        self.weight, self.sure, self.started, self.tally = weight.to(x), sure, float("inf"), _Tally()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.tally.calls += 1
        self.tally.forward += len(x) * (not x.requires_grad)
        self.tally.gradient += len(x) * x.requires_grad
        if time.perf_counter() - self.started > OWN and self.tally.calls > LEAST:
            raise _Enough
        logits: Tensor = x.flatten(1) @ self.weight.T
        return logits + 100.0 * (torch.arange(logits.shape[1], device=x.device) == 0) if self.sure else logits


def _images(x: Tensor, count: int) -> Tensor:
    drawn = torch.rand(count, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    return drawn.to(x)


def _least(run: Callable[[], object], x: Tensor) -> float:
    """Seconds of the quickest pass of some: of so short ones many wait for somebody else."""
    return min(_timed(run, x))


def _each(run: Callable[[], object], x: Tensor) -> float:
    """Seconds of an image: the median over passes after the first, two at least."""
    return statistics.median(_timed(run, x)) / len(x)


def _timed(run: Callable[[], object], x: Tensor) -> list[float]:
    run()
    took, began = [seconds_of(run, x.device)], time.perf_counter()
    while len(took) < 2 or (time.perf_counter() - began < WHOLE / 2 and len(took) < 20):
        took.append(seconds_of(run, x.device))
    return took


def _predict(network: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        network(x)


def _saved(network: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass keeps for the way back, each storage once and the weights not."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    seen: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        F.cross_entropy(network(x), torch.zeros(len(x), dtype=torch.int64, device=x.device))
    return sum(seen.values())


def _hashed(*parts: object) -> str:
    """Of everything that a time on this machine depends on."""
    text = repr((platform.node(), torch.__version__, torch.get_num_threads(), *parts))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _kept(name: str, kind: type[T], make: Callable[[], T]) -> T:
    """What is in that file where it is fresh; otherwise it is made, and kept where that can be."""
    file = cache_folder() / "clock" / f"v{VERSION}-{name}.json"
    known = _read(file, kind)
    if known is None:
        known = make()
        try:
            write_json(file, known)
        except UserError:  # a cache that cannot be written is measured anew each time, and nothing is lost
            pass
    return known


def _read(file: Path, kind: type[T]) -> T | None:
    try:
        fresh = file.exists() and seconds_since_1970() - file.stat().st_mtime < FRESH
        return read_json(file, kind) if fresh else None
    except (UserError, OSError):  # damaged, of another release, or not to be read: measured anew
        return None
