"""Networks as other people write them, for benchmarks.attack_speed: --arch benchmarks.strangers:NAME.

None is of the suite, and none was written with it in mind: a library's network with its first layers changed for small
images, one with another activation, and a plain module whose activations and pooling are functions.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


def torchvision_resnet18(channels: int, classes: int) -> nn.Module:
    """torchvision's ResNet-18 with the first layers that are usual for 32x32 images: 3x3, stride 1, no pooling."""
    from torchvision.models import resnet18

    network = resnet18(num_classes=classes)
    network.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return network


def timm_silu(channels: int, classes: int) -> nn.Module:
    """A narrow ResNet of timm with SiLU, nine 3x3 layers, 0.3 million weights."""
    from timm.models.resnet import BasicBlock, ResNet

    network = ResNet(
        BasicBlock, (1, 1, 1, 1), classes, channels, channels=(16, 32, 64, 128), stem_width=16, act_layer=nn.SiLU
    )
    network.conv1 = nn.Conv2d(channels, network.conv1.out_channels, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return network


class Functional(nn.Module):
    """Six 3x3 layers with batch norm; ReLU, pooling and flattening are functions."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = (channels, 32, 32, 64, 64, 128, 128)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 1, 1, bias=False) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] in [0, 1] -> logits [N, classes]."""
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(x)))
            if number % 2:
                x = F.max_pool2d(x, 2)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def functional(channels: int, classes: int) -> nn.Module:
    """A plain module with functional ReLUs."""
    return Functional(channels, classes)
