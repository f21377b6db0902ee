"""What a data module hands to a model: the dictionary that `datamodules.COCO` and `datamodules.ADE20K` document."""

from typing import Any

Batch = dict[str, Any]
"""`image`, `size`, `targets`, `repeated`, `keys`, and for segmentation `mask`; one entry per image in each."""
