"""`bench import`: somebody else's network becomes a registered one, under our names for its tensors, with a record.

Its normalisation, range and labels go in with its weights. How it was trained is not known, and the record says no more
than what was seen: the clean accuracy on some validation images.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from attacks.model import ModelError
from attacks.target import Target
from bench.ground.config import UserError
from bench.ground.plain import read_plain
from bench.ground.provenance import TrainingCost, provenance
from bench.judge.evaluate import check_logits
from bench.judge.inputs import of_inputs
from bench.ledger import ids
from bench.ledger.runs import IMPORTED, RunRecord, list_runs
from bench.subjects import own, registry
from bench.subjects.blank import Blank
from bench.subjects.chosen import Choice, check_classes, named
from bench.subjects.data import Dataset, Images
from bench.subjects.fingerprint import fingerprint

VALIDATED = 500  # validation images that it is asked about, at most
PROGRAM = ".pt2"


def import_model(choice: Choice) -> tuple[str, list[str]]:
    """Registers the model -> its run id, and what else to print. Raises UserError."""
    model = named(choice.model)
    if model in list_runs(choice.results):
        raise UserError(f"{model} is a registered run already")
    if Path(model).suffix == PROGRAM:
        raise UserError(f"{model} is a program of torch.export, which is code; import its weights, with --arch")
    dataset = choice.load()
    made = own.find(model, choice.about, dataset.image_shape, dataset.classes)
    if made.arch.startswith("hf:"):
        raise UserError(
            f"{model} is made by transformers from its own configuration, which a record cannot hold; attack it where "
            f"it lies: bench attack {model}"
        )
    network = made.make()
    own.say_inputs(model, network, choice.about, dataset.image_shape[0])
    images = dataset.validation.some(min(VALIDATED, len(dataset.validation)))
    right, signs = _asked(model, network, images, dataset)
    record = _record(model, made.arch, network, dataset, images, right)
    registered = registry.register(choice.results, network.state_dict(), record)
    again = registry.load(choice.results, registered.run_id, (made.arch,))[0]
    if fingerprint(again) != fingerprint(network):
        raise UserError(f"{model}: loaded again as {registered.run_id} it is another network than it was")
    clean = f"clean accuracy on {len(images)} validation images: {right:.2%}"
    return registered.run_id, [clean, *(f"sign: {words}" for words in signs)]


def _asked(model: str, network: nn.Module, images: Images, dataset: Dataset) -> tuple[float, list[str]]:
    """(share of images that it gets right, what speaks against how they go in). Raises UserError."""
    blank = Blank(network)
    try:
        logits = Target(blank.fresh()).true_logits(images.x)
        check_classes(model, logits, dataset.classes)
        check_logits(logits, dataset.classes)
    except ModelError as error:
        raise UserError(f"{model}: {error}") from error
    return float((logits.argmax(1) == images.y).float().mean()), of_inputs(blank, images, logits)


def _record(model: str, arch: str, network: nn.Module, dataset: Dataset, images: Images, right: float) -> RunRecord:
    """What is known. No folder is in it: a record may be anybody's."""
    file = Path(model)
    settings = {"file": file.name if file.is_file() else model}
    if file.is_file():
        settings["sha256"] = hashlib.sha256(read_plain(file)).hexdigest()
    training = ids.training_id(IMPORTED, dataset.name, arch, 0, {"arch": arch, "weights": fingerprint(network)})
    return RunRecord(
        run_id=ids.run_id(training, 0, 1, "last"),
        training_id=training,
        trainer=IMPORTED,
        recipe=IMPORTED,
        settings=settings,
        dataset=dataset.name,
        images_sha256="",
        arch=arch,
        image_shape=list(dataset.image_shape),
        classes=dataset.classes,
        seed=0,
        member=0,
        checkpoint="last",
        epoch=0,
        validation={"clean": right},
        weights_sha256="",
        weights_file="last.safetensors",
        health=[],
        cost=TrainingCost(0.0, 0, 0, 0.0, 0),
        provenance=provenance("cpu", torch.get_num_threads()),
        validation_sha256=images.sha256,
    )
