"""One process of several: losses of ten steps of every dense detector. `python -m ... RANK PROCESSES FOLDER`."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from backbones import MobileNetV2
from tasks.detectors import FCOS, Detector, FocalSSDLite320, RetinaNet, SSDLite320

K, STEPS, SIDE = 3, 10, 160
BUILDERS: dict[str, Callable[[], Detector]] = {
    "retinanet": lambda: RetinaNet(MobileNetV2(0.25), K, channels=32),
    "fcos": lambda: FCOS(MobileNetV2(0.25), K, channels=32, num_convs=1),
    "ssdlite": lambda: SSDLite320(MobileNetV2(0.25, last_conv=True), K, extra_channels=(32, 32, 32, 32)),
    "focal_ssdlite": lambda: FocalSSDLite320(MobileNetV2(0.25, last_conv=True), K),
}
OBJECTS = (5, 0, 1, 1)  # of four images: the first process of two gets six, the second one


def batch_of(images: range) -> dict:
    """Some of four images."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (len(OBJECTS), 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    targets = []
    for count in OBJECTS:
        corners = torch.rand(count, 2, generator=generator) * SIDE / 2
        sides = 12 + torch.rand(count, 2, generator=generator) * SIDE / 3
        labels = torch.randint(0, K, (count,), generator=generator)
        targets.append({"boxes": torch.cat([corners, corners + sides], dim=1), "labels": labels})
    chosen = list(images)
    return {
        "image": image[chosen],
        "size": torch.tensor([[SIDE, SIDE]] * len(chosen)),
        "targets": [targets[number] for number in chosen],
    }


def losses(build: Callable[[], Detector], rank: int, processes: int) -> torch.Tensor:
    """(steps, 2) classification and box losses, averaged over the processes, as gradients are."""
    torch.manual_seed(0)
    model = build().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    parallel = DistributedDataParallel(model) if processes > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    batch, history = batch_of(range(rank, len(OBJECTS), processes)), []
    for _ in range(STEPS):
        parts = parallel(batch)
        optimizer.zero_grad()
        sum(parts.values()).backward()
        optimizer.step()
        found = torch.stack([parts["classification"].detach(), parts["bbox_regression"].detach()])
        if processes > 1:
            distributed.all_reduce(found)
        history.append(found / processes)
    return torch.stack(history)


def main(rank: int, processes: int, folder: Path) -> None:
    """Saves the losses."""
    torch.set_num_threads(1)
    if processes > 1:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    found = {name: losses(build, rank, processes) for name, build in BUILDERS.items()}
    torch.save(found, folder / f"rank{rank}of{processes}.pt")
    if processes > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
