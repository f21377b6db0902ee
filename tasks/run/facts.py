"""What a run's numbers depend on besides its options: data, packages, the machine."""

import platform
import resource
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from tasks.run.folder import is_run

PACKAGES = "attndense lightning torchvision timm onedl-mmsegmentation albumentations hotcoco numpy".split()


def package_versions() -> str:
    """Names and versions of the packages that numbers may depend on, beside PyTorch's: `attndense 0.1.0, ...`."""
    return ", ".join(f"{name} {_version(name)}" for name in PACKAGES)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def device_name(device: torch.device) -> str:
    """Name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def describe_data(datamodule: Any) -> dict[str, Any]:
    """Which data set it is.

    Returns:
        `data`, the class that reads it; `data_root`, its folder, where it has one; `classes`, how many.
    """
    if datamodule is None:  # loaders of a user's own
        return {}
    root = getattr(datamodule, "root", None)
    named = {"data": type(datamodule).__name__, "data_root": None if root is None else str(root)}
    return named | {"classes": len(getattr(datamodule, "class_names", ()))}


def recipe_name(config: Path | None) -> str:
    """Name of the first config file of the command line; of a run's saved config, that of the run; else none."""
    if config is None:
        return "none"
    return config.parent.name if is_run(config.parent) else config.stem


def peak_memory(trainer: Trainer) -> float:
    """Bytes at the peak: allocated on the GPU, or resident in this process."""
    if trainer.strategy.root_device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
