"""What to run after a verdict: commands for a model and images that have names, calls for those in memory."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from torch import nn

from attacks.contract import ThreatModel
from bench.ground.config import number
from bench.ledger.budgets import radius
from bench.running.attack import Attacked
from bench.subjects.chosen import Choice
from bench.subjects.data import Dataset

TIMES = 10  # as many images: an interval a third as wide
OPTIONS = {  # of a choice: what a command calls them
    "dataset": "--dataset", "arch": "--arch", "data_dir": "--data-dir", "weights_key": "--weights-key",
    "normalization": "--normalization", "input_range": "--range", "weights": "--weights", "labels": "--labels",
    "mean": "--mean", "std": "--std",
}  # fmt: skip


def next_steps(choice: Choice, done: Attacked, threat: ThreatModel) -> tuple[str, ...]:
    """All checks, and the same with more images where there are some."""
    if threat.norm not in ("Linf", "L2", "L1") or threat.eps == 0:
        return ()
    count = min(len(done.dataset.test), TIMES * len(done.images))
    more = count if count > len(done.images) and choice.indices is None else 0
    if isinstance(choice.model, nn.Module) or isinstance(choice.dataset, Dataset):
        x = "x, y" if isinstance(choice.dataset, Dataset) else repr(choice.dataset)
        said = f"model, {x}, norm={threat.norm!r}, eps={_exact(threat.eps)}"
        lines = [f"bench.diagnose({said})", f"bench.evaluate({said}, images={more})"]
    else:
        said = shlex.join([choice.model, *_options(choice), "--norm", threat.norm, "--eps", _exact(threat.eps)])
        lines = [f"bench diagnose {said}", f"bench attack {said} --images {more}"]
    return (f"{lines[0]}  # all checks", *([f"{lines[1]}  # a narrower interval"] if more else []))


def _options(choice: Choice) -> list[str]:
    """What was said of the model and of the images, as options."""
    given = {option: getattr(choice, name) for name, option in OPTIONS.items()}
    if choice.reading is not None:
        columns = {"image": choice.reading.image, "label": choice.reading.label}
        named = ",".join(f"{key}={value}" for key, value in columns.items() if value is not None)
        given |= {"--columns": named or None, "--size": choice.reading.size}
        given |= {"--crop": choice.reading.crop, "--classes": choice.reading.classes}
    if str(choice.data_dir) == os.environ.get("BENCH_DATA"):
        del given["--data-dir"]  # who runs it next has it there too
    if choice.results.root != Path("results"):
        given["--results"] = choice.results.root
    return [word for option, value in given.items() if value is not None for word in (option, _word(value))]


def _word(value: object) -> str:
    return ",".join(f"{one:g}" for one in value) if isinstance(value, tuple) else str(value)


def _exact(eps: float) -> str:
    """8/255 as such, and no digit less than it takes."""
    return radius(eps) if number(radius(eps)) == eps else repr(eps)
