"""A network that has seen nothing: copies made before the first image, for whoever must know what it answers afresh.

A network may remember in a plain attribute what it was shown, and answer for that; no fingerprint sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import nn

from bench.ground.config import first_line


class Blank:
    """Makes copies of a network as it is now. again: makes the same network anew, for one that cannot be copied.

    copied: whether what `fresh` returns has seen nothing; else it is the network itself. why: it cannot be copied, ""
    where it can.
    """

    def __init__(self, model: nn.Module, again: Callable[[], nn.Module] | None = None) -> None:
        self._model, self._again = model, again
        self._untouched, self.why = _copy(model)
        self.copied = self._untouched is not None or again is not None

    def moved(self, device: torch.device) -> Blank:
        """Moves the network -> copies of it as it is there, with what it keeps beside its weights."""
        again = self._again
        self._model.to(device)
        return Blank(self._model, None if again is None else lambda: again().to(device))

    def fresh(self) -> nn.Module:
        """The network, in the mode and on the device that it had."""
        if self._untouched is not None and (made := _copy(self._untouched)[0]) is not None:
            return made
        if self._again is None:
            return self._model
        made = self._again()
        made.load_state_dict(self._model.state_dict())  # a factory may draw its weights
        return made.train(self._model.training)


def _copy(model: nn.Module) -> tuple[nn.Module | None, str]:
    """A deep copy, of a compiled network that of its code; None and the reason where it cannot be copied."""
    try:
        return deepcopy(getattr(model, "_orig_mod", model)), ""
    except Exception as error:  # whatever copying raises: locks, files, tensors that are no leaves, a user's own code
        return None, f"{type(error).__name__}: {first_line(error)}"
