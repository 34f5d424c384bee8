"""Where a number comes from: code, packages, machine, command, time, cost."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.ground import packages

PACKAGES = (
    "torch", "torchvision", "foolbox", "torchattacks", "pyautoattack",
    "pandas", "pyarrow", "numpy", "safetensors",
)  # fmt: skip


@dataclass(frozen=True)
class Provenance:
    """What made a record. git_commit: "unknown" outside a repository. started_utc: ISO 8601."""

    git_commit: str
    git_dirty: bool
    packages: dict[str, str]
    python: str
    device: str
    threads: int
    started_utc: str
    command: str


@dataclass(frozen=True)
class Cost:
    """seconds: wall time. Passes are counted in images."""

    seconds: float
    forward_passes: int
    backward_passes: int


@dataclass(frozen=True)
class TrainingCost(Cost):
    """Of a training, all its networks together. seconds: with validation and checkpoints. Passes: of training alone.

    images_per_second: training images by the seconds of training alone. peak_memory_bytes: on CUDA the most that torch
    had allocated; on a CPU the most that the process ever held, which is at least the training's own.
    """

    images_per_second: float
    peak_memory_bytes: int


def check_cost(cost: Cost) -> None:
    """Raises ValueError where a time or a count is below 0."""
    if any(value < 0 for value in vars(cost).values()):
        raise ValueError(f"cost {cost} is below 0")


def provenance(device: str, threads: int) -> Provenance:
    """Of this process, now. device: such as "cpu" or the name of a GPU. Loads none of the packages it
    names.
    """
    commit = _git("rev-parse", "HEAD")
    return Provenance(
        git_commit=commit or "unknown",
        git_dirty=bool(commit and _git("status", "--porcelain", "--untracked-files=no")),
        packages={name: version for name in PACKAGES if (version := _version(name))} | packages.used(),
        python=platform.python_version(),
        device=device,
        threads=threads,
        started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        # without its folder, which says nothing about the result
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    """Output of git in the folder of this code; "" where there is no git or no repository."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def seconds_since_1970() -> float:
    """The wall clock, for what is written down beside an event; no duration is taken from it."""
    return datetime.now(UTC).timestamp()
