"""More than one process on a table: each does what no other is at, by the locks of the results folder.

On a CPU a second process does almost as much as the first, where a second thread of torch does little for a small
network. A helper begins at the other end of the table, leaves all talk to the first process, and ends with it. If it
dies, the others do its part.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection

import torch

from bench.ground.config import UserError
from bench.ground.events import CellFailed, Event, TrainFailed
from bench.ground.listeners import Listener
from bench.ground.progress import Progress
from bench.running.run import Summary, TableRun
from bench.running.table import Options, Table
from bench.subjects import models

SMALL = 1_000_000  # weights; more of these than a machine has cores would not fill its memory


def fill(
    table: str, options: Options, jobs: int | None = None, progress: Progress | None = None
) -> tuple[TableRun, Summary]:
    """Train and attack what the table lacks, in `jobs` processes that share the threads of this one.

    jobs: None is one for each thread where the device is a CPU and the network is small, else 1. A script that calls
    this does so below `if __name__ == "__main__"`, as with all of multiprocessing. progress: open already, in place of
    one of its own. Raises UserError.
    """
    run = TableRun(table, options)
    jobs, threads = jobs or fitting(run), torch.get_num_threads()
    torch.set_num_threads(max(1, threads // jobs))  # also where fewer start: how much lacks must not change a bit
    jobs = min(jobs, max(1, run.lacking()))
    try:
        with Progress() if progress is None else nullcontext(progress) as told:
            with _helpers(table, options, jobs - 1, told) as made:
                summary = run.execute(told, jobs)
    finally:
        torch.set_num_threads(threads)
    for helper in made:
        summary.add(helper)
    return run, summary


def fitting(run: Table) -> int:
    """How many processes suit a table that nobody said it for."""
    network = models.create(run.plan.arch, run.dataset.image_shape, run.dataset.classes, seed=0)
    small = sum(weights.numel() for weights in network.parameters()) <= SMALL
    return torch.get_num_threads() if small and run.device.type == "cpu" else 1


@contextmanager
def _helpers(table: str, options: Options, number: int, progress: Progress) -> Iterator[list[Summary]]:
    """Helpers that work inside; after it, what they did. Where this process stops, they stop."""
    context, made, threads = get_context("spawn"), list[Summary](), torch.get_num_threads()
    started = []
    for _ in range(number):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_help, args=(table, options, threads, theirs, bool(progress.listeners)))
        process.start()
        theirs.close()
        listener = threading.Thread(target=_listen, args=(ours, progress, made), daemon=True)
        listener.start()
        started.append((process, listener))
    try:
        yield made
        for process, listener in started:
            process.join()
            listener.join()
    finally:
        for process, _ in started:
            process.terminate()  # in a training this waits for the end of the batch and its checkpoint
        for process, _ in started:
            process.join()


def _listen(source: Connection, progress: Progress, made: list[Summary]) -> None:
    """Hand on a helper's events, what it has done and how long it took, and its summary; returns when it ends."""
    while True:
        try:
            message = source.recv()
        except EOFError:
            return
        if isinstance(message, Summary):
            made.append(message)
        elif isinstance(message, Event):
            progress.tell(message)
        else:
            progress.done(*message)


def _help(table: str, options: Options, threads: int, sink: Connection, heard: bool) -> None:
    """A helper's life. Ctrl-C, which a terminal sends to all of them, is the first process's business, and so is
    standard output.
    """
    sys.stdout = sys.stderr
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that files are closed, temporary ones gone
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    sent = _Sent(sink, heard)
    try:
        sent.send(TableRun(table, options).execute(sent, helping=True))
    except UserError as error:
        sent.say(f"a helper stopped: {error}")


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


class _Sent(Progress):
    """Events go to the first process, whole. heard: whether anybody listens there.

    What fails here is left to the first process, which tries it again and says so.
    """

    def __init__(self, sink: Connection, heard: bool) -> None:
        super().__init__(quiet=True)
        self.sink, self._one_at_a_time = sink, threading.Lock()
        self.listeners = [_Sender(self.send)] if heard else []

    def send(self, message: object) -> None:
        """From any thread. Where the first process is gone nobody listens, and `_end_with_parent` ends this one."""
        with self._one_at_a_time, suppress(BrokenPipeError):
            self.sink.send(message)

    def done(self, one: Hashable, seconds: float) -> None:
        """A training or an attack of the table is done."""
        self.send((one, seconds))


class _Sender(Listener):
    """The way of an event out of a helper."""

    def __init__(self, send: Callable[[object], None]) -> None:
        self.send = send

    def hear(self, event: Event) -> None:
        """Send it, but for failures."""
        if not isinstance(event, CellFailed | TrainFailed):
            self.send(event)
