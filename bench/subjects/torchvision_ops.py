"""Makes `import torchvision` work where its compiled operators cannot load.

The package index's torchvision is built against a CUDA torch; beside a CPU torch its operators do not load, and the
import then fails because it registers gradients for two of them. Declaring those two is enough for data sets,
transforms and models; calling them still fails, and nobody here does. Nothing is declared where they exist.
`bench/__init__.py` sees to it that this comes before the first import of torchvision, also by a user's own code.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

OPERATORS = ("nms", "qnms")
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # a library's operators live as long as it does


def declare() -> None:
    """Before the first `import torchvision`."""
    if _declared or _operators_load():
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in OPERATORS:
        library.define(name + SIGNATURE)
    _declared.append(library)


def _operators_load() -> bool:
    """Whether torchvision's own shared library loads here (it then registers its operators itself)."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return True
    for path in sorted(Path(found.origin).parent.glob("_C.*")) + sorted(Path(found.origin).parent.glob("_C_*.so")):
        try:
            torch.ops.load_library(str(path))
        except OSError:
            return False
    return True
