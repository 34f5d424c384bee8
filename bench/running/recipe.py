"""`bench train`: one recipe, its teachers first, with every seed asked for; no table."""

from __future__ import annotations

from contextlib import nullcontext

from attacks.model import ModelError
from bench.ground.config import UserError
from bench.ground.events import RunBegin, TrainFailed
from bench.ground.progress import Progress
from bench.ledger.errors import clear_error
from bench.ledger.folder import Results
from bench.running.forecast import of_trainings
from bench.running.run import record_error
from bench.running.table import Options
from bench.running.train import Training
from bench.subjects import data
from bench.subjects.catalog import Catalog
from bench.subjects.device import choose_device
from trainers.health import TrainingError

ARCHS = {"quick": "cnn-a", "paper-wrn": "wrn-34-10"}  # what a profile is made for, where that is not ResNet-18


def train_recipe(name: str, options: Options, progress: Progress | None = None) -> list[str]:
    """Train one recipe with every seed asked for, its teacher first; returns the run ids.

    progress: open already, in place of one of its own. Raises UserError, TrainingError.
    """
    catalog = Catalog(options.recipes, options.assignments)
    recipe = catalog.recipe(name)
    catalog.check_assignments()
    if options.dataset is None and not name.endswith("-digits"):
        known = ", ".join(data.DATASETS)
        raise UserError(f"say what {name!r} is to be trained on, as in --dataset cifar10; known: {known}")
    dataset = data.load(options.dataset or "digits", options.data_dir, options.reading)
    dataset.check_trainable()
    fitting = [arch for profile, arch in ARCHS.items() if name.endswith(f"-{profile}")]
    arch = options.arch or ("cnn-small" if dataset.name == "digits" else [*fitting, "resnet18"][0])
    device, run_ids = choose_device(options.device), []
    every = [Training(recipe, dataset, arch, seed, device) for seed in options.seeds or (0,)]
    with Progress() if progress is None else nullcontext(progress) as progress:
        progress.tell(RunBegin("train", name, dataset.name, len(dataset.train)))
        for words in of_trainings(one for training in every for one in training.to_do(options.results)):
            progress.say(words)
        for training in every:
            for one in training.to_do(options.results):
                try:
                    _train(one, options.results, progress)
                except TrainingError as error:
                    progress.tell(TrainFailed(one.training_id, str(error)))
                    raise
            run_ids += training.run_ids
        progress.networks += run_ids
    return run_ids


def _train(training: Training, results: Results, progress: Progress) -> None:
    """Raises UserError, and TrainingError whatever breaks; a traceback is kept with the training, as by `bench run`."""
    run_id = training.run_ids[0]
    try:
        training.run(results, progress)
    except ModelError as error:
        raise UserError(str(error)) from error
    except (UserError, TrainingError):
        raise
    except Exception as error:
        reason = record_error(results, run_id, None, error, training.device)
        raise TrainingError(f"{reason} (traceback: {results.error(run_id, None)})") from error
    clear_error(results, run_id, None)
