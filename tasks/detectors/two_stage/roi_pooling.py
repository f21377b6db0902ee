"""RoIAlign (Mask R-CNN, arXiv 1703.06870) over the levels of a pyramid (arXiv 1612.03144, equation 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_area, roi_align

from tasks.detectors.two_stage.convention import Convention
from tasks.precision import at_least_float32

_SIDE = 14.0
"""Sides of the boxes of a level, in its strides: from this to twice this number, by the root of the area."""


@dataclass(frozen=True)
class RoIPooling:
    """Features of boxes, each from the level that fits its size.

    Attributes:
        strides: Strides of the levels in pixels, finest first, each twice the one before.
        side: Cells of a side of the result.
        convention: RoIAlign's samples, and where levels begin.
    """

    strides: list[int]
    side: int
    convention: Convention

    def __call__(self, features: list[Tensor], rois: Tensor) -> Tensor:
        """Pools in float32 or better, and gives the features' own type.

        Args:
            features: Maps (B, C, H, W), finest first; those beyond `strides` are not used.
            rois: (N, 5) number of the image, and box xyxy in pixels.

        Returns:
            (N, C, side, side).
        """
        levels = self.levels(rois[:, 1:])
        order = levels.argsort(stable=True)
        counts = torch.bincount(levels, minlength=len(self.strides)).tolist()
        pooled = []
        for feature, of_level, stride in zip(features, rois[order].split(counts), self.strides, strict=False):
            dtype = at_least_float32(feature.dtype)
            options = (self.side, 1 / stride, self.convention.sampling_ratio, self.convention.aligned)
            pooled.append(roi_align(feature.to(dtype), of_level.to(dtype), *options).to(feature.dtype))
        return torch.cat(pooled)[order.argsort()]

    def levels(self, boxes: Tensor) -> Tensor:
        """Numbers of the levels (N,) of boxes (N, 4)."""
        sides = box_area(boxes).sqrt() / (_SIDE * self.strides[0])
        octaves = sides.log2() + 1e-6 if self.convention.octaves_nudged else (sides + 1e-6).log2()
        return octaves.floor().clamp(0, len(self.strides) - 1).long()


def numbered(boxes: list[Tensor]) -> Tensor:
    """Boxes (N_i, 4) of every image as rows (sum of N_i, 5), led by the number of their image."""
    return torch.cat(
        [torch.cat([torch.full_like(rows[:, :1], image), rows], dim=1) for image, rows in enumerate(boxes)]
    )
