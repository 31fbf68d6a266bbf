"""Who is in an aligned picture: the CurricularFace IR-101 network, and the crop it looks at.

Sub-modules carry the names of the released checkpoint, so that its keys land as they are. This
file does not know how a face is found or aligned, nor what is done with the features.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from torch import Tensor, nn
from torch.nn.functional import interpolate

INPUT_PX: Final = 112
_ALIGNED_PX: Final = 256  # side of the aligned picture that the crop is cut from
_CROP_PX: Final = 224  # its rows 0..223 and columns 16..239 hold the face


class CurricularFace(nn.Module):
    """A residual network whose features tell people apart.

    Args:
        widths: channels of the stages.
        depths: blocks of the stages; the first block of each halves the picture.
        input_px: side of the faces it is shown.
        embedding: length of the embedding.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (64, 128, 256, 512),
        depths: tuple[int, ...] = (3, 13, 30, 3),
        input_px: int = INPUT_PX,
        embedding: int = 512,
    ) -> None:
        super().__init__()
        if len(widths) != len(depths):
            raise ValueError(f"{widths=} and {depths=} must name the same stages")
        cells, rest = divmod(input_px, 2 ** len(widths))
        if rest:
            raise ValueError(f"{input_px=} must be a multiple of {2 ** len(widths)}")
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.PReLU(widths[0]),
        )
        blocks: list[nn.Module] = []
        for (width_in, width), depth in zip(pairwise((widths[0], *widths)), depths, strict=True):
            blocks.append(_Block(width_in, width, stride=2))
            blocks.extend(_Block(width, width, stride=1) for _ in range(depth - 1))
        self.body = nn.Sequential(*blocks)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.Identity(),  # a dropout while it was trained
            nn.Flatten(),
            nn.Linear(widths[-1] * cells * cells, embedding),
            nn.BatchNorm1d(embedding, affine=False),
        )

    def forward(self, faces: Tensor) -> Tensor:
        """Return the deep features [B, 512, 7, 7] of faces [B, 3, 112, 112] in [-1, 1]."""
        deep: Tensor = self.body(self.input_layer(faces))
        return deep

    def embed(self, deep: Tensor) -> Tensor:
        """Return embeddings [B, 512], not normalised, of deep features [B, 512, 7, 7]."""
        embedding: Tensor = self.output_layer(deep)
        return embedding


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if width_in == width:
            self.shortcut_layer = nn.MaxPool2d(1, stride)  # every other pixel
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        # No norm between the convolutions: the layout the released weights were trained in.
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(width_in),
            nn.Conv2d(width_in, width, 3, padding=1, bias=False),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return out


def crop_112(aligned: Tensor) -> Tensor:
    """Cut the face [B, 3, 112, 112] out of aligned pictures [B, 3, S, S] in [-1, 1].

    The alignment's template is 256 wide, so S = 256 shows the network the whole face. The
    official weights were trained on pictures of S = 512 in which the face still covers only the
    256 x 256 of the template: the network then sees a face of half the size in the upper left
    of its input, and weights trained so want to be run so. The caller's picture decides.
    """
    if aligned.shape[-1] != aligned.shape[-2]:
        raise ValueError(f"an aligned picture is square, found {tuple(aligned.shape[-2:])}")
    left = (_ALIGNED_PX - _CROP_PX) // 2
    crop = _resize(aligned, _ALIGNED_PX)[..., :_CROP_PX, left : left + _CROP_PX]
    return _resize(crop, INPUT_PX)


def _resize(images: Tensor, side_px: int) -> Tensor:
    if images.shape[-1] == side_px:
        return images
    return interpolate(images, (side_px, side_px), mode="bilinear", align_corners=False)
