"""PGD and AutoAttack on the same images, ours and the libraries', each judged by the suite's judge."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from attacks import ATTACKS
from attacks.contract import Attack, ThreatModel
from attacks.pgd import PGD
from attacks.target import Target, default_batch_size
from bench.judge.evaluate import Verdicts, evaluate
from bench.subjects import models
from bench.subjects.data import Dataset, Images
from bench.subjects.quick import AS_IT_IS, Arrangement
from benchmarks.attack_speed import step_of
from benchmarks.gpu.device import synchronize
from benchmarks.gpu.sizes import Size
from benchmarks.gpu.steps import Levers
from trainers.at import AT
from trainers.contract import Inner
from trainers.loop import fit
from trainers.schedule import Schedule
from trainers.validation import Split

HALVINGS = 8


@dataclass(frozen=True)
class Victim:
    """A network that was trained for a moment, the images it gets right, and the radius that half of them survive."""

    network: nn.Module
    images: Images
    classes: int
    eps: float


@dataclass(frozen=True)
class Row:
    """One attack: what it is called, what is not installed for it ("" is nothing), the attack, and how networks run."""

    name: str
    missing: str
    make: Callable[[], Attack]
    run: Arrangement = AS_IT_IS

    @property
    def levers(self) -> Levers:
        """What it asks of the device."""
        return Levers(compiled=self.run.compile == "auto", bf16=self.run.gradient_precision == "bfloat16")


def victim(size: Size, dataset: Dataset, device: torch.device) -> Victim:
    """Trained by two epochs of AT with few steps: fast, and as robust as that makes it."""
    network = models.create(size.victim, dataset.image_shape, dataset.classes, 0).to(device)
    count = min(size.train_images, len(dataset.train))
    train, validation = (
        Split(part.x.to(device), part.y.to(device), part.ids.to(device))
        for part in (dataset.train.head(count), dataset.validation.head(min(64, len(dataset.validation))))
    )
    schedule = Schedule(epochs=2, batch_size=64, lr=0.05, kind="cyclic", augment=False, validation_steps=1)
    fit(AT(Inner(eps=4 / 255, steps=2, step=3 / 255)), [network], train, validation, schedule, 0)
    network.eval()
    x, y = dataset.test.x.to(device), dataset.test.y.to(device)
    right = (Target(network).logits(x).argmax(1) == y).nonzero().squeeze(1)[: size.images].cpu()
    images = dataset.test.take(right)
    return Victim(network, images, dataset.classes, _half(network, images, dataset.classes))


def _half(network: nn.Module, images: Images, classes: int) -> float:
    """The radius at which PGD-20 leaves about half of the images."""
    low, high = 0.0, 0.3
    for _ in range(HALVINGS):
        eps = (low + high) / 2
        attack = PGD(ThreatModel("Linf", eps), 20, eps / 8)
        standing = evaluate(network, attack, images, classes, name="pgd-20", look=False).robust_accuracy
        low, high = (low, eps) if standing < 0.5 else (eps, high)
    return (low + high) / 2


def rows(size: Size, eps: float, batch: int) -> Iterator[tuple[str, list[Row]]]:
    """What is compared, by title. Libraries have batches of the size that ours has."""
    threat, steps = ThreatModel("Linf", eps), size.pgd
    step = step_of(eps, steps)

    def peer(library: str, **settings: object) -> Row:
        missing = "" if importlib.util.find_spec(library) else library
        return Row(library, missing, lambda: ATTACKS[library](threat, batch=batch, **settings))

    ours = Row("ours", "", lambda: PGD(threat, steps, step))
    foolbox = {"name": "LinfPGD", "settings": {"abs_stepsize": step, "steps": steps, "random_start": True}}
    torchattacks = {"name": "PGD", "settings": {"alpha": step, "steps": steps, "random_start": True}}
    yield f"PGD-{steps}", [
        *_each_way(ours), peer("foolbox", **foolbox), peer("torchattacks", **torchattacks),
    ]  # fmt: skip
    ensemble = Row("ours", "", lambda: size.autoattack(threat))
    title = "AutoAttack" if size.standard else f"AutoAttack, {size.apgd} steps, {size.queries} queries"
    yield title, [*_each_way(ensemble), *([peer("pyautoattack")] if size.standard else [])]


def _each_way(row: Row) -> list[Row]:
    """As it is, with each lever, and with both."""
    ways = {
        "": AS_IT_IS,
        ", bf16 gradients": Arrangement(gradient_precision="bfloat16"),
        ", compiled": Arrangement(compile="auto"),
        ", compiled, bf16 gradients": Arrangement(gradient_precision="bfloat16", compile="auto"),
    }
    return [replace(row, name=row.name + words, run=run) for words, run in ways.items()]


def judged(one: Victim, row: Row, device: torch.device) -> tuple[float, Verdicts]:
    """Seconds of attack and judge, with compiling where it is the first that compiles; and the verdicts."""
    attack = row.make()
    synchronize(device)
    started = time.perf_counter()
    found = evaluate(one.network, attack, one.images, one.classes, name="speed", run=row.run, look=False)
    synchronize(device)
    return time.perf_counter() - started, found


def batch_of(one: Victim, device: torch.device) -> int:
    """Images a pass, as ours has it."""
    return default_batch_size(one.images.x[:1].to(device))
