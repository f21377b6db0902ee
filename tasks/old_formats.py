"""Options in checkpoints of earlier formats, as this version names them."""

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

_PYRAMID_LEVEL = re.compile(r".*\bneck\.fpn\.layer_blocks\.(\d+)\.0\.weight")


def renewed(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint of format 1 or 2 with the options that format 3 has.

    Until then RetinaNet and FCOS had `extra_levels`, the number of levels that follow the backbone's maps, of which the
    finest had stride 8; now they have the scale of the coarsest level.
    """
    arguments = deepcopy(checkpoint.get("hyper_parameters", {}))
    detector = arguments.get("detector")
    options = detector.get("init_args", {}) if isinstance(detector, dict) else {}
    if isinstance(count := options.get("extra_levels"), int):
        levels = [int(found[1]) for name in checkpoint["state_dict"] if (found := _PYRAMID_LEVEL.fullmatch(name))]
        del options["extra_levels"]
        options["coarsest_stride"] = 8 * 2 ** (max(levels, default=2) + count)
    return {**checkpoint, "hyper_parameters": arguments} if arguments else dict(checkpoint)
