"""What a data set promises: the same images with the same labels and numbers each time, apart for training and test."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable

from bench.contracts.problems import no_global_randomness, require
from bench.subjects import data
from bench.subjects.data import Dataset, Images, check_images

SHARED = 0.01  # of the test images may also be training images: CIFAR-10 has some
FRESH = """
import sys
from bench.contracts.datasets import identity
print(identity(sys.argv[1]))
"""


def identity(name: str) -> str:
    """The hash of every part: images, labels, numbers and their order."""
    loaded = data.load(name)
    return " ".join(f"{part.sha256} {_hash(part.ids.numpy().tobytes())}" for part in _parts(loaded).values())


def loads_as_images(name: str) -> None:
    """Images [N, C, H, W] in [0, 1] with labels below the number of classes, in parts of one shape."""
    loaded = data.load(name)
    for part, images in _parts(loaded).items():
        if len(images):
            check_images(images.x, images.y, loaded.classes)
            require(
                len(images.ids.unique()) == len(images),
                "each image of a part has a number of its own",
                f"numbers of {part} are there twice",
            )
    require(len(loaded.test) > 0, "there are test images", "there is none; return a part that is called test")


def is_the_same_again(name: str) -> None:
    """Loaded twice here, and once in a fresh process with another seed of Python's hashes."""
    with no_global_randomness("loading", "use a generator of your own with a fixed seed, as np.random.default_rng(0)"):
        first, second = identity(name), identity(name)
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", FRESH, name], capture_output=True, text=True, env=environment)
    promise = "images, labels, numbers and their order are the same each time"
    require(done.returncode == 0, promise, f"in a fresh process it does not load: {done.stderr.strip()[-300:]}")
    advice = "sort what is read from a folder or a set, and draw with a fixed seed: ids of results are made of them"
    require(first == second, promise, f"loaded twice they differ; {advice}")
    require(first == done.stdout.strip(), promise, f"in a fresh process they differ; {advice}")


def keeps_test_images_out_of_training(name: str) -> None:
    """At most one in a hundred test images is a training or validation image too."""
    loaded = data.load(name)
    seen = _rows(loaded.train) | _rows(loaded.validation)
    shared = sum(row in seen for row in _hashes(loaded.test))
    require(
        shared <= SHARED * len(loaded.test),
        "test images are not trained on",
        f"{shared} of {len(loaded.test)} test images are in training or validation too; leave them out of one part",
    )


LAWS: tuple[Callable[[str], None], ...] = (
    loads_as_images,
    is_the_same_again,
    keeps_test_images_out_of_training,
)


def _parts(loaded: Dataset) -> dict[str, Images]:
    return {"train": loaded.train, "validation": loaded.validation, "test": loaded.test}


def _rows(images: Images) -> set[str]:
    return set(_hashes(images))


def _hashes(images: Images) -> list[str]:
    return [_hash(image.contiguous().numpy().tobytes()) for image in images.x] if len(images) else []


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
