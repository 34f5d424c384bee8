"""The commands. torch is imported inside the ones that need it, so `bench report` and `bench check` start fast.

A user's mistake is one sentence and exit code 2; a cell that failed is exit code 1 after the others are done; Ctrl-C
and SIGTERM are one sentence and 130 or 143, and what is done is kept.
"""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

from bench.commands import attacking, calibrating, certify, completing, exchange, filling, reading, verifying
from bench.commands.options import RESULTS, complain
from bench.ground.config import UserError, choose
from bench.ground.terminal import tell

OUTPUT_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="robustness-bench")
def app() -> None:
    """Trains classifiers adversarially, attacks them, judges every image, and makes the tables."""


@app.command("list")
@click.argument("what", shell_complete=completing.of(completing.lists))
@RESULTS
def list_(what: str, results: Path) -> int:
    """List tables, recipes, attacks, trainers, datasets, models or runs; table1: who teaches whom.

    \b
    Example:
      bench list attacks
    """
    from bench.commands import listing

    for line in listing.LISTS[choose(what, listing.LISTS, "list")](results):
        tell(line)
    return 0


for _command in (
    filling.run, filling.train, attacking.attack, attacking.diagnose, attacking.tune, calibrating.calibrate,
    certify.certify, verifying.verify, reading.report, reading.check, reading.diff, exchange.export_, exchange.import_,
):  # fmt: skip
    app.add_command(_command)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which so takes the way of Ctrl-C."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point: runs the command and returns its exit code; `sys.exit` is the console script's business."""
    try:
        with _sigterm_as_exception():
            code = app.main(arguments, prog_name="bench", standalone_mode=False)
    except UserError as error:
        return complain(str(error))
    except click.UsageError as error:
        return complain(error.format_message() + (f"; see `{error.ctx.command_path} --help`" if error.ctx else ""))
    except OSError as error:
        if error.errno not in OUTPUT_FULL or error.filename is not None:
            raise  # of files everything is a UserError; what is left is a mistake of ours
        return complain(f"cannot write the output: {error.strerror}")
    except click.Abort as stop:
        terminated = isinstance(stop.__cause__, _Terminated)
        sentence = "what is done is kept, and the same command goes on from there"
        return complain(f"stopped; {sentence}", 143 if terminated else 130)
    except SystemExit as stop:
        if completing.asked():  # click answers the shell and leaves
            return int(stop.code or 0)
        # nothing of ours does that, and what it says must not pass for success
        return complain(f"the code of a model, or a package, ended the command with sys.exit({stop.code!r})")
    return int(code or 0)


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """So that files are closed, temporary ones removed, and what was done is said."""

    def terminate(number: int, frame: object) -> NoReturn:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
