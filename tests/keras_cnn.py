"""A stranger's network: the Keras CNN that the package cifar-10-model 7.4.0 carries as `cnn_model.h5`, in torch.

Written from the layers that its `model.py` names; the weights are read from the file, which is not installed: it is
named by BENCH_KERAS_CNN, or lies in a wheel that `pip download cifar-10-model==7.4.0 --no-deps` put where that points.
It was trained on images in 0..255, and says so nowhere.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import torch
from torch import nn

MEMBER = "cifar_10_model/trained_models/cnn_model.h5"


def keras_file() -> bytes | None:
    """The file, or None where it is not there."""
    place = Path(os.environ.get("BENCH_KERAS_CNN", ""))
    wheels = [place] if place.suffix == ".whl" else sorted(place.glob("cifar_10_model-7.4.0-*.whl"))
    if place.suffix == ".h5" and place.is_file():
        return place.read_bytes()
    for wheel in wheels if "BENCH_KERAS_CNN" in os.environ else []:
        with zipfile.ZipFile(wheel) as opened:
            return opened.read(MEMBER)
    return None


def unit(inside: int, outside: int) -> list[nn.Module]:
    """Convolution without padding, ReLU, and then batch norm, with Keras' epsilon."""
    return [nn.Conv2d(inside, outside, 3), nn.ReLU(), nn.BatchNorm2d(outside, eps=1e-3)]


def keras_cnn() -> nn.Module:
    """[B, 3, 32, 32] in 0..255 -> logits [B, 10], which it cuts off at 0."""
    return nn.Sequential(
        *unit(3, 64), *unit(64, 64), nn.MaxPool2d(2), *unit(64, 128), *unit(128, 128), nn.MaxPool2d(2),
        *unit(128, 64), *unit(64, 64), nn.Flatten(),
        nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10), nn.ReLU(),
    ).eval()  # fmt: skip


def load_keras(content: bytes) -> nn.Module:
    """The network with the file's weights. Needs h5py."""
    import h5py

    model, taken = keras_cnn(), {"conv2d": 0, "batch_normalization": 0, "dense": 0}
    kinds = {nn.Conv2d: "conv2d", nn.BatchNorm2d: "batch_normalization", nn.Linear: "dense"}
    with h5py.File(io.BytesIO(content), "r") as file, torch.no_grad():
        for layer in model:
            if (kind := kinds.get(type(layer))) is None:
                continue
            name = kind if taken[kind] == 0 else f"{kind}_{taken[kind]}"
            taken[kind] += 1
            held = {key[:-2]: torch.from_numpy(value[()]) for key, value in file["model_weights"][name][name].items()}
            if kind == "batch_normalization":
                layer.weight.copy_(held["gamma"]), layer.bias.copy_(held["beta"])
                layer.running_mean.copy_(held["moving_mean"]), layer.running_var.copy_(held["moving_variance"])
            else:
                layer.bias.copy_(held["bias"])
                layer.weight.copy_(held["kernel"].permute(3, 2, 0, 1) if kind == "conv2d" else held["kernel"].T)
    return model
