"""What a data module hands to a model: the dictionary that `datamodules.COCO` and `datamodules.LabelMasks` document."""

from typing import Any

Batch = dict[str, Any]
"""`image`, `size`, `targets`, `repeated`, `keys`, and for segmentation `mask`; one entry per image in each."""


def ignored_label(num_classes: int) -> int:
    """The label of ignored pixels in masks of K classes: 255, and -1 where K is above 254 and masks have 16 bits."""
    return 255 if num_classes <= 254 else -1
