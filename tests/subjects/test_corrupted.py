"""CIFAR-10-C's published files are read where they lie, and what is none of them is a sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from shards import write_shards
from torch import nn

from attacks.corruption import Corruption
from attacks.noise import Noise
from bench.commands.cli import main
from bench.ground.config import UserError
from bench.ledger.evals import read_eval
from bench.ledger.folder import Results
from bench.running.attack import How, attack_model
from bench.subjects import data
from bench.subjects.catalog import Catalog
from bench.subjects.chosen import Choice
from bench.subjects.corrupted import Published, as_published, as_recorded

COUNT = 15  # of a shard


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cifar10 of random images, and files of its corruptions: fog and snow."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        _, labels = write_shards(root / "cifar10", "cifar10", split, 1, seed=split == "test")
    place = root / "CIFAR-10-C"
    place.mkdir()
    random = np.random.default_rng(5)
    for name in ("fog", "jpeg_compression"):
        np.save(place / f"{name}.npy", random.integers(0, 256, (5 * COUNT, 32, 32, 3), dtype=np.uint8))
    np.save(place / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    return root


def chosen(folder, *names: str, images=None):
    loaded = data.load("cifar10", folder)
    attacks = {name: Catalog().attack(name) for name in names}
    return as_published(attacks, loaded.test if images is None else images, loaded, folder), loaded


def test_the_files_images_are_those_of_the_severity_and_the_image(folder):
    found, loaded = chosen(folder, "c-fog-3", "c-jpeg-compression-1", "pgd-20")
    file = np.load(folder / "CIFAR-10-C" / "fog.npy")
    rows = torch.tensor([4, 0, 9])
    some = loaded.test.take(rows)
    made = found["c-fog-3"][0](None, some.x, some.y, Noise(0, some.ids))
    wanted = torch.from_numpy(file[2 * COUNT + rows.numpy()]).permute(0, 3, 1, 2)
    assert torch.equal((made * 255).round().byte(), wanted) and made.dtype == torch.float32
    assert isinstance(found["c-jpeg-compression-1"][0], Published) and found["pgd-20"] == Catalog().attack("pgd-20")


def test_settings_tell_read_images_from_made_ones(folder, tmp_path):
    found, loaded = chosen(folder, "c-fog-3", "c-fog-4", "c-snow-3")
    seals = [found[name][1]["settings"].get("published") for name in found]
    assert len(seals[0]) == len(seals[1]) == 64 and seals[0] != seals[1] and seals[2] is None
    assert type(found["c-snow-3"][0]) is Corruption, "there is no file of snow"
    elsewhere = as_published({"c-fog-3": Catalog().attack("c-fog-3")}, loaded.test, loaded, tmp_path)
    assert (
        elsewhere["c-fog-3"] == Catalog().attack("c-fog-3") and "published" not in elsewhere["c-fog-3"][1]["settings"]
    )
    validation, _ = chosen(folder, "c-fog-3", images=loaded.validation)
    assert type(validation["c-fog-3"][0]) is Corruption, "the files are of test images"


def test_a_record_knows_its_images(folder, tmp_path):
    found, loaded = chosen(folder, "c-fog-3")
    recorded = Corruption("fog", 3, published=found["c-fog-3"][1]["settings"]["published"])
    assert isinstance(as_recorded(recorded, loaded.test, loaded, folder), Published)
    assert as_recorded(Corruption("fog", 3), loaded.test, loaded, folder) == Corruption("fog", 3)
    for other, place in ((recorded, tmp_path), (Corruption("fog", 3, published="ab"), folder)):
        with pytest.raises(UserError, match="read from a published file, which is not the one in the data folder"):
            as_recorded(other, loaded.test, loaded, place)
    with pytest.raises(ValueError, match="published file, which is not here"):
        recorded(None, loaded.test.x, loaded.test.y, Noise(0, loaded.test.ids))


class Mean(nn.Module):
    """Logits from the mean of each part of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) * 30)


def test_an_attack_by_name_reads_them(folder, tmp_path):
    torch.manual_seed(0)
    choice = Choice(Mean().eval(), Results(tmp_path), "cifar10", data_dir=folder)
    found = attack_model(choice, ("c-fog-2",), How(), lambda words: None)
    assert any(line.startswith("accuracy under c-fog-2, of all images") for line in found.lines)
    assert any("of the others rise" in line for line in found.lines)
    record = read_eval(Results(tmp_path), found.subject.run_id, found.record.stem)
    assert (record.norm, record.eps) == ("corruptions", 2.0) and len(record.settings["published"]) == 64
    file = np.load(folder / "CIFAR-10-C" / "fog.npy")[COUNT : 2 * COUNT]
    assert np.array_equal((found.verdicts.x_adv * 255).round().byte().permute(0, 2, 3, 1).numpy(), file)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("fog", np.zeros((50, 32, 32, 3), np.uint8), r"holds \[50, 32, 32, 3\] of uint8; a published file of 15"),
        ("fog", np.zeros((75, 32, 32, 3), np.float32), "of float32; a published file"),
        ("fog", np.zeros((75, 3, 32, 32), np.uint8), r"\[75, 3, 32, 32\]"),
        ("labels", np.zeros(75, np.uint8), "labels are not those of the test images here"),
        ("labels", np.zeros(15, np.uint8), r"holds \[15\]; there are 75"),
        ("labels", None, "is lacking, which says of which images"),
    ],
)
def test_what_is_no_published_file_is_one_sentence(name, array, words, folder, tmp_path, capsys):
    for path in [*(folder / "cifar10").iterdir(), *(folder / "CIFAR-10-C").iterdir()]:
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.parent.name / path.name).symlink_to(path)
    broken = tmp_path / "CIFAR-10-C" / f"{name}.npy"
    broken.unlink()
    if array is not None:
        np.save(broken, array)
    with pytest.raises(UserError, match=words):
        chosen(tmp_path, "c-fog-3")


def test_a_command_ends_with_2_and_a_sentence(folder, tmp_path, capsys):
    (tmp_path / "CIFAR-10-C").mkdir()
    (tmp_path / "cifar10").symlink_to(folder / "cifar10")
    np.save(tmp_path / "CIFAR-10-C" / "fog.npy", np.zeros((3, 2), np.uint8))
    code = main(["run", "corruptions", "--dataset", "cifar10", "--arch", "cnn-a", "--data-dir", str(tmp_path),
                 "--results", str(tmp_path / "r"), "--dry-run"])  # fmt: skip
    said = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and "a published file of 15 test images is [75, 32, 32, 3] of uint8" in said[-1]
