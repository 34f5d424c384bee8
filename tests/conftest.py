"""One thread a test process: same bits on every machine, and no fight for cores between processes."""

from __future__ import annotations

import os

import pytest
import torch

from bench.ground import terminal

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache_of_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Decoded images go to a folder of the tests, and never into the cache of who runs them."""
    os.environ["BENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    """What is said once in a process is said once in a test, whichever tests were in its process before."""
    terminal.TOLD.clear()


@pytest.fixture
def short_autoattack(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyautoattack with a twentieth of its steps: what its adapter promises does not depend on how many there are."""
    import pyautoattack

    class Short(pyautoattack.AutoAttack):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            for apgd in (self.apgd, self.apgd_targeted):
                apgd.n_iter = apgd.n_iter_orig = 5
            self.fab.n_iter, self.square.n_queries = 5, 100

    monkeypatch.setattr(pyautoattack, "AutoAttack", Short)
