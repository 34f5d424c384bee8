"""Attacks side by side: ours, the libraries' (foolbox, torchattacks, pyautoattack, adv-lib, ART) and bare passes.

    python -m benchmarks.attack_speed --arch resnet8 --images 256             # PGD-20 and PGD-100
    python -m benchmarks.attack_speed --arch resnet8 --images 128 --all       # every attack that a library has too
    python -m benchmarks.attack_speed --arch benchmarks.strangers:timm_silu   # a network that is not ours
    pip install adversarial-robustness-toolbox adv-lib six tqdm               # for their rows; nothing else needs them

Images: CIFAR-10 from --data-dir or BENCH_DATA where there is one, otherwise digits. The network is trained here for a
little while with AT, and each radius is then bisected so that about half of the images stand. All take turns (A B C A
B C ...); medians of seconds are printed, and ratios turn by turn. Libraries run through their adapters on the same
images, in batches of the size that ours has. "bare" is autograd.grad of the cross-entropy with respect to images, as
many passes as the attack makes without early stop. passes: forward and backward, per image. Strength: robust accuracy,
or the median distance of a minimal-norm attack; both are judged on the model itself.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks import ATTACKS
from attacks.contract import Attack, ThreatModel
from attacks.noise import Noise
from attacks.norms import distance
from attacks.pgd import PGD
from attacks.target import Target, default_batch_size
from bench.running.train import _split
from bench.subjects import data, models
from bench.subjects.compiled import Compiled
from bench.subjects.device import keep_freed_memory
from bench.subjects.folding import arranged
from trainers.at import AT
from trainers.contract import Inner
from trainers.loop import fit
from trainers.schedule import Schedule


class Made(NamedTuple):
    """What a contender made of all images, and its forward and backward passes."""

    x_adv: Tensor
    forward: int
    backward: int


Run = Callable[[], Made]
Runs = dict[str, Run]
LIBRARIES = ("foolbox", "torchattacks", "pyautoattack", "adv-lib", "ART")


class Problem:
    """A slightly robust network, `count` test images that it gets right, and radii that about half of them survive."""

    def __init__(self, arch: str, count: int, data_dir: str | None, train_images: int) -> None:
        dataset = data.load("cifar10" if data_dir else "digits", data_dir)
        self.network, self.classes = models.create(arch, dataset.image_shape, dataset.classes, seed=0), dataset.classes
        cpu = torch.device("cpu")
        train = _split(dataset.train.head(min(train_images, len(dataset.train))), cpu)
        method = AT(Inner(eps=4 / 255 if data_dir else 0.1, steps=2, step=3 / 255 if data_dir else 0.06))
        schedule = Schedule(epochs=2, batch_size=64, lr=0.05, kind="cyclic", augment=False, validation_steps=1)
        fit(method, [self.network], train, _split(dataset.validation.head(64), cpu), schedule, 0)
        logits = Target(self.network).logits(dataset.test.x)
        right = (logits.argmax(1) == dataset.test.y).nonzero().squeeze(1)[:count]
        self.x, self.y = dataset.test.x[right], dataset.test.y[right]
        self.quick = arranged(self.network, self.x)
        self.eps = {norm: self._half(norm, most) for norm, most in (("Linf", 0.3), ("L2", 10.0), ("L1", 200.0))}

    def _half(self, norm: str, high: float) -> float:
        """The radius at which PGD-20 leaves about half of the images."""
        low = 0.0
        for _ in range(8):
            eps = (low + high) / 2
            fooled = self.ours(PGD(ThreatModel(norm, eps), 20, eps / 8))().x_adv
            low, high = (low, eps) if float(self.standing(fooled)) < 0.5 else (eps, high)
        return (low + high) / 2

    def standing(self, x_adv: Tensor) -> Tensor:
        """Share of images that the network itself still gets right."""
        return (Target(self.network).logits(x_adv).argmax(1) == self.y).double().mean()

    def ours(self, attack: Attack, precision: str = "float32", quick: bool = True, compiled: bool = False) -> Run:
        noise, copy = Noise(0, torch.arange(len(self.x))), self.quick if quick else None
        if compiled:  # at its first batch: the first turn, which is not counted
            copy = Compiled(self.quick, min(default_batch_size(self.x), len(self.x)), after=0)

        def run() -> Made:
            target = Target(self.network, None, precision, quick=copy)
            x_adv = attack(target, self.x, self.y, noise)
            return Made(x_adv, target.forward_passes, target.backward_passes)

        return run

    def bare(self, passes: int) -> Run:
        """As many forward and backward passes, and nothing else."""
        size = default_batch_size(self.x)

        def run() -> Made:
            for _ in range(passes):
                for rows in range(0, len(self.x), size):
                    variable = self.x[rows : rows + size].detach().requires_grad_(True)
                    loss = F.cross_entropy(self.network(variable), self.y[rows : rows + size], reduction="sum")
                    torch.autograd.grad(loss, variable)
            return Made(self.x, passes * len(self.x), passes * len(self.x))

        return run

    def peer(self, library: str, norm: str, name: str, **settings: Any) -> Run:
        """An attack of a library, in batches of the size that ours has."""
        threat, size = ThreatModel(norm, self.eps[norm]), default_batch_size(self.x)
        if library == "pyautoattack":
            return self.ours(ATTACKS[library](threat, batch=size, **settings), quick=False)
        return self.ours(ATTACKS[library](threat, name, settings, batch=size), quick=False)

    def art(self, name: str, **settings: Any) -> Runs:
        """An attack of the Adversarial Robustness Toolbox, where it is installed."""
        try:
            from art.attacks import evasion
            from art.estimators.classification import PyTorchClassifier
        except ImportError as error:
            print(f"no row for ART's {name}: {error}")
            return {}

        def run() -> Made:
            target = Target(self.network, default_batch_size(self.x))
            shape, classes = tuple(self.x.shape[1:]), self.classes
            wrapped = PyTorchClassifier(target.module(), nn.CrossEntropyLoss(), shape, classes, clip_values=(0.0, 1.0))
            size = default_batch_size(self.x)
            made = getattr(evasion, name)(wrapped, batch_size=size, verbose=False, **settings)
            x_adv = torch.from_numpy(made.generate(self.x.numpy(), F.one_hot(self.y, classes).numpy()))
            return Made(x_adv, target.forward_passes, target.backward_passes)

        return {"ART": run}

    def adv_lib(self, name: str, **settings: Any) -> Runs:
        """An attack of adversarial-library, where it is installed."""
        try:
            from adv_lib import attacks
        except ImportError as error:
            print(f"no row for adv-lib's {name}: {error}")
            return {}

        def run() -> Made:
            size = default_batch_size(self.x)
            target = Target(self.network, size)
            model, call = target.module(), getattr(attacks, name)
            made = [call(model, x, y, **settings) for x, y in zip(self.x.split(size), self.y.split(size), strict=True)]
            return Made(torch.cat(made).detach(), target.forward_passes, target.backward_passes)

        return {"adv-lib": run}

    def attack(self, kind: str, norm: str, **settings: Any) -> Attack:
        return ATTACKS[kind](ThreatModel(norm, self.eps[norm]), **settings)


def step_of(eps: float, steps: int) -> float:
    """The same for everybody: the papers' 0.003 at 8/255 and K = 100, in proportion."""
    return eps * 0.003 / (8 / 255) * max(1.0, 20 / steps)


def pgd_rows(p: Problem, steps: int) -> Runs:
    """PGD in Linf, everywhere with the same step."""
    eps = p.eps["Linf"]
    step = step_of(eps, steps)
    attack = p.attack("pgd", "Linf", steps=steps, step=step)
    return {
        "bare passes": p.bare(steps),
        "ours, plain model, every image to the end": p.ours(replace(attack, stop="last"), quick=False),
        "ours, plain model": p.ours(attack, quick=False),
        "ours": p.ours(attack),
        "ours, bf16 gradients": p.ours(attack, "bfloat16"),
        "ours, compiled": p.ours(attack, compiled=True),
        "ours, compiled, bf16 gradients": p.ours(attack, "bfloat16", compiled=True),
        "foolbox": p.peer("foolbox", "Linf", "LinfPGD", abs_stepsize=step, steps=steps, random_start=True),
        "torchattacks": p.peer("torchattacks", "Linf", "PGD", alpha=step, steps=steps, random_start=True),
        **p.adv_lib("pgd_linf", ε=eps, steps=steps, absolute_step_size=step),
    }


def all_rows(p: Problem) -> dict[str, Runs]:
    """Every attack that a library has too, at equal settings where both have them."""
    linf, l2 = p.eps["Linf"], p.eps["L2"]

    def row(ours: Attack, **peers: Run) -> Runs:
        return {
            "ours": p.ours(ours),
            "ours, bf16 gradients": p.ours(ours, "bfloat16"),
            "ours, compiled, bf16 gradients": p.ours(ours, "bfloat16", compiled=True),
        } | peers

    def queries(ours: Attack, fewer: Attack, **peers: Run) -> Runs:
        """For attacks without gradients, also with a part of the peer's budget: how soon is ours as close?"""
        return {"ours": p.ours(ours), "ours, a third of the queries": p.ours(fewer)} | peers

    step = step_of(linf, 100)
    return {
        "FGSM": row(
            p.attack("fgsm", "Linf"),
            foolbox=p.peer("foolbox", "Linf", "LinfFastGradientAttack"),
            torchattacks=p.peer("torchattacks", "Linf", "FGSM"),
        ),
        "PGD-100": row(
            p.attack("pgd", "Linf", steps=100, step=step),
            foolbox=p.peer("foolbox", "Linf", "LinfPGD", abs_stepsize=step, steps=100),
            torchattacks=p.peer("torchattacks", "Linf", "PGD", alpha=step, steps=100),
            **p.adv_lib("pgd_linf", ε=linf, steps=100, absolute_step_size=step),
            **p.art("ProjectedGradientDescent", eps=linf, eps_step=step, max_iter=100, num_random_init=1),
        ),
        "PGD-50 L2": row(
            p.attack("pgd", "L2", steps=50, step=l2 / 10),
            foolbox=p.peer("foolbox", "L2", "L2PGD", abs_stepsize=l2 / 10, steps=50),
            torchattacks=p.peer("torchattacks", "L2", "PGDL2", alpha=l2 / 10, steps=50),
        ),
        "MIM-10": row(
            p.attack("mim", "Linf", steps=10, step=linf / 5),
            torchattacks=p.peer("torchattacks", "Linf", "MIFGSM", alpha=linf / 5, steps=10, decay=1.0),
        ),
        "APGD-CE": row(
            p.attack("apgd", "Linf"),
            torchattacks=p.peer("torchattacks", "Linf", "APGD", steps=100, loss="ce"),
            **p.adv_lib("apgd", eps=linf, norm=float("inf"), loss_function="ce"),
            **p.art("AutoProjectedGradientDescent", eps=linf, eps_step=2 * linf, nb_random_init=1),
        ),
        "APGD-T": row(
            p.attack("apgd", "Linf", targets=9),
            torchattacks=p.peer("torchattacks", "Linf", "APGDT", steps=100),
            **p.adv_lib("apgd_targeted", eps=linf, norm=float("inf"), num_targets=9),
        ),
        "AutoAttack": row(p.attack("autoattack", "Linf"), pyautoattack=p.peer("pyautoattack", "Linf", "")),
        "DDN-100": row(
            p.attack("ddn", "L2", steps=100),
            foolbox=p.peer("foolbox", "L2", "DDNAttack", steps=100, init_epsilon=1.0, gamma=0.05),
        ),
        "DeepFool": row(
            p.attack("deepfool", "L2"),
            foolbox=p.peer("foolbox", "L2", "L2DeepFoolAttack", steps=100, candidates=10),
            torchattacks=p.peer("torchattacks", "L2", "DeepFool", steps=100),
            **p.art("DeepFool", max_iter=100, epsilon=0.02, nb_grads=10),
        ),
        "C&W L2": row(
            p.attack("cw-l2", "L2"),
            foolbox=p.peer(
                "foolbox", "L2", "L2CarliniWagnerAttack", steps=200, stepsize=0.025, binary_search_steps=5,
                initial_const=0.01, abort_early=False,
            ),
        ),
        "salt-and-pepper": queries(
            p.attack("salt-and-pepper", "L1"),
            p.attack("salt-and-pepper", "L1", queries=333),
            foolbox=p.peer("foolbox", "L1", "SaltAndPepperNoiseAttack", steps=1000),
        ),
        "pointwise L1": row(p.attack("pointwise", "L1"), foolbox=p.peer("foolbox", "L1", "PointwiseAttack")),
        "boundary-1000": queries(
            p.attack("boundary", "L2", steps=500),
            p.attack("boundary", "L2", steps=167),
            foolbox=p.peer("foolbox", "L2", "BoundaryAttack", steps=1000),
        ),
    }  # fmt: skip


def compare(runs: Runs, repeats: int) -> tuple[dict[str, list[float]], dict[str, Made]]:
    """Seconds of each, taking turns, and what the last turn made. With several turns the first only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    made: dict[str, Made] = {}
    for turn in range(repeats + (repeats > 1)):
        for name, run in runs.items():
            started = time.perf_counter()
            made[name] = run()
            if turn or repeats == 1:
                seconds[name].append(time.perf_counter() - started)
    return seconds, made


def report(p: Problem, title: str, runs: Runs, repeats: int, norm: str, closest: bool, passes: int | None) -> None:
    """One block: a line for each contender."""
    seconds, made = compare(runs, repeats)
    peers = [seconds[name] for name in runs if name in LIBRARIES]
    best = [min(turn) for turn in zip(*peers, strict=True)] if peers else None
    against = "median " + norm if closest else "robust accuracy"
    head = "passes/s  x bare" if passes else "forward backward"
    print(f"\n{title:44} seconds {head:>16} x best peer {against:>16}")
    for name, times in seconds.items():
        line = f"{name:44} {statistics.median(times):7.2f} "
        if passes:
            rate = statistics.median(b / t for b, t in zip(seconds["bare passes"], times, strict=True))
            line += f"{len(p.x) * passes / statistics.median(times):8.0f} {rate:7.2f} "
        else:
            line += f"{made[name].forward / len(p.x):8.0f} {made[name].backward / len(p.x):8.0f}"
        faster = statistics.median(b / t for b, t in zip(best, times, strict=True)) if best else float("nan")
        print(f"{line}{faster:11.2f} {strength(p, made[name].x_adv, norm, closest):16.4f}", flush=True)


def strength(p: Problem, x_adv: Tensor, norm: str, closest: bool) -> float:
    """Share of images that stand, or the median over images of the distance (infinite where nothing was found)."""
    if not closest:
        inside = ThreatModel(norm, p.eps[norm] * (1 + 1e-5)).contains(p.x, x_adv)
        return float(p.standing(torch.where(inside[:, None, None, None], x_adv, p.x)))
    fooled = Target(p.network).logits(x_adv).argmax(1) != p.y
    return float(torch.where(fooled, distance(norm, p.x, x_adv), torch.inf).median())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet8")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--all", action="store_true", help="every attack instead of PGD")
    parser.add_argument("--only", nargs="+", help="blocks of --all")
    parser.add_argument("--without", help="contenders whose name holds this, as bf16 on a CPU that has to emulate it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--train-images", type=int, default=4000)
    parser.add_argument("--data-dir", default=os.environ.get("BENCH_DATA"))
    options = parser.parse_args()
    keep_freed_memory()
    warnings.simplefilter("ignore")
    p = Problem(options.arch, options.images, options.data_dir, options.train_images)

    def some_of(runs: Runs) -> Runs:
        return {name: run for name, run in runs.items() if not options.without or options.without not in name}

    radii = ", ".join(f"{norm} {eps:.4g}" for norm, eps in p.eps.items())
    print(f"{options.arch}, {len(p.x)} images of {tuple(p.x.shape[1:])}, {radii}, {torch.get_num_threads()} threads")
    if not (options.all or options.only):
        for steps in options.steps:
            report(p, f"PGD-{steps}", some_of(pgd_rows(p, steps)), options.repeats, "Linf", False, steps)
        return
    for title, runs in all_rows(p).items():
        if not options.only or title in options.only:
            closest = title in ("DDN-100", "DeepFool", "C&W L2", "salt-and-pepper", "pointwise L1", "boundary-1000")
            norm = "L2" if "L2" in title or title in ("DDN-100", "DeepFool", "boundary-1000") else "Linf"
            norm = "L1" if title in ("salt-and-pepper", "pointwise L1") else norm
            report(p, title, some_of(runs), options.repeats, norm, closest, None)


if __name__ == "__main__":
    main()
