"""A model that answers at random, asked again and again: draws that the seed names, and what they say.

What torch draws in a draw is a function of the seed and the draw's number, so that the same command gives the same
number on the same machine; the numbers of whoever calls go on as if there had been none. The attack has draws of its
own: it never sees those of the verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.noise import derive_seed


class Answers(NamedTuple):
    """logits [N, K] of the last draw. predictions [N]: the class that most draws give. each [D, N]: of every draw."""

    logits: Tensor
    predictions: Tensor
    each: Tensor


def answers(ask: Callable[[], Tensor], draws: int, *names: object) -> Answers:
    """ask: -> logits [N, K]. One draw is a plain call, of no seed; names: what the seeds of several are made of."""
    if draws == 1:
        logits = ask()
        return Answers(logits, logits.argmax(1), logits.argmax(1)[None])
    each = []
    for number in range(draws):
        with seeded(*names, number):
            logits = ask()
        each.append(logits.argmax(1))
    return Answers(logits, torch.stack(each).mode(0).values, torch.stack(each))


@contextmanager
def seeded(*names: object) -> Iterator[None]:
    """torch's generators begin at a seed made of the names, and are afterwards what they were."""
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        torch.manual_seed(derive_seed("draws", *names))
        yield
