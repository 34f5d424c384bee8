"""Every mistake in a call is one UserError in one sentence, which says what was given and what to do."""

from __future__ import annotations

import linear
import numpy as np
import pytest
import torch
from torch import nn

import bench

X, Y = linear.images(6)
NAN = X.clone()
NAN[2, 0, 3, 3] = torch.nan
NET = linear.network()


class Spread(nn.Module):
    """A network on two devices, one of which holds no values."""

    def __init__(self) -> None:
        super().__init__()
        self.here, self.there = nn.Linear(2, 2), nn.Linear(2, 2, device="meta")


class Breaks(nn.Module):
    def forward(self, x):
        raise IndexError("layer 9 of 8")


def call(model=NET, x=X, y=Y, attacks="pgd-20", norm="Linf", eps=0.03, **more):
    return lambda: bench.evaluate(model, x, y, attacks=attacks, norm=norm, eps=eps, **more)


MISTAKES = {
    "a column of no name": (lambda: bench.run("table2", also=5), "also = 5; give the name of an attack"),
    "range": (call(x=2 * X), "outside [0, 1]; divide bytes by 255"),
    "negative": (call(x=X - 1), "outside [0, 1]"),
    "NaN": (call(x=NAN), "1 of 6 images hold NaN"),
    "empty": (call(x=X[:0], y=Y[:0]), "there are no images"),
    "no channel": (call(x=X[:, 0]), "a channel is missing: x[:, None]"),
    "flat": (call(x=X.flatten(1)), "(6, 64); images are [N, C, H, W]"),
    "channels last": (call(x=X.permute(0, 2, 3, 1)), "x.permute(0, 3, 1, 2)"),
    "whole numbers": (call(x=(255 * X).long()), "torch.int64; images are float in [0, 1], or uint8"),
    "objects": (call(x=X.numpy().astype(object)), "object; images are float in [0, 1], or uint8"),
    "a list": (call(x=X.tolist()), "x is a list; give images as a tensor"),
    "lengths": (call(y=Y[:5]), "there are 6 images and 5 labels"),
    "one-hot": (call(y=torch.eye(2)[Y]), "(6, 2); it is one class number per image: y.argmax(1)"),
    "a column": (call(y=Y[:, None]), "y.flatten()"),
    "float labels": (call(y=Y.float()), "y is of torch.float32"),
    "negative label": (call(y=Y - 1), "labels reach down to -1"),
    "label too large": (call(y=Y + 1), "labels reach to 2, but Linear returns 2 classes: 0 to 1"),
    "no labels": (call(y=None), "images were given without labels"),
    "no images": (call(x=None), "labels were given without images"),
    "neither": (call(x=None, y=None), "say on which images"),
    "labels of a data set": (call(x="digits"), "'digits' names a data set, which has labels of its own"),
    "data set": (call(x="digist", y=None), "did you mean 'digits'"),
    "classes of a data set": (call(x="digits", y=None), "Linear: the model returns 2 classes; the data set has 10"),
    "training mode": (call(model=linear.network().train()), "Linear is in training mode"),
    "device": (call(device="cuda:7"), "cuda:7"),
    "several devices": (call(model=Spread()), "have no values yet"),
    "it raises": (call(model=Breaks().eval()), "layer 9 of 8"),
    "no model": (call(model=3), "the model is a int"),
    "unknown model": (call(model="resnet"), "'resnet' is no registered run"),
    "no logits": (call(model=nn.Identity().eval()), "logits"),
    "eps in levels": (call(eps=8), "8/255"),
    "eps in words": (call(eps="eight"), "'eight' is not a number"),
    "no radius": (call(attacks="standard", eps=None), "eps"),
    "radius 0": (call(attacks="standard", eps=0), "gradients lead nowhere at radius 0"),
    "norm": (call(norm="Linfty"), "unknown norm 'Linfty'"),
    "attack": (call(attacks="pdg-20"), "did you mean 'pgd-20'"),
    "no attack": (call(attacks=[]), "attacks = []"),
    "attacks of numbers": (call(attacks=[20]), "give a name"),
    "keyword": (call(epsilon=0.1), "unknown keyword 'epsilon'; did you mean 'eps"),
    "images": (call(images=0), "images = 0; give a whole number from 1 on"),
    "too many images": (call(images=7), "7 images were asked for; there are 6"),
    "weights of a network in memory": (call(weights="w.pt"), "Linear is a network in memory, with its weights"),
    "architecture of a network in memory": (call(arch="resnet18"), "leave arch out"),
    "size of images in memory": (call(size=28), "size says how a file or folder is read"),
    "columns of images in memory": (call(columns={"image": "x"}), "columns says how a file or folder is read"),
    "columns of other names": (call(x="a.npz", y=None, columns={"pixels": "x"}), "columns = {'pixels': 'x'}; write"),
    "columns as text": (call(x="a.npz", y=None, columns="image=x"), "columns = 'image=x'; write {'image': NAME"),
    "batch size": (call(batch_size=0), "batch_size = 0; give a whole number"),
    "precision": (call(gradient_precision="float16"), "unknown gradient_precision 'float16'"),
    "norm of two": (call(norm=3), "unknown norm '3'"),
    "kept nowhere": (call(keep_adversarial=True), "say in which folder with results="),
    "settings": (call(settings=["pgd-20.steps=3"]), "no dictionary"),
    "setting without use": (call(settings={"fgsm.start": "uniform"}), "fgsm"),
    "classes said": (call(classes=3), "classes = 3, but Linear returns 2"),
    "not an attack": (lambda: bench.attack(NET, X, Y), "the attack is a Tensor; give a name"),
    "no such run": (lambda: bench.load("at-digits-s0"), "unknown run"),
    "no such table": (lambda: bench.table("table2"), "no table has been run"),
    "no such recipe": (lambda: bench.train("at-digist"), "did you mean 'at-digits'"),
    "seeds": (lambda: bench.run("table2", seeds=1), "give a list of whole numbers"),
    "jobs": (lambda: bench.run("table2", jobs=0), "jobs = 0; give a whole number"),
    "images of a run": (lambda: bench.run("table2", images=-5), "images = -5; give a whole number"),
    "keyword of a run": (lambda: bench.run("table2", epochs=1), "unknown keyword 'epochs'"),
    "diagnosis of training mode": (lambda: bench.diagnose(linear.network().train(), X, Y, eps=0.1), "training mode"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, words = MISTAKES[name]
    with pytest.raises(bench.UserError) as caught:
        make()
    said = str(caught.value)
    assert words in said and "\n" not in said.strip() and len(said) < 400
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_bytes_above_255_cannot_be_and_uint16_is_refused():
    with pytest.raises(bench.UserError, match="uint16; images are float"):
        bench.evaluate(NET, X.numpy().astype(np.uint16), Y, eps=0.1)
