"""The config of a decode head, completed by what follows from the backbone and the data set."""

from typing import Any

from tasks.batch import ignored_label
from tasks.segmentors.class_weights import with_class_weights
from tasks.segmentors.head_table import MAPS, Head, head_entry
from tasks.segmentors.parts import Config, check_options, find_class, options_of


def complete_head(config: Config, channels: list[int], strides: list[int], num_classes: int) -> Config:
    """Fills in what a head's config leaves to the backbone and the data set.

    Args:
        config: As the user gives it, with its `type`.
        channels: Of the maps that it can read, finest first.
        strides: Of these maps.
        num_classes: K.

    Raises:
        ValueError: The head cannot be used here, has no such option or lacks one, or an option does not go with the
            maps or the classes.
    """
    if "type" not in config:
        raise ValueError(
            f"the head config {config} has no type; expected for instance {{type: UPerHead, channels: 512}}"
        )
    name = config["type"]
    entry, found = head_entry(name), find_class(name)
    if entry.source:
        return check_options(_complete_stages(config, entry.source, channels, strides, num_classes), entry.sets)
    levels = _levels(config, entry, strides)
    many = entry.maps != "last" or isinstance(config.get("in_index"), list | tuple)
    derived: Config = {
        "in_channels": [channels[level] for level in levels] if many else channels[levels[0]],
        "num_classes": entry.classes or num_classes,
        "feature_strides": [strides[level] for level in levels],
        "c1_in_channels": channels[0],
    }
    known = options_of(found)
    if ignored_label(num_classes) != 255:  # MMSegmentation's own
        derived["ignore_index"] = ignored_label(num_classes)
    derived = {option: value for option, value in derived.items() if option in known}
    if "norm_cfg" in known and known["norm_cfg"].default is None:  # transformer heads have a layer norm by default
        derived["norm_cfg"] = {"type": "BN", "requires_grad": True}
    if "mla_channels" in known:
        derived["channels"] = len(levels) * config.get("mla_channels", known["mla_channels"].default)
    derived = derived | dict(entry.options) | config | {"in_index": levels if many else levels[0]}
    completed = with_class_weights(derived, entry.classes or num_classes)
    if many and entry.maps == "last" and found.__module__.startswith("mmseg.") and "input_transform" not in config:
        raise ValueError(
            f"{name} reads one map, and in_index is {levels}; give one number, or input_transform: resize_concat beside"
        )
    _check_losses(completed, entry)
    return check_options(_with_one_logit(completed, entry, num_classes), entry.sets)


def _levels(config: Config, entry: Head, strides: list[int]) -> list[int]:
    """The numbers of the maps that a head reads, checked."""
    name, count = config["type"], len(strides)
    index = config.get("in_index", MAPS[entry.maps](strides))
    levels = [*index] if isinstance(index, list | tuple) else [index]
    if not all(isinstance(level, int) and -count <= level < count for level in levels):
        raise ValueError(
            f"{name} has in_index {index}, but there are only {count} features, of stride "
            f"{', '.join(map(str, strides))}; choose from 0 to {count - 1}, or leave that head out"
        )
    if entry.count and len(levels) != entry.count:
        raise ValueError(
            f"{name} reads {entry.count} maps, and in_index {index} names {len(levels)}; the network has {count} maps, "
            "take another head where these are too few"
        )
    if entry.equal_strides and len({strides[level] for level in levels}) > 1:
        raise ValueError(
            f"{name} joins maps of one stride, and those of in_index {index} have "
            f"{', '.join(str(strides[level]) for level in levels)}; give the backbone a smaller output_stride, or "
            "fewer maps"
        )
    return levels


def _check_losses(config: Config, entry: Head) -> None:
    """Refuses another number of losses than a head computes."""
    losses = config.get("loss_decode")
    if entry.losses and not (isinstance(losses, list | tuple) and len(losses) == entry.losses):
        raise ValueError(
            f"{config['type']} has {entry.losses} losses, and loss_decode is {losses}; give a list of {entry.losses}, "
            "or leave it out"
        )


def _with_one_logit(config: Config, entry: Head, num_classes: int) -> Config:
    """The config with what goes with a single logit for two classes; checks the numbers of classes and logits."""
    name = config["type"]
    own = entry.classes or num_classes
    if config["num_classes"] != own:
        where = "the data set" if entry.classes is None else "its task"
        raise ValueError(f"the head config has num_classes {config['num_classes']}, {where} {own}; leave it out")
    logits = config.get("out_channels", own)
    if logits == own:
        return {option: value for option, value in config.items() if option != "out_channels"}
    if logits != 1 or own != 2 or not entry.one_logit:
        remedy = "leave it out" if own != 2 or not entry.one_logit else "leave it out, or give 1"
        raise ValueError(f"{name} has out_channels {logits} for {own} classes; {remedy}")
    if config.get("sampler") is not None:
        raise ValueError(
            f"{name} has a sampler beside out_channels 1, and MMSegmentation's take one logit for the background; use "
            "loss_decode {type: OhemCrossEntropy}"
        )
    return {"threshold": 0.3, "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": True}} | config


def _complete_stages(config: Config, source: str, channels: list[int], strides: list[int], num_classes: int) -> Config:
    """The config of K-Net's head: the head inside it is completed, and the stages behind it follow from that."""
    if source not in config:
        raise ValueError(f"{config['type']} needs {source}; give it the config of another head, such as FCNHead")
    inner = complete_head(config[source], channels, strides, num_classes)
    if not hasattr(find_class(inner["type"]), "_forward_feature"):
        raise ValueError(
            f"{config['type']} cannot start from {inner['type']}, which gives no features in front of its classifier; "
            f"take FCNHead, PSPHead, ASPPHead or UPerHead as {source}"
        )
    if "out_channels" in inner:
        raise ValueError(f"{config['type']} has out_channels {inner['out_channels']}; leave it out")
    width = inner["channels"]
    norm, act = {"type": "LN"}, {"type": "ReLU", "inplace": True}
    sizes = {"in_channels": width, "feat_channels": width, "out_channels": width}
    stage: Config = {
        "type": "KernelUpdateHead",
        "num_classes": num_classes,
        "in_channels": width,
        "out_channels": width,
        "kernel_updator_cfg": {"type": "KernelUpdator", **sizes, "act_cfg": act, "norm_cfg": norm},
    }
    stages = [check_options(stage | own) for own in config.get("kernel_update_head", [])]
    return {"num_stages": len(stages)} | config | {source: inner, "kernel_update_head": stages}


def check_cascade(configs: list[Config]) -> None:
    """Refuses lists of heads in which not each but the first sees the head before, and a last head of other classes.

    Raises:
        ValueError: Says which head does not belong where it is.
    """
    from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead

    for position, config in enumerate(configs):
        later = issubclass(find_class(config["type"]), BaseCascadeDecodeHead)
        if later and position == 0:
            raise ValueError(
                f"{config['type']} starts from the logits of another head; give a list of heads, the other one first: "
                f"[{{type: FCNHead, ...}}, {{type: {config['type']}, ...}}]"
            )
        if position > 0 and not later:
            raise ValueError(f"{config['type']} does not look at the head before it; only OCRHead and PointHead do")


def check_decoder(config: Config) -> None:
    """Refuses a head that does not tell the classes of the data set apart.

    Raises:
        ValueError: It is an auxiliary head.
    """
    if head_entry(config["type"]).classes:
        raise ValueError(f"{config['type']} learns something else than the classes; give it as auxiliary_head")


def maps_of_head(config: Any, count: int) -> set[int]:
    """Numbers of the maps that a completed head reads of `count` maps, and those that the configs inside it name."""
    if isinstance(config, list | tuple):
        return set().union(*(maps_of_head(part, count) for part in config))
    if not isinstance(config, dict):
        return set()
    index = config.get("in_index", [])
    read = {level % count for level in (index if isinstance(index, list | tuple) else [index])}
    first = {0} if config.get("c1_in_channels") else set()  # DeepLabV3+ reads the finest map without naming it
    return read.union(first, *(maps_of_head(part, count) for part in config.values()))


def with_places(config: Any, read: list[int], count: int) -> Any:
    """A head's config for features of which only those in `read` are left, in the configs that it holds as well."""
    if isinstance(config, list | tuple):
        return type(config)(with_places(part, read, count) for part in config)
    if not isinstance(config, dict):
        return config
    placed = {name: with_places(value, read, count) for name, value in config.items()}
    if "in_index" in config:
        index = config["in_index"]
        many = isinstance(index, list | tuple)
        placed["in_index"] = [read.index(level % count) for level in index] if many else read.index(index % count)
    return placed
