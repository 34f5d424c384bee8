"""What a network returns, as logits [B, K]: taken out of what carries them, and of a larger head the classes meant.

Networks of other libraries return an object with `.logits`, a dict with "logits", or a tuple that begins with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from bench.ground import terminal
from bench.subjects.blank import Blank

Labels = Sequence[Sequence[int]]  # for each class of the data set the places in the head that stand for it


class Logits(nn.Module):
    """A network whose output carries its logits, as one that returns them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training  # an exported program cannot be told another mode

    def forward(self, x: Tensor) -> Any:
        output = self.network(x)
        found = carried(output)
        return output if found is None else found[1]


class Mapped(nn.Module):
    """A network with a larger head, or in another order, as one of the data set's classes: logits [B, K] of which the
    k-th is the largest of the head's at `labels[k]`. All others are left out.
    """

    columns: Tensor

    def __init__(self, network: nn.Module, labels: Labels) -> None:
        super().__init__()
        self.network = network
        self.training = network.training
        widest = max(map(len, labels))
        rows = [[*places, *places[:1] * (widest - len(places))] for places in map(list, labels)]
        self.register_buffer("columns", torch.tensor(rows, dtype=torch.int64))
        self.largest = max(map(max, rows))

    def forward(self, x: Tensor) -> Tensor:
        """Raises ValueError where the head is too small."""
        logits = self.network(x)
        if self.largest >= logits.shape[1]:
            raise ValueError(f"--labels names logit {self.largest}, and the network returns {logits.shape[1]}, from 0")
        return logits[:, self.columns].amax(2)


def carried(output: object) -> tuple[str, Tensor] | None:
    """(where they lie, in words; logits [B, K]) of an output that carries them, None of any other."""
    if isinstance(output, Tensor):
        return None
    inside: Any = getattr(output, "logits", None)
    if isinstance(inside, Tensor):
        return "its .logits are", inside
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        return "its entry 'logits' is", output["logits"]
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor) and output[0].dim() == 2:
        return f"the first of its {len(output)} parts, [B, {output[0].shape[1]}], is", output[0]
    return None


def with_logits(
    model: nn.Module, name: str, shape: Sequence[int], again: Callable[[], nn.Module] | None = None
) -> nn.Module:
    """The model, or its Logits where one grey image shows that its output carries them, which is said once.

    name: of the model, for people. again: makes it anew, for one that cannot be copied: no model is asked itself where
    that can be avoided.
    """
    try:
        copy = Blank(model, again).fresh()
        copy.eval()
        weights = next(chain(copy.parameters(), copy.buffers()), torch.empty(0))
        with torch.no_grad():
            found = carried(copy(torch.full((1, *shape), 0.5, device=weights.device)))
    except Exception:  # whatever the model raises is told in words where it is asked for its logits
        return model
    if found is None:
        return model
    terminal.warn_once(f"{name} returns no tensor; {found[0]} taken as the logits")
    return Logits(model)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside of Logits; any other itself."""
    return model.network if isinstance(model, Logits) else model
