"""Ids: readable words, and then a hash of everything that can change the result.

They are names of files, so they are letters, digits, "_", "-" and single dots: none leads out of its folder. What the
recipes and attacks resolve to (all defaults included) is an argument: it is known on the other side of the wall, and
is hashed here as plain data.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from bench.ground.config import UserError

NAME_SHOWN = 120  # letters; a file name holds 255
# no "..", no separator, no leading dot or dash
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
LONGEST = 200  # letters of an id
LABEL = re.compile(r"((h[0-9]+|all)-)?(best|last)")


def digest(*parts: Any) -> str:
    """8 hexadecimal digits of the SHA-256 of the parts as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def training_id(trainer: str, dataset: str, arch: str, seed: int, identity: Mapping[str, Any]) -> str:
    """Such as "mat-cifar10-resnet18-s0-3f9c2a1b". identity: all that can change the result."""
    return f"{slug(trainer)}-{slug(dataset)}-{slug(arch)}-s{seed}-{digest(identity)}"


def run_id(training: str, member: int, members: int, checkpoint: str) -> str:
    """ "<training_id>.best" for one network, "<training_id>.h1-best" for the first of several, "<training_id>.all-best"
    (member = members) for their ensemble.
    """
    if members == 1:
        return f"{training}.{checkpoint}"
    return f"{training}.all-{checkpoint}" if member == members else f"{training}.h{member + 1}-{checkpoint}"


def eval_id(attack: str, images: int, identity: Mapping[str, Any]) -> str:
    """Such as "pgd-100-digits-n450-1a2b3c4d". identity: all that can change the result; of a long name the beginning is
    shown, and all of it is hashed.
    """
    return f"{slug(attack)[:NAME_SHOWN].rstrip('-_')}-n{images}-{digest(identity)}"


def training_identity(
    recipe: Mapping[str, Any], dataset: str, train_sha256: str, arch: str, seed: int
) -> dict[str, Any]:
    """What a training's hash is taken of: the recipe, the data and, of a frozen teacher, the run id.

    recipe: resolved for `arch`, {"trainer", "version", "settings"} and, where it has them, "code" (of a method from
    outside), "archs", "arch_versions" and "teacher".
    """
    own = {key: recipe[key] for key in ("trainer", "version", "settings", "code", "arch_versions") if key in recipe}
    identity = {**own, "dataset": dataset, "train_sha256": train_sha256, "arch": arch_of(recipe, arch), "seed": seed}
    teacher = teacher_of(recipe, dataset, train_sha256, arch, seed)
    return identity if teacher is None else identity | {"teacher": teacher}


def arch_of(recipe: Mapping[str, Any], arch: str) -> str:
    """The architecture of a recipe's cohort: `arch`, or those that it names itself, as "cnn-small+resnet8"."""
    return "+".join(recipe.get("archs") or [arch])


def training_of_recipe(recipe: Mapping[str, Any], dataset: str, train_sha256: str, arch: str, seed: int) -> str:
    """The training id of a resolved recipe."""
    identity = training_identity(recipe, dataset, train_sha256, arch, seed)
    return training_id(recipe["trainer"], dataset, arch_of(recipe, arch), seed, identity)


def teacher_of(recipe: Mapping[str, Any], dataset: str, train_sha256: str, arch: str, seed: int) -> str | None:
    """The run id of a resolved recipe's frozen teacher, None where it has none: of the same data and seed."""
    teacher = recipe.get("teacher")
    if teacher is None:
        return None
    training = training_of_recipe(teacher["recipe"], dataset, train_sha256, teacher["arch"] or arch, seed)
    return run_id(training, teacher["member"], teacher["members"], "best")


def eval_identity(
    attack: Mapping[str, Any],
    name: str,
    images_sha256: str,
    seed: int,
    options: Mapping[str, Any],
    source: str | None = None,
) -> dict[str, Any]:
    """What an evaluation's hash is taken of. name is in it because the attack's noise is drawn from it.

    source: the run id of the network that the attack is crafted on, where that is not the one it is judged on.
    """
    identity = {**attack, "name": name, "images_sha256": images_sha256, "seed": seed, "options": dict(options)}
    return identity if source is None else identity | {"source": source}


EVAL_OPTIONS: tuple[dict[str, str], ...] = tuple(
    {"gradient_precision": precision} | compiled
    for compiled in ({}, {"compile": "auto"})
    for precision in ("float32", "bfloat16")
)  # every way in which attacks can be run that an id tells


def check_seed(seed: int) -> None:
    """Raises ValueError for a number that no generator of random numbers takes."""
    if not -(1 << 63) <= seed < 1 << 63:
        raise ValueError(f"seed {seed} is not within 64 bits")


def slug(name: str) -> str:
    """`name` as part of an id."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_") or "x"


def check_id(name: str) -> str:
    """`name` if it may be a file name: letters, digits, '_', '-' and single dots. Raises UserError."""
    if not is_id(name):
        raise UserError(
            f"{name!r} is no id: ids are letters, digits, '_', '-' and single dots inside, at most {LONGEST}"
        )
    return name


def is_id(name: Any) -> bool:
    """Whether it may be a file name, see `check_id`."""
    return isinstance(name, str) and _ID.fullmatch(name) is not None and len(name) <= LONGEST


def training_of(run_id: str) -> str:
    """ "<training_id>.h1-best" -> "<training_id>". Raises UserError."""
    training_id, dot, label = check_id(run_id).rpartition(".")
    if not dot or not LABEL.fullmatch(label):
        raise UserError(f"{run_id!r} is no run id: it ends in .best or .last, .h1-best or .all-best")
    return training_id
