"""What our segmentors cost against MMSegmentation's own models of the same weights: training steps.

    python -m benchmarks.segment_step [--json] [--only upernet ...] [--side 256]

Noise in one batch, as uint8 for both, which normalise for themselves. Losses are compared first. Steps are forward,
backward and optimiser, without a framework.
"""

from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from backbones import ResNet
from benchmarks.measure import Goal, finish, keep_freed_memory, parse_options, ratio_goal, time_in_turn
from tasks.normalization import IMAGENET_MEAN, IMAGENET_STD
from tasks.segmentors import EncoderDecoder
from tasks.segmentors.head_steps import data_samples

K = 150
BATCH_NORM = {"type": "BN", "requires_grad": True}
AUXILIARY = {
    "type": "FCNHead",
    "in_channels": 1024,
    "in_index": 2,
    "channels": 256,
    "num_convs": 1,
    "concat_input": False,
    "num_classes": K,
    "norm_cfg": BATCH_NORM,
    "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 0.4},
}
LAST = {"in_channels": 2048, "in_index": 3, "channels": 512, "num_classes": K, "norm_cfg": BATCH_NORM}
HEADS: dict[str, dict[str, Any]] = {
    "upernet": {
        "type": "UPerHead",
        "in_channels": [256, 512, 1024, 2048],
        "in_index": [0, 1, 2, 3],
        "channels": 512,
        "pool_scales": [1, 2, 3, 6],
        "num_classes": K,
        "norm_cfg": BATCH_NORM,
    },
    "fcn": {"type": "FCNHead", "num_convs": 2, "concat_input": True, **LAST},
    "pspnet": {"type": "PSPHead", "pool_scales": [1, 2, 3, 6], **LAST},
    "deeplabv3": {"type": "ASPPHead", "dilations": [1, 12, 24, 36], **LAST},
}
"""Decode heads by name, on a ResNet-50 of stride 32 with an auxiliary head."""


def models(name: str) -> tuple[EncoderDecoder, nn.Module]:
    """Ours, and MMSegmentation's with the same weights."""
    from mmseg.registry import MODELS

    ours = EncoderDecoder(ResNet(50), K, {**HEADS[name], "dropout_ratio": 0.0}, {**AUXILIARY, "dropout_ratio": 0.0})
    peer = MODELS.build(
        {
            "type": "EncoderDecoder",
            "data_preprocessor": {
                "type": "SegDataPreProcessor",
                "mean": [*IMAGENET_MEAN],
                "std": [*IMAGENET_STD],
                "seg_pad_val": 255,
                "size_divisor": 1,
            },
            "backbone": {"type": "ResNet", "depth": 50, "style": "pytorch", "norm_cfg": BATCH_NORM},
            "decode_head": {**HEADS[name], "dropout_ratio": 0.0},
            "auxiliary_head": {**AUXILIARY, "dropout_ratio": 0.0},
        }
    )
    peer.backbone.load_state_dict(ours.backbone.state_dict())
    peer.decode_head.load_state_dict(ours.decode_head.state_dict())
    peer.auxiliary_head.load_state_dict(ours.auxiliary_head.state_dict())
    return ours.train(), peer.train()


def step(model: nn.Module, losses_of: Callable[[], dict[str, Tensor]]) -> Callable[[], dict[str, Tensor]]:
    """A training step that changes no weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    def run() -> dict[str, Tensor]:
        losses = losses_of()
        optimizer.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        optimizer.step()
        return losses

    return run


def measure(name: str, side: int, rounds: int) -> Goal:
    """The goal of a head."""
    torch.manual_seed(0)
    ours, peer = models(name)
    image = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    mask = torch.randint(0, K, (2, side // 16, side // 16), dtype=torch.uint8)
    mask = mask.repeat_interleave(16, 1).repeat_interleave(16, 2)
    mask[:, :9] = 255
    batch = {"image": image, "mask": mask, "size": torch.tensor([[side, side]] * 2)}

    def theirs() -> dict[str, Tensor]:
        given = peer.data_preprocessor({"inputs": list(image), "data_samples": data_samples(mask)}, training=True)
        found = peer.loss(given["inputs"], given["data_samples"])
        return {key.rpartition(".")[2]: loss for key, loss in found.items() if "loss" in key and "decode" in key} | {
            f"aux_{key.rpartition('.')[2]}": loss for key, loss in found.items() if "loss" in key and "aux" in key
        }

    runs = {"ours": step(ours, lambda: ours(batch)), "mmseg": step(peer, theirs)}
    found, expected = (run() for run in runs.values())
    assert found.keys() == expected.keys(), f"losses are {[*found]} and {[*expected]}"
    for key, loss in found.items():
        torch.testing.assert_close(loss, expected[key], rtol=1e-4, atol=1e-5)
    seconds = time_in_turn(runs, rounds)
    return ratio_goal(f"{name}, training step, ours / MMSegmentation", *seconds.values(), 1.05, at_least=False)


def add_options(parser: ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--only", nargs="+", choices=HEADS, default=list(HEADS), help="heads; default: all")
    parser.add_argument("--side", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--rounds", type=int, default=7, help="counted runs of each")


def main() -> None:
    """Runs the benchmark."""
    options = parse_options("Cost of our segmentors relative to MMSegmentation's.", add_options)
    keep_freed_memory()
    torch.set_num_threads(1)
    goals: Iterator[Goal] = (measure(name, options.side, options.rounds) for name in options.only)
    finish(goals, options.json)


if __name__ == "__main__":
    main()
