"""A folder in the layout of the Hugging Face hub: transformers', timm's; and those that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.ground.config import UserError
from bench.subjects import models, outputs, own
from bench.subjects.folders import read_folder
from bench.subjects.normalization import of_preprocessor

SHAPE = (3, 32, 32)


def find(path: Path, **said: object) -> torch.nn.Module:
    return own.find(f"hf:{path}", own.About(**said), SHAPE, 10).make()


def a_classifier(path: Path, **changes: object) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10
    )
    torch.manual_seed(0)
    network = transformers.ResNetForImageClassification(config).eval()
    network.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4] * 3}))
    (path / "config.json").write_text(json.dumps(json.loads((path / "config.json").read_text()) | changes))
    return network


def test_a_classifier_of_transformers_has_its_logits_and_its_preprocessors_normalisation(tmp_path):
    network, x = a_classifier(tmp_path), torch.rand(2, *SHAPE)
    inside = (x - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / 0.4
    found = find(tmp_path)
    with torch.no_grad():
        assert torch.allclose(found(x), network(inside).logits, atol=1e-5) and not found.training
    assert isinstance(found[1], outputs.Logits)


def test_code_in_a_folder_is_not_run_and_weights_that_lack_something_are_refused(tmp_path):
    a_classifier(tmp_path / "code", auto_map={"AutoModelForImageClassification": "evil.Evil"})
    (tmp_path / "code" / "evil.py").write_text("from pathlib import Path\nPath('sprung').touch()\n")
    with pytest.raises(UserError, match="code of its own"):
        find(tmp_path / "code")
    a_classifier(tmp_path / "lacks")
    from safetensors.torch import load_file

    file = tmp_path / "lacks" / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if "classifier" not in name}
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(UserError, match="lack classifier"):
        find(tmp_path / "lacks")


def test_timms_layout_is_read_and_written(tmp_path):
    timm = pytest.importorskip("timm")
    network, x = timm.create_model("resnet10t", num_classes=10).eval(), torch.rand(2, *SHAPE)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "resnet10t", "num_classes": 10, "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        assert torch.allclose(find(tmp_path)(x), network(2 * x - 1), atol=1e-5)


@pytest.mark.parametrize(
    "config, low, high",
    [({}, 0, 1), ({"rescale_factor": 1 / 127.5, "rescale_offset": True}, -1, 1), ({"do_rescale": False}, 0, 255)],
)
def test_a_preprocessor_says_the_range_as_well(config, low, high):
    mean, std = of_preprocessor(config, 1) or ([0.0], [1.0])
    ends = (torch.tensor([0.0, 1.0]) - mean[0]) / std[0]
    assert torch.allclose(ends, torch.tensor([float(low), float(high)]), atol=1e-4)


@pytest.mark.parametrize(
    "files, wrong",
    [
        ({}, "has no config.json"),
        ({"config.json": "[]"}, "is no JSON object"),
        ({"config.json": "{"}, "is no JSON"),
        ({"config.json": "{}"}, "names no model_type"),
        ({"config.json": '{"bench_arch": "cnn-a"}', "pytorch_model.bin": ""}, "has pytorch_model.bin, and model.safe"),
        ({"config.json": '{"bench_arch": "os:system"}'}, "whose code would run"),
    ],
)
def test_folders_that_are_none_are_refused(tmp_path, files, wrong):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=wrong):
        find(tmp_path)


def test_a_folder_that_is_not_there_is_told_from_the_hub(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="no such folder, and it is no OWNER/NAME"):
        read_folder("./nowhere")
    hub = pytest.importorskip("huggingface_hub")

    def offline(*_: object, **__: object) -> None:
        raise OSError("offline")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(UserError, match=r"the hub cannot be asked \(OSError: offline\); put its config.json"):
        read_folder("owner/name")
    assert models.is_own("own:x") and not models.is_own("timm:x")
