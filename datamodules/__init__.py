"""Data sets: files to batches.

`COCO` and `ADE20K` read the real layouts, whatever data set is in them, `LabelMasks` any other folders of images and
masks; `python -m datamodules.shapes` writes a sample data set in the first two.
"""

import os

# albumentations asks its package index for a newer release at import; compute nodes have no network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from datamodules.ade20k import ADE20K
from datamodules.base import VisionDataModule
from datamodules.coco import COCO
from datamodules.errors import DataError
from datamodules.label_masks import LabelMasks
from datamodules.mask_files import MaskFiles
from datamodules.pipelines import (
    DetectionPipeline,
    FixedSize,
    MultiScaleCrop,
    RandomRatioCrop,
    SegmentationPipeline,
    ShorterSide,
    SSDCrop,
)
from datamodules.tiles import Tiles

__all__ = [
    "ADE20K",
    "COCO",
    "DataError",
    "DetectionPipeline",
    "FixedSize",
    "LabelMasks",
    "MaskFiles",
    "MultiScaleCrop",
    "RandomRatioCrop",
    "SSDCrop",
    "SegmentationPipeline",
    "ShorterSide",
    "Tiles",
    "VisionDataModule",
]
