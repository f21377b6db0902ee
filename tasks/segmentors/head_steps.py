"""What is done with a decode head: logits, losses; and where its weights hold the classes."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from tasks.class_tensors import ClassRows
from tasks.losses import Losses, split_by_name
from tasks.precision import precise, precise_arithmetic
from tasks.segmentors.head_table import HEADS, Head
from tasks.segmentors.parts import Config, build_uninitialised


def head_losses(head: Any, features: list[Tensor], samples: list[Any], prefix: str = "") -> Losses:
    """Losses of a head that starts from features alone, a prefix before their names; see `losses_and_logits`."""
    return losses_and_logits(head, features, samples, prefix)[0]


def losses_and_logits(
    head: Any, features: list[Tensor], samples: list[Any], prefix: str = "", previous: Tensor | None = None
) -> tuple[Losses, Tensor | None]:
    """Losses of a head, and the logits that a head behind it starts from.

    Losses are computed in float32, for a sum over all pixels is too large for float16.

    Args:
        head: The head.
        features: Maps.
        samples: What `data_samples` makes of masks.
        prefix: Put before the names of all losses.
        previous: Logits of the head before it in a cascade.
    """
    inputs = (features,) if previous is None else (features, previous)
    if not _is_known(head.loss):
        return split_by_name(head.loss(*inputs, samples, train_cfg=None), prefix), None
    outputs = head(*inputs)
    with ExitStack() as contexts:
        contexts.enter_context(precise_arithmetic())
        contexts.enter_context(torch.autocast(features[0].device.type, enabled=False))
        losses = split_by_name(head.loss_by_feat(precise(outputs), samples), prefix)
    if head.out_channels == 1:
        losses.numbers.clear()  # accuracies that take one logit for the background
    return losses, main_logits(head, outputs)


def predicted_logits(heads: list[Any], features: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Logits (B, K, H, W) of the last head of a cascade, which may be of one head, enlarged by it; K = 2 of one logit.

    Args:
        heads: In evaluation mode.
        features: Maps.
        size: H and W of the image.
    """
    inputs: tuple[Any, ...] = (features,)
    for head in heads[:-1]:
        inputs = (features, main_logits(head, head(*inputs)))
    head, metas = heads[-1], [{"img_shape": size, "pad_shape": size}] * len(features[0])
    if not _is_known(head.predict):
        found: Tensor = head.predict(*inputs, metas, None)
    else:
        # The layout in which enlarging them, and `resized_bands` after it, are fastest; of one image `contiguous` may
        # leave strides that nothing takes for it.
        logits = main_logits(head, head(*inputs)).clone(memory_format=torch.channels_last)
        found = head.predict_by_feat(logits, metas)
    # One logit x stands for two classes with the logits 0 and x: sigmoid(x) is the softmax of the second.
    return torch.cat([torch.zeros_like(found), found], dim=1) if head.out_channels == 1 else found


def main_logits(head: Any, outputs: Any) -> Tensor:
    """The logits of pixels among what a head gives: of stages the last; the first of others, unless the head says."""
    if isinstance(outputs, list):
        outputs = outputs[-1]
    found: Tensor = outputs if isinstance(outputs, Tensor) else outputs[getattr(head, "main_output", 0)]
    return found


def _is_known(method: Any) -> bool:
    """Whether a step of a head is MMSegmentation's own, whose parts are called here one by one."""
    return str(method.__module__).split(".")[0] in ("mmseg", "tasks")


def data_samples(mask: Tensor) -> list[Any]:
    """Masks (B, H, W) in the form that MMSegmentation's heads take."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for labels in mask:
        sample = SegDataSample(metainfo={"img_shape": tuple(labels.shape), "pad_shape": tuple(labels.shape)})
        sample.gt_sem_seg = PixelData(data=labels.to(torch.int64)[None])
        samples.append(sample)
    return samples


def class_rows(head: Any, config: Config, num_classes: int) -> dict[str, ClassRows | None]:
    """The entries of a head that have another shape in one of one class more, and where they hold the classes.

    Args:
        head: The head.
        config: Its completed config.
        num_classes: K.
    """
    entry = HEADS.get(config["type"], Head())
    if entry.classes:
        return {}
    own = head.state_dict()
    with torch.random.fork_rng(devices=[]):  # initialisation draws random numbers
        wider = build_uninitialised(_with_classes(config, num_classes + 1)).state_dict()
    return {
        name: _class_axis(own[name], value, num_classes, entry.feature_rows)
        for name, value in wider.items()
        if value.shape != own[name].shape
    }


def _with_classes(config: Any, num_classes: int) -> Any:
    """A head's config for another number of classes, in the configs that it holds as well."""
    if isinstance(config, list | tuple):
        return type(config)(_with_classes(part, num_classes) for part in config)
    if not isinstance(config, dict):
        return config
    classes = {"num_classes", "out_channels"} if "threshold" in config else {"num_classes"}
    return {
        name: num_classes if name in classes else _with_classes(value, num_classes) for name, value in config.items()
    }


def _class_axis(tensor: Tensor, wider: Tensor, num_classes: int, feature_rows: bool) -> ClassRows | None:
    """Where a tensor of K classes holds them, if it differs from that of K + 1 in one axis, by one."""
    axes = [axis for axis, length in enumerate(tensor.shape) if length != wider.shape[axis]]
    if len(axes) != 1:
        return None
    (axis,) = axes
    others = tensor.shape[axis] - num_classes
    if wider.shape[axis] != tensor.shape[axis] + 1 or others < 0 or (others and not feature_rows):
        return None
    return ClassRows(axis=axis, background=others)
