"""The config of a neck, completed by what follows from the backbone; and the maps that the neck makes of the maps."""

import torch

from tasks.segmentors.parts import Config, build_uninitialised, check_options


def maps_of_neck(config: Config, count: int) -> range:
    """Numbers of the maps that a neck reads of `count` maps: all, or from its `start_level` up to its `end_level`."""
    end = config.get("end_level", -1)
    return range(config.get("start_level", 0), count if end == -1 else end)


def complete_neck(config: Config, channels: list[int], read: range) -> Config:
    """A neck's config for the maps that it reads, with their channels out of those of all maps.

    Raises:
        ValueError: The config has no type, or its class has no such option or lacks one.
    """
    if "type" not in config:
        raise ValueError(
            f"the neck config {config} has no type; expected for instance {{type: FPN, out_channels: 256, num_outs: 4}}"
        )
    completed = {"in_channels": channels, **config}
    if len(read) < len(channels):
        completed = {name: value for name, value in completed.items() if name not in ("start_level", "end_level")}
        completed["in_channels"] = completed["in_channels"][read.start : read.stop]
    return check_options(completed)


def maps_behind(neck: Config, channels: list[int], strides: list[int]) -> tuple[list[int], list[int]]:
    """Channels and strides of the maps that a neck makes, seen by running one without numbers.

    Args:
        neck: Its completed config.
        channels: Of the maps that it reads.
        strides: Of these maps.
    """
    side = 64 * max(strides)
    with torch.device("meta"), torch.no_grad():
        shadow = build_uninitialised(neck).eval()
        sizes = [side // stride for stride in strides]
        maps = shadow([torch.zeros(1, width, size, size) for width, size in zip(channels, sizes, strict=True)])
    return [found.shape[1] for found in maps], [side // found.shape[-1] for found in maps]
