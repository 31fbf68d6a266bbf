"""The coefficients of the 3D face model in an aligned picture: a ResNet-50 and eight heads.

It looks at one picture at a time and only reads numbers off it; what the coefficients mean, and
the face model they belong to, are the business of whoever draws the face.
"""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor, nn


class CoefficientRegressor(nn.Module):
    """Reads a face's coefficients off its aligned picture.

    Args:
        width: channels of the first stage.
        depths: blocks of the stages.
        heads: lengths of the groups of coefficients: identity, expression, texture, angles,
            lighting, translation along x and y, along z, and gaze.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        depths: tuple[int, int, int, int] = (3, 4, 6, 3),
        heads: tuple[int, ...] = (80, 64, 80, 3, 27, 2, 1, 4),
    ) -> None:
        super().__init__()
        self.backbone = _ResNet(width, depths)
        self.heads = nn.ModuleList(nn.Conv2d(self.backbone.features, n, 1) for n in heads)

    def forward(self, aligned: Tensor) -> Tensor:
        """Return coefficients [B, 261] of aligned pictures [B, 3, 256, 256] in [-1, 1]."""
        pooled = rearrange(self.backbone(aligned), "b c -> b c 1 1")
        return rearrange(torch.cat([head(pooled) for head in self.heads], 1), "b n 1 1 -> b n")


class _ResNet(nn.Module):
    """ResNet-50 in torchvision's names, up to the average over the picture."""

    def __init__(self, width: int, depths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.features = 8 * width * _Bottleneck.expansion
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, depth=depths[0], stride=1)
        self.layer2 = _stage(4 * width, 2 * width, depth=depths[1], stride=2)
        self.layer3 = _stage(8 * width, 4 * width, depth=depths[2], stride=2)
        self.layer4 = _stage(16 * width, 8 * width, depth=depths[3], stride=2)

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, 32 width] of images [B, 3, H, W]."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(images))))  # [B, width, H/4, W/4]
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # [B, 32 width, H/32, W/32]
        return reduce(x, "b c h w -> b c", "mean")


def _stage(width_in: int, width: int, *, depth: int, stride: int) -> nn.Sequential:
    width_out = width * _Bottleneck.expansion
    rest = (_Bottleneck(width_out, width, stride=1) for _ in range(depth - 1))
    return nn.Sequential(_Bottleneck(width_in, width, stride=stride), *rest)


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, width_in: int, width: int, *, stride: int) -> None:
        super().__init__()
        width_out = width * self.expansion
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or width_in != width_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        return torch.relu(self.bn3(self.conv3(out)) + self.downsample(x))
