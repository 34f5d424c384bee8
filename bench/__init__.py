"""The bench: is this classifier robust, and by how much? Importing it loads nothing; what is asked for is loaded then.

    import bench
    result = bench.evaluate(model, x, y, norm="Linf", eps=8 / 255)   # or bench.evaluate(model, "cifar10", images=100)
    result                                                           # clean, each attack, worst case, interval, trust
    result.images, result.adversarial                                # image by image; the images themselves

docs/python.md has every function. A mistake in a call is a `bench.UserError`, in one sentence. Whoever imports
torchvision after this package gets one that works beside any torch (`bench.subjects.torchvision_ops`).
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.api.diagnosing import Diagnosis, diagnose
    from bench.api.evaluating import attack, evaluate
    from bench.api.filling import load, run, table, train
    from bench.api.result import Result
    from bench.ground.config import UserError
    from bench.judge.evaluate import AttackError
    from trainers.health import TrainingError

_PLACES = {
    "bench.api.evaluating": ("attack", "evaluate"),
    "bench.api.diagnosing": ("Diagnosis", "diagnose"),
    "bench.api.filling": ("load", "run", "table", "train"),
    "bench.api.result": ("Result",),
    "bench.ground.config": ("UserError",),
    "bench.judge.evaluate": ("AttackError",),
    "trainers.health": ("TrainingError",),
}
_WHERE = {name: module for module, names in _PLACES.items() for name in names}
__all__ = [
    "AttackError",
    "Diagnosis",
    "Result",
    "TrainingError",
    "UserError",
    "attack",
    "diagnose",
    "evaluate",
    "load",
    "run",
    "table",
    "train",
]


class _BeforeTorchvision:
    """Finds no module; is asked for every one, and so before torchvision is imported, by whomever."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> None:
        if name == "torchvision" and cls in sys.meta_path:
            sys.meta_path.remove(cls)
            import_module("bench.subjects.torchvision_ops").declare()


if "torchvision" not in sys.modules:
    sys.meta_path.insert(0, _BeforeTorchvision)


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'bench' has no attribute {name!r}; it has {', '.join(__all__)}")
    found = globals()[name] = getattr(import_module(_WHERE[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
