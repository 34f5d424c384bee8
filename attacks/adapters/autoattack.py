"""AutoAttack as pyautoattack packages it: Croce & Hein 2020, https://arxiv.org/abs/2003.01690.

standard: APGD-CE, targeted APGD-DLR, targeted FAB, Square, each on the images that still stand; the ensemble that the
literature's robust accuracies are measured with.

Worked around, in 0.2.0: images must be contiguous; the count that its test for dynamic defences keeps is never reset,
so that one positive condemns every later model of the process; that test ends the process' trace function (a debugger
or a coverage measurement); the global random state is reseeded; FAB fills the weights' gradients; Square writes -inf
into the logits that the model returned (it gets a copy). Its warnings are logged ("auto-attack"), each once a call.

Not worked around: Square in L2 crashes on images of 4, 12, 14, 18, 19 or 24 rows (a LibraryError).
Differs: with fewer classes than it was written for (10; the targeted DLR loss needs 4, the untargeted one 3), where it
crashes, there are as many target classes as wrong classes, and attacks whose loss is not defined are left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from attacks.adapters import library, run_in_batches
from attacks.contract import ThreatModel
from attacks.noise import Noise
from attacks.target import Target


@dataclass(frozen=True)
class PyAutoAttack:
    """AutoAttack.

    threat: Linf, L2 or L1. attacks_version: "standard"; "plus" adds the untargeted DLR loss, untargeted FAB and
    restarts; "rand" is for randomised defences, APGD on gradients averaged over 20 passes. batch: images at a time;
    only 1 keeps an image independent of the others. Raises ValueError.
    """

    closest: ClassVar[bool] = False
    threat: ThreatModel
    attacks_version: Literal["standard", "plus", "rand"] = "standard"
    batch: int = 1
    version: int = 1

    def __post_init__(self) -> None:
        if self.threat.norm not in ("Linf", "L2", "L1"):
            raise ValueError(f"AutoAttack works in Linf, L2 and L1, not in {self.threat.norm}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1; got {self.batch}")

    def __call__(self, target: Target, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """x [N, C, H, W], y [N] -> x_adv [N, C, H, W]; see `attacks.contract.Attack`."""
        who = f"pyautoattack's {self.attacks_version} AutoAttack"
        with _each_warning_once():
            return run_in_batches(who, self.batch, self._run, target, x, y, noise)

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        calls = library("pyautoattack.checks").funcs
        calls.update(dict.fromkeys(calls, 0))
        ensemble = library("pyautoattack").AutoAttack(
            model,
            norm=self.threat.norm,
            eps=self.threat.eps,
            seed=seed,
            version=self.attacks_version,
            device=x.device,
        )
        _fit(ensemble, classes=model(x[:1]).shape[1])
        x_adv, _ = ensemble.run_standard_evaluation(x, y, batch_size=len(x))
        return x_adv


def _fit(ensemble: Any, classes: int) -> None:
    """Fewer targets and attacks where the classes do not suffice for all."""
    for attack in (ensemble.apgd_targeted, ensemble.fab):
        attack.n_target_classes = min(attack.n_target_classes, classes - 1)
    needs = {"apgd-dlr": 3, "apgd-t": 4}
    ensemble.attacks_to_run = [name for name in ensemble.attacks_to_run if classes >= needs.get(name, 2)]


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """pyautoattack warns once a batch, so with batches of one image once an image."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not (text in seen or seen.add(text))  # type: ignore[func-returns-value]

    logger = logging.getLogger("auto-attack")
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)
