"""How good is each minimal-norm attack? AttackBench's optimality (Cinà et al. 2024, https://arxiv.org/abs/2404.19460).

    python -m benchmarks.attack_optimality --arch resnet8 --images 32 --queries 1000
    python -m benchmarks.attack_optimality --arch benchmarks.strangers:timm_silu --norms L0 L2

An attack leaves an accuracy at every distance: the share of images that it moved at least so far. Its area under that
curve, beside that of the best attack image by image, is its optimality:

    1 - (area - best area) / (clean accuracy x most distance - best area)

1 is the best of all that were run, 0 an attack that finds nothing; most distance: that of the best attack's last image.
All have the same budget, forward and backward passes together, by their number of steps; what they spent is beside it.
Networks, images and peers are those of benchmarks.attack_speed; a library that is not installed has no row.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.norms import distance
from attacks.target import Target
from bench.subjects.device import keep_freed_memory
from benchmarks.attack_speed import Problem, Runs

NORMS = ("L2", "Linf", "L1", "L0")


class Row(NamedTuple):
    """One attack in one norm. reached [N]: distances of its images, infinite where it found none; passes: an image."""

    name: str
    reached: Tensor
    forward: float
    backward: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet8")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--queries", type=int, default=1000, help="forward and backward passes for an image")
    parser.add_argument("--norms", nargs="+", default=list(NORMS), choices=NORMS)
    parser.add_argument("--train-images", type=int, default=4000)
    parser.add_argument("--data-dir", default=os.environ.get("BENCH_DATA"))
    options = parser.parse_args()
    keep_freed_memory()
    warnings.simplefilter("ignore")
    p = Problem(options.arch, options.images, options.data_dir, options.train_images)
    p.eps["L0"] = 24.0  # where verdicts would be read; no attack here looks at it
    print(f"{options.arch}, {len(p.x)} images of {tuple(p.x.shape[1:])}, {options.queries} passes an image")
    for norm in options.norms:
        report(norm, [measured(p, norm, *one) for one in CONTENDERS[norm](p, options.queries).items()])


def measured(p: Problem, norm: str, name: str, run: Callable[[], object]) -> Row:
    """Distances, judged on the model itself."""
    started = time.perf_counter()
    made = run()
    took = time.perf_counter() - started
    x_adv = made.x_adv.clamp(0, 1)  # type: ignore[attr-defined]
    fooled = Target(p.network).logits(x_adv).argmax(1) != p.y
    reached = torch.where(fooled, distance(norm, p.x, x_adv), torch.inf)
    return Row(name, reached, made.forward / len(p.x), made.backward / len(p.x), took)  # type: ignore[attr-defined]


def optimality(reached: Tensor, best: Tensor) -> float:
    """Distances [N] of an attack and of the best one on images that are right without it -> at most 1."""
    most = best[best < torch.inf].max()
    area, least = reached.clamp_max(most).mean(), best.clamp_max(most).mean()
    return float(1 - (area - least) / (most - least))


def report(norm: str, rows: list[Row]) -> None:
    """The best first."""
    best = torch.stack([row.reached for row in rows]).amin(0)
    print(f"\n{norm:34} optimality  found  median distance  forward  backward  seconds")
    for row in sorted(rows, key=lambda row: -optimality(row.reached, best)):
        found, middle = float((row.reached < torch.inf).double().mean()), float(row.reached.median())
        numbers = f"{optimality(row.reached, best):10.3f} {found:6.0%} {middle:16.4f}"
        print(f"{row.name:34} {numbers} {row.forward:8.0f} {row.backward:9.0f} {row.seconds:8.1f}", flush=True)


def l2(p: Problem, queries: int) -> Runs:
    """The closest image in L2."""
    steps, tried = queries // 2, queries // 10
    return {
        "ours: ddn": p.ours(p.attack("ddn", "L2", steps=steps)),
        "ours: cw-l2": p.ours(p.attack("cw-l2", "L2", steps=tried)),
        "ours: deepfool": p.ours(p.attack("deepfool", "L2", steps=queries // 11)),
        "ours: fab": p.ours(p.attack("fab", "L2", steps=steps // 9)),
        "ours: boundary": p.ours(p.attack("boundary", "L2", steps=steps)),
        "foolbox: DDN": p.peer("foolbox", "L2", "DDNAttack", steps=steps),
        "foolbox: FMN": p.peer("foolbox", "L2", "L2FMNAttack", steps=steps),
        "foolbox: DeepFool": p.peer("foolbox", "L2", "L2DeepFoolAttack", steps=queries // 11),
        "foolbox: C&W": p.peer("foolbox", "L2", "L2CarliniWagnerAttack", steps=tried, binary_search_steps=5),
        "torchattacks: DeepFool": p.peer("torchattacks", "L2", "DeepFool", steps=queries // 11),
        "torchattacks: C&W": p.peer("torchattacks", "L2", "CW", steps=steps),
        **named("DDN", p.adv_lib("ddn", steps=steps)),
        **named("FMN", p.adv_lib("fmn", norm=2, steps=steps)),
        **named("ALMA", p.adv_lib("alma", num_steps=steps)),
        **named("PDPGD", p.adv_lib("pdpgd", norm=2, num_steps=steps)),
        **named("DeepFool", p.art("DeepFool", max_iter=queries // 11, nb_grads=10), "ART"),
    }


def linf(p: Problem, queries: int) -> Runs:
    """The closest image in Linf."""
    steps = queries // 2
    return {
        "ours: fmn": p.ours(p.attack("fmn", "Linf", steps=steps)),
        "ours: fab": p.ours(p.attack("fab", "Linf", steps=steps // 9)),
        "foolbox: FMN": p.peer("foolbox", "Linf", "LInfFMNAttack", steps=steps),
        "foolbox: DeepFool": p.peer("foolbox", "Linf", "LinfDeepFoolAttack", steps=queries // 11),
        **named("FMN", p.adv_lib("fmn", norm=float("inf"), steps=steps)),
        **named("PDPGD", p.adv_lib("pdpgd", norm=float("inf"), num_steps=steps)),
    }


def l1(p: Problem, queries: int) -> Runs:
    """The closest image in L1."""
    steps = queries // 2
    return {
        "ours: fab": p.ours(p.attack("fab", "L1", steps=steps // 9)),
        "ours: salt-and-pepper": p.ours(p.attack("salt-and-pepper", "L1", queries=queries)),
        "ours: pointwise": p.ours(p.attack("pointwise", "L1")),
        "foolbox: FMN": p.peer("foolbox", "L1", "L1FMNAttack", steps=steps),
        "foolbox: EAD": p.peer("foolbox", "L1", "EADAttack", steps=queries // 18, decision_rule="L1"),
        **named("FMN", p.adv_lib("fmn", norm=1, steps=steps)),
        **named("PDPGD", p.adv_lib("pdpgd", norm=1, num_steps=steps)),
    }


def l0(p: Problem, queries: int) -> Runs:
    """The closest image in L0: changed values."""
    steps = queries // 2
    return {
        "ours: sigma-zero": p.ours(p.attack("sigma-zero", "L0", steps=steps - 25)),
        "ours: pointwise": p.ours(p.attack("pointwise", "L0")),
        "ours: salt-and-pepper": p.ours(p.attack("salt-and-pepper", "L0", queries=queries)),
        "foolbox: FMN": p.peer("foolbox", "L0", "L0FMNAttack", steps=steps),
        "foolbox: pointwise": p.peer("foolbox", "L0", "PointwiseAttack"),
        **named("sigma-zero", p.adv_lib("sigma_zero", num_steps=steps)),
        **named("FMN", p.adv_lib("fmn", norm=0, steps=steps)),
    }


def named(attack: str, runs: Runs, library: str = "adv-lib") -> Runs:
    """A row of a library that may not be there."""
    return {f"{library}: {attack}": run for run in runs.values()}


CONTENDERS: dict[str, Callable[[Problem, int], Runs]] = {"L2": l2, "Linf": linf, "L1": l1, "L0": l0}

if __name__ == "__main__":
    main()
