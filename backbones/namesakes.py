"""Weights of a network of timm's that computes something else, though its parameters fit.

Padding like TensorFlow's (`tf_efficientnet_b0`), strides that average or blur (`resnetaa50`, `resnetblur50`), windows
of other sizes in other stages (`swin_s3_tiny_224`), another epsilon (`efficientnet_b5`): none of it leaves a trace in
names and shapes. What timm calls a network does tell, and so do checkpoints of its training script (`arch`).
"""

import logging
import re
from collections.abc import Iterable

from backbones.base import Backbone

_logger = logging.getLogger(__name__)

# By the host's class: names of timm's networks that compute what it computes, and one of them.
_SAME = {
    "ResNet": (
        r"((tv|gluon|ig|ssl|swsl)_)?((se)?res(net(18|34|50|101|152)|next\d+_\d+x\d+d)|wide_resnet\d+_2)(_v1b)?"
        r"|skresnext50_32x4d|(gluon_)?resnet\d+(_v1)?[cd]",
        "resnet50",
    ),
    "Swin": (r"swin_(tiny|small|base|large)_patch4_\w+", "swin_tiny_patch4_window7_224"),
    "MobileNetV2": (r"mobilenetv2_\d+", "mobilenetv2_100"),
    "EfficientNet": (r"efficientnet_b[0-4]", "efficientnet_b0"),
    "VOLO": (r"volo_d\d_\d+", "volo_d1_224"),
}
# In the name of a file or of its repository these are hints, no proof: the family of namesakes that timm publishes.
_SUSPICIOUS = re.compile(r"(?:^|[/\\]|timm--)((?:tf_(?:efficientnet|mobilenet)|resnetaa|resnetblur|swin_s3_)\w*)")


def check_namesake(backbone: Backbone, architecture: object, entries: Iterable[str], weights: str) -> None:
    """Refuses weights of a network of timm's that fit and compute something else; warns where only a file's name tells.

    Args:
        backbone: Network that is to be filled. One that timm builds itself is warned about other names than its own.
        architecture: Name of the network as the checkpoint has it, or anything else where it has none.
        entries: Names of the entries; those of torchvision's mobile networks and Swin are no namesakes of timm's.
        weights: What the user gave, for messages.

    Raises:
        ValueError: The weights are those of another function.
    """
    host = type(backbone).__name__
    same, example = next((_SAME[cls.__name__] for cls in type(backbone).__mro__ if cls.__name__ in _SAME), ("", ""))
    if isinstance(architecture, str):
        name = architecture.split(".")[0]
        published = backbone.published_weights()
        if isinstance(published, str):
            if name != published.split(".")[0] and _is_timms(name):
                _logger.warning(
                    "%s: weights of timm's %s in its %s, which may compute something else", weights, name, published
                )
        elif same and not re.fullmatch(same, name) and not any(entry.startswith("features.") for entry in entries):
            if _is_timms(name):
                raise ValueError(
                    f"weights={weights!r}: timm's {name} does not compute what {host} does, even where its parameters "
                    f"fit (padding, pooling, windows, activations or epsilon differ); take {example} or the like"
                )
    elif same and (hint := _SUSPICIOUS.search(weights)):
        _logger.warning(
            "%s: the name is that of timm's %s, which does not compute what %s does, even where its parameters fit",
            weights,
            hint[1],
            host,
        )


def _is_timms(name: str) -> bool:
    """Whether a network is timm's own, and none that this package has registered there."""
    import timm

    return timm.is_model(name) and timm.model_entrypoint(name).__module__.startswith("timm.")
