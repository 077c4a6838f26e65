"""Networks that people bring, made tiny: what the tests of a network of one's own train."""

import math

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions around which the input goes, through a 1 × 1 one where the shape changes (He et al.)."""

    def __init__(self, fan_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.down: nn.Module = nn.Identity()
        if stride != 1 or fan_in != width:
            self.down = nn.Sequential(nn.Conv2d(fan_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.down(x))


class ResNet(nn.Module):
    """ResNet-18's form with a 3 × 3 stem; ResNet-18 itself has width 64, 2 blocks in each stage, and depth 4."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 4, blocks: int = 1, depth: int = 2):
        super().__init__()
        self.stem = nn.Conv2d(shape[0], width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        stages, fan_in = [], width
        for stage in range(depth):
            for number in range(blocks):
                stages.append(ResidualBlock(fan_in, width * 2**stage, 2 if stage and not number else 1))
                fan_in = width * 2**stage
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(fan_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stages(torch.relu(self.bn(self.stem(x))))
        return self.head(self.dropout(y.mean(dim=(2, 3))))


class Mixer(nn.Module):
    """One MLP-Mixer block on patches of 4 × 4, with BN over the channels where the paper has layer normalization."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 8):
        super().__init__()
        self.patches = nn.Conv2d(shape[0], width, 4, 4)
        tokens = (shape[1] // 4) * (shape[2] // 4)
        self.norm1, self.norm2 = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
        self.across = nn.Sequential(nn.Linear(tokens, 6), nn.GELU(), nn.Linear(6, tokens))
        self.within = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))
        self.norm3 = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2)
        y = y + self.across(self.norm1(y))
        y = y + self.within(self.norm2(y).transpose(1, 2)).transpose(1, 2)
        return self.head(self.norm3(y.mean(dim=2)))


class TabularResNet(nn.Module):
    """Gorishniy et al., Revisiting Deep Learning Models for Tabular Data (NeurIPS 2021): BN first in each block."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 12, blocks: int = 2):
        super().__init__()
        self.first = nn.Linear(math.prod(shape), width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, width))
            for _ in range(blocks)
        )
        self.last = nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x.flatten(1))
        for block in self.blocks:
            y = y + block(y)
        return self.last(y)


def sequential(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """A plain Sequential, some of whose layers have a stacked form and some not."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d(8)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * (shape[1] // 2 - 2) * (shape[2] // 2 - 2), classes),
    )


NETWORKS = {"resnet": ResNet, "mixer": Mixer, "tabular": TabularResNet, "sequential": sequential}
