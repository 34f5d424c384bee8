"""An attack on all test images at once fits on a laptop: 10,000 images of CIFAR-10's size in less than 2 GiB. And
memory that is freed is used again.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MEASURE = """
import sys, torch
from attacks.contract import ThreatModel
from attacks.pgd import PGD
from bench.subjects import models
from bench.subjects.data import Images
from bench.subjects.device import keep_freed_memory
from bench.judge.evaluate import evaluate

keep_freed_memory()

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

model = models.create("cnn-a", (3, 32, 32), 10, seed=0)
x = torch.rand(10_000, 3, 32, 32, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    y = torch.cat([model(part) for part in x.split(50)]).argmax(1)
images = Images(x, y, torch.arange(len(x)))
evaluate(model, PGD(ThreatModel("Linf", 1e-4), 2, 1e-4), images.head(64), 10)  # loads what is loaded once
open("/proc/self/clear_refs", "w").write("5")
before = peak()
verdicts = evaluate(model, PGD(ThreatModel("Linf", 1e-4), int(sys.argv[1]), 1e-4), images, 10)
print((peak() - before) / 2**10, verdicts.robust_accuracy)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux's /proc")
def test_ten_thousand_images_stay_below_two_gibibytes():
    done = subprocess.run([sys.executable, "-c", MEASURE, "3"], capture_output=True, text=True, check=True)
    mebibytes, robust = map(float, done.stdout.split())
    assert robust > 0.9, "the images must stand, or the work shrinks"
    assert 100 < mebibytes < 2048


LAZY = """
import resource, sys
from bench.subjects import data

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

for name in sys.argv[1:]:
    found = data.load(name).test
    assert found.head(20).x.shape == (20, 3, 64, 64) and found.sha256
    print(len(found), peak())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images_of_a_file(tmp_path):
    """Twenty are picked and all are hashed; the larger file alone has 234 MiB, and as floats four times as many."""
    for count in (5_000, 20_000):
        images = np.lib.format.open_memmap(tmp_path / f"{count}.npy", "w+", np.uint8, (count, 64, 64, 3))
        images[:] = np.arange(64 * 64 * 3).reshape(64, 64, 3) % 251
        folder = tmp_path / f"it{count}"
        folder.mkdir()
        (tmp_path / f"{count}.npy").rename(folder / "x.npy")
        np.save(folder / "y.npy", np.arange(count) % 10)
    names = [str(tmp_path / f"it{count}") for count in (5_000, 20_000)]
    done = subprocess.run([sys.executable, "-c", LAZY, *names], capture_output=True, text=True, check=True)
    (few, before), (many, after) = (map(float, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == (5_000, 20_000) and after - before < 32, "MiB"


FAULTS = """
import resource, sys, torch
from bench.subjects.device import choose_device

if sys.argv[1] == "kept":
    choose_device("cpu")
torch.set_num_threads(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    large = [torch.ones(4 << 20) for _ in range(3)]  # 16 MiB each, and all freed in every turn
    del large
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_that_is_freed_is_not_taken_from_the_kernel_again():
    # Left alone, glibc keeps or gives back by what else lies on the heap; this tells it to give back whatever is freed.
    gives_back = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    taken = {}
    for how in ("given back", "kept"):
        command = [sys.executable, "-c", FAULTS, how]
        done = subprocess.run(command, env=gives_back, capture_output=True, text=True, check=True)
        taken[how] = float(done.stdout)
    assert 2 * taken["kept"] < taken["given back"], "MiB, of 960 in all"
