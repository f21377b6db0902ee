"""Data sets: files to batches.

`COCO` and `ADE20K` read the real layouts, whatever data set is in them; `python -m datamodules.shapes` writes a sample
data set in both.
"""

import os

# albumentations asks its package index for a newer release at import; compute nodes have no network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from datamodules.ade20k import ADE20K
from datamodules.base import VisionDataModule
from datamodules.coco import COCO
from datamodules.errors import DataError
from datamodules.pipelines import (
    DetectionPipeline,
    FixedSize,
    MultiScaleCrop,
    RandomRatioCrop,
    SegmentationPipeline,
    ShorterSide,
    SSDCrop,
)

__all__ = [
    "ADE20K",
    "COCO",
    "DataError",
    "DetectionPipeline",
    "FixedSize",
    "MultiScaleCrop",
    "RandomRatioCrop",
    "SSDCrop",
    "SegmentationPipeline",
    "ShorterSide",
    "VisionDataModule",
]
