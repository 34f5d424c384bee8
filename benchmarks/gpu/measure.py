"""The measurement of one loan: sections in the order of their worth, each as long as there is time."""

from __future__ import annotations

import signal
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from bench.subjects.data import Dataset
from bench.subjects.device import choose_device
from benchmarks.gpu import attacking, ceilings, images, steps
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.device import facts
from benchmarks.gpu.log import Log
from benchmarks.gpu.sizes import EPOCH, Size, size_for
from trainers.passes import no_compiler
from trainers.validation import Split

METHODS = ("at", "trades", "mat")
SECTIONS = ("levers", "epochs", "attacks")
END = 10.0  # seconds at the end that nothing measures in


class TimeIsUp(BaseException):
    """The loan is nearly over."""


def measure(out: Path, data: Path | None, clock: Clock, size: str, device: str, only: tuple[str, ...]) -> bool:
    """Measures, prints one table, and writes the figures as they come; whether no row failed. Raises UserError."""
    where = choose_device(device)
    dataset, missing = images.load("cifar10", data)
    known = facts(where)
    log = Log(out, known | {"data": missing or "whole", "git": _commit()})
    with _ended_by(clock):
        Measurement(log, clock, size_for(size, where), dataset, where).run(only)
    table = log.table()
    (out / "table.md").write_text(table + "\n")
    print(f"\n{table}\n\nfigures in full: {log.path}; {clock.left:.0f} s left", flush=True)
    return not log.failed


class Measurement:
    """What is measured, and with what."""

    def __init__(self, log: Log, clock: Clock, size: Size, dataset: Dataset, device: torch.device) -> None:
        self.log, self.clock, self.size, self.dataset, self.device = log, clock, size, dataset, device
        self.product = float("nan")  # operations/s
        self.why_not_bf16 = ceilings.why_not_bf16(device)

    def run(self, only: tuple[str, ...]) -> None:
        """The ceilings first: everything else is held against them."""
        sections: dict[str, Callable[[], None]] = {"ceilings": self.ceilings}
        sections |= {name: getattr(self, name) for name in SECTIONS if name in only}
        for name, section in sections.items():
            if self.clock.left - END < self.size.seconds:
                self.log.add(name, "all", "-", f"not begun: {self.clock.left:.0f} s were left")
                continue
            try:
                self._guarded(name, "all", section)
            except TimeIsUp:
                self.log.add(name, "the rest", "-", "the time was up")

    def ceilings(self) -> None:
        """Of copies and products."""
        copies = ceilings.copied(self.device, self.size.copy)
        dtype, kind = (torch.float32, "float32") if self.why_not_bf16 else (torch.bfloat16, "bf16")
        products = ceilings.multiplied(self.device, self.size.product, dtype)
        self.product = ceilings.median(products)
        note = f"{self.size.copy / 2**20:g} MiB, read and written bytes"
        self.log.add("ceiling", "copy", f"{ceilings.median(copies) / 1e9:.4g} GB/s", note, bytes_per_second=copies)
        note = f"{self.size.product} x {self.size.product}" + (self.why_not_bf16 and f"; {self.why_not_bf16}")
        words = f"{self.product / 1e12:.4g} TFLOP/s"
        self.log.add("ceiling", f"{kind} matrix product", words, note, operations_per_second=products)

    def levers(self) -> None:
        """AT on the first architecture, with each lever alone and with all."""
        arch, batch = self.size.cells[0]
        each = steps.each_lever(not self.why_not_bf16)
        self._turns(arch, batch, {f"AT, {name}": ("at", levers) for name, levers in each.items()})

    def epochs(self) -> None:
        """Every method on every architecture, with all levers that there are here."""
        levers, words = steps.all_levers(not self.why_not_bf16), ", all"
        if self._cannot(levers):
            levers, words = replace(levers, compiled=False), ", not compiled"
        for arch, batch in self.size.cells:
            self._turns(arch, batch, {f"{method.upper()}{words}": (method, levers) for method in METHODS})

    def attacks(self) -> None:
        """Ours and the libraries'."""
        one = attacking.victim(self.size, self.dataset, self.device)
        for title, rows in attacking.rows(self.size, one.eps, attacking.batch_of(one, self.device)):
            section = f"{title}, {self.size.victim}, {len(one.images)} images"
            for row in rows:
                if row.missing:
                    self.log.add(section, row.name, "not installed")
                elif reason := self._cannot(row.levers):
                    self.log.add(section, row.name, "-", reason)
                else:
                    self._guarded(section, row.name, lambda row=row, section=section: self._attack(section, row, one))

    def _attack(self, section: str, row: attacking.Row, one: attacking.Victim) -> None:
        """Where it compiles, a first time whose seconds are only told."""
        first = attacking.judged(one, row, self.device)[0] if row.run.compile == "auto" else None
        seconds, found = attacking.judged(one, row, self.device)
        cost, robust = found.cost, found.robust_accuracy
        passes = f"{cost.forward_passes} forward, {cost.backward_passes} backward passes"
        note = f"robust {robust:.1%} at {one.eps:.4f}, {passes}"
        note += "" if first is None else f", the first time {first:.3g} s"
        self.log.add(
            section, row.name, f"{seconds:.3g} s", note, eps=one.eps, seconds=seconds, seconds_first=first,
            robust_accuracy=robust, forward_passes=cost.forward_passes, backward_passes=cost.backward_passes,
        )  # fmt: skip

    def _turns(self, arch: str, batch: int, wanted: dict[str, tuple[str, steps.Levers]]) -> None:
        """Methods with their levers on one architecture and batch, turn by turn; a row for each, also where the time is
        up before all turns are.
        """
        section, photos = f"s an epoch, {arch}, batch {batch}", self._photos(batch)
        ready: dict[str, steps.Contender] = {}
        for name, (method, levers) in wanted.items():
            if why := self._cannot(levers):
                self.log.add(section, name, "-", why)
                continue

            def begin(name: str = name, method: str = method, levers: steps.Levers = levers) -> None:
                contender = steps.Contender(method, arch, batch, self.size.inner, photos, levers, self.device)
                contender.warm_up()
                ready[name] = contender

            self._guarded(section, name, begin)
        try:
            for _ in range(self.size.turns):
                for name, contender in list(ready.items()):
                    if not self._guarded(section, name, contender.take_turn):
                        del ready[name]
        finally:
            for name, contender in ready.items():
                if contender.turns:
                    self._tell(section, name, wanted[name][0], arch, contender)

    def _photos(self, batch: int) -> Split:
        return steps.some(self.dataset, batch * self.size.steps, self.device)

    def _cannot(self, levers: steps.Levers) -> str:
        """Why there is no figure with them here; "" where there is one."""
        if levers.graphs and self.device.type != "cuda":
            return "only on a GPU"
        if levers.bf16 and self.why_not_bf16:
            return self.why_not_bf16
        reason = no_compiler(self.device) if levers.compiled else ""
        return f"no compiler here ({reason[:80]})" if reason else ""

    def _tell(self, section: str, name: str, method: str, arch: str, contender: steps.Contender) -> None:
        """The row of a contender."""
        batch, first = contender.batch, contender.seconds_first
        step = statistics.median(contender.turns) / self.size.steps
        epoch = step * -(-EPOCH // batch)
        share = steps.operations(method, arch, self.size.inner) * batch / step / self.product
        note = f"{share:.1%} of the product, {1000 * step:.4g} ms a step, first two batches {first:.3g} s"
        note += contender.note
        self.log.add(
            section, name, f"{epoch:.4g}", note, seconds_per_epoch=epoch, images_per_epoch=EPOCH, method=method,
            arch=arch, batch=batch, seconds_per_turn=contender.turns, steps_per_turn=self.size.steps,
            share_of_product=share,
            inner_steps=self.size.inner, seconds_first_two_batches=first, **vars(contender.levers),
        )  # fmt: skip

    def _guarded(self, section: str, row: str, run: Callable[[], None]) -> bool:
        """Whether it went well. What goes wrong in a row is that row's, and makes the exit code 1."""
        try:
            run()
        except Exception as error:
            self.log.fails(section, row, error)
            return False
        return True


@contextmanager
def _ended_by(clock: Clock) -> Iterator[None]:
    """Raises TimeIsUp inside when only END seconds are left."""

    def up(number: int, frame: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, clock.left - END))
    try:
        yield
    except TimeIsUp:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _commit() -> str:
    from bench.ground.provenance import provenance

    return provenance("", 1).git_commit
