"""Checkpoints as data: checked and read, and their weights as the start of another run."""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from backbones import load_weights
from backbones.weight_sources import HASHED
from backbones.weights import load_entries
from tasks.class_tensors import ClassRows, DenseModel
from tasks.errors import TaskError
from tasks.foreign_code import foreign_code, if_yours
from tasks.old_formats import renewed
from tasks.published_base import PublishedWeights
from tasks.published_weights import read_published, require_fitting
from tasks.same_network import differences, listed

EXPECTED = "expected a checkpoint such as RUN/checkpoints/best.ckpt or last.ckpt"
FORMAT_KEY, FORMAT = "attndense_format", 3
"""Number of what a checkpoint holds besides Lightning's own: 1 (none is written) has Lightning's constructor arguments
in `hyper_parameters`, 2 the options of the task, which are the same but for `_instantiator`; 3 names some of them anew
(`tasks/old_formats.py`)."""
DATA_KEY = "attndense_data"
"""Where a checkpoint keeps the class of its data module and the arguments that prediction needs, as `class_path` and
`init_args`; or under `unknown` why it cannot (`tasks/saved_data.py`)."""
_OLD_FORMAT = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9"  # the pickled number that torch.save began with before PyTorch 1.6


class DamagedCheckpoint(TaskError):
    """The bytes of a checkpoint are not those that were written; another file may be good."""


class NewerCheckpoint(TaskError):
    """A later version has written the checkpoint; one before it would be older than it seems."""


@dataclass(frozen=True)
class CheckpointClasses:
    """What a checkpoint knows of its classes.

    Attributes:
        names: Names of the classes 0..K-1.
        category_ids: Their ids in the annotation file that the run was trained on; None for segmentation.
    """

    names: list[str]
    category_ids: list[int] | None


def verify_checkpoint(path: str | Path) -> dict[str, Any]:
    """Verifies every byte of a checkpoint (`require_good_bytes`) and reads it (`read_checkpoint`)."""
    require_good_bytes(path)
    return read_checkpoint(path)


def require_good_bytes(path: str | Path) -> None:
    """Reads every byte of a checkpoint and compares it with the checksums in the file, in a megabyte of memory.

    `torch.load` does not: it takes a file with a flipped byte or a zeroed block for a good one.

    Raises:
        DamagedCheckpoint: The file is empty, cut off, changed, cannot be read, or has PyTorch's format before 1.6,
            which has no checksums.
        TaskError: There is no file at `path`.
    """
    _require_file(path)
    if _verify_bytes(path):
        raise DamagedCheckpoint(
            f"{path} has PyTorch's format before 1.6, whose contents cannot be checked; load it with torch.load and "
            "write it again with torch.save"
        )


def _verify_bytes(path: str | Path) -> bool:
    """Compares a file with its checksums; whether it has PyTorch's format before 1.6, which has none."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(_OLD_FORMAT))
            wrong = None if start == _OLD_FORMAT or not start else zipfile.ZipFile(file).testzip()
    except Exception as error:  # bytes that are no archive can raise anything
        raise _damaged(path, error) from error
    if not start:
        raise DamagedCheckpoint(f"{path} is empty; {EXPECTED}")
    if wrong is not None:
        raise DamagedCheckpoint(f"{path} is damaged: the contents of {wrong} are not what was written; {EXPECTED}")
    return start == _OLD_FORMAT


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A run's checkpoint, as data and never as code; its tensors stay on disk until they are used.

    What is read of the tensors is not checked: see `verify_checkpoint`.

    Raises:
        DamagedCheckpoint: The file cannot be read.
        NewerCheckpoint: Its format is that of a later version.
        TaskError: There is none, or it is something else than a checkpoint, or names foreign code as a part of its
            model.
    """
    content = load_as_data(path, mmap=True)
    return renewed(content) if content.get(FORMAT_KEY, 1) < FORMAT else content


def load_as_data(path: str | Path, **options: Any) -> dict[str, Any]:
    """A run's checkpoint as its version has written it; what it raises is what `read_checkpoint` does.

    Args:
        path: The file.
        options: Those of `torch.load`; tensors come to the CPU unless there is a `map_location`.
    """
    _require_file(path)
    try:
        content = torch.load(path, weights_only=True, **{"map_location": "cpu", **options})
    except Exception as error:  # bytes that are no checkpoint can raise anything
        raise _damaged(path, error) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise TaskError(
            f"{path} is not the checkpoint of a run, such as RUN/checkpoints/best.ckpt; weights of a backbone alone go "
            "to --model.backbone.weights"
        )
    written = content.get(FORMAT_KEY, 1)
    if written not in range(1, FORMAT + 1):
        raise NewerCheckpoint(
            f"{path} has checkpoint format {written}, expected 1 to {FORMAT}; use the version that wrote it"
        )
    foreign = foreign_code(content)
    if foreign is not None:
        raise TaskError(
            f"{path} names {foreign} as a part of its model, and nothing of it has been run; expected parts of this "
            f"package and of torch.optim. {if_yours(foreign)}"
        )
    return content


def arguments_without_weights(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a checkpoint's constructor arguments that name weights to start from, without them.

    The checkpoint has weights of its own; the others may be gone, and would be downloaded in vain.

    Args:
        arguments: `hyper_parameters` of a checkpoint.
    """
    changed: dict[str, Any] = {"weights": None} if "weights" in arguments else {}
    backbone = arguments.get("backbone")
    if isinstance(backbone, Mapping) and "weights" in backbone.get("init_args", {}):
        changed["backbone"] = {**backbone, "init_args": {**backbone["init_args"], "weights": None}}
    return changed


def describe_checkpoint_classes(path: str | Path) -> CheckpointClasses:
    """Names and category ids of the classes that a checkpoint was trained on.

    Raises:
        DamagedCheckpoint: The file cannot be read.
        TaskError: It names no classes, and so is not the checkpoint of a detection or segmentation run.
    """
    classes = _classes(read_checkpoint(path))
    if classes is None:
        raise TaskError(f"{path} names no classes; {EXPECTED}, written by tasks.detect or tasks.segment")
    return classes


def describe_weights_classes(path: str | Path) -> CheckpointClasses | None:
    """The classes of what `load_model_weights` reads, or None where it names none.

    Raises:
        DamagedCheckpoint: The file cannot be read.
        TaskError: It is neither a checkpoint nor published weights.
    """
    published = read_published(path)
    if published is None:
        return _classes(read_checkpoint(path))
    names = [name for name in published.class_names if name]
    return CheckpointClasses(names, published.category_ids) if names else None


def load_model_weights(model: DenseModel, class_names: Sequence[str], path: str | Path) -> None:
    """Starts a model from the weights of another run, of averaged weights from the average, or from published ones.

    Published weights are those of whole models of torchvision, MMDetection and MMSegmentation
    (`tasks/published_weights.py`).
    Everything but the classes must fit, as for `--model.backbone.weights`: every entry of the model is there, in its
    shape, and the head of the checkpoint has nothing that the model lacks. Inserted attention may be missing on either
    side, published weights may not have any that the model lacks. What the classes have of their own
    (`DenseModel.class_tensors`) is taken over by their names; new classes start as initialised. One line says which,
    another what the checkpoint has besides.

    Args:
        model: The model of a task.
        class_names: Names of its classes 0..K-1.
        path: A checkpoint of this package, or a file of torchvision's, MMDetection's or MMSegmentation's.

    Raises:
        DamagedCheckpoint: The file is damaged.
        TaskError: It is missing, no checkpoint, or that of another network; then the model is not to be used.
    """
    published = read_published(path)
    layouts: dict[str, ClassRows] = {}
    title = ""
    if published is None:
        verify_checkpoint(path)
        checkpoint = read_checkpoint(path)
        _require_kind(model, checkpoint, path)
        found = {
            name.replace("_orig_mod.", "").removeprefix("model."): value  # torch.compile(module) puts the former in
            for name, value in checkpoint["state_dict"].items()
        }
        classes = _classes(checkpoint)
        old = [] if classes is None else classes.names
    else:
        _verify_published(path)
        require_fitting(model, published, path)
        found, old, layouts = published.entries, published.class_names, published.class_rows
        title = f"{published.title}; "
    _load_backbone(model, published, path)
    rows = {new: old.index(name) for new, name in enumerate(class_names) if name in old}
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("backbone.")}
    holders = {} if old == list(class_names) and not layouts else model.class_tensors()
    places = {name: place for name, place in holders.items() if place is not None and old}
    shapes = {
        name: layouts.get(name, places[name]).shape(value, len(old)) if name in places else value.shape
        for name, value in own.items()
        if name in places or name not in holders
    }
    _check_head(own, shapes, found, path, whole=published is not None)
    taken = {name: found[name] for name in shapes if name in found}
    for name, place in places.items():
        taken[name] = place.take_over(own[name], found[name], rows, layouts.get(name))
    model.load_state_dict(taken, strict=False)
    unordered = [name for name, place in holders.items() if place is None]
    rank_zero_info(f"{path}: {title}{_class_report(class_names, old, rows, unordered)}")
    left_over = {name.split(".")[0] for name in found} - {name.split(".")[0] for name in own} - {"backbone"}
    if left_over:
        rank_zero_info(f"{path}: not needed: {listed(sorted(left_over))}")


def _load_backbone(model: DenseModel, published: PublishedWeights | None, path: str | Path) -> None:
    try:
        if published is None:
            load_weights(model.backbone, str(path))
        else:
            load_entries(model.backbone, published.entries, str(path), whole=True)
    except ValueError as error:
        raise TaskError(f"--model.weights: {error}") from error


def _verify_published(path: str | Path) -> None:
    """Compares a file with its checksums, or, in PyTorch's format before 1.6, with the sum that its name ends in."""
    named = HASHED.search(Path(path).name)
    if _verify_bytes(path) and named and not named[1].isdigit():  # digits are a date
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(named[1]):
            raise DamagedCheckpoint(f"{path} is damaged: its SHA-256 begins with {found[:8]}, not with {named[1]}")


def _require_kind(model: DenseModel, checkpoint: Mapping[str, Any], path: object) -> None:
    """Refuses the checkpoint of the other task, of whose head nothing fits."""
    own, other = ("segmentor", "detector") if hasattr(model, "label_maps") else ("detector", "segmentor")
    saved = checkpoint.get("hyper_parameters", {})
    if other in saved and own not in saved:
        raise TaskError(
            f"--model.weights {path} is a {other}'s; for its backbone alone: --model.backbone.weights {path}"
        )


def _check_head(
    own: dict[str, Tensor], shapes: dict[str, torch.Size], found: dict[str, Tensor], path: object, whole: bool
) -> None:
    """Refuses the checkpoint of another neck or head.

    Args:
        own: Entries of the model outside its backbone.
        shapes: Shapes that the checkpoint must have for them; those that start anew in any case are left out.
        found: All entries of the checkpoint.
        path: The checkpoint, for messages.
        whole: Whether it may have no other parts than these, either.
    """
    parts = {name.split(".")[0] for name in (found if whole else own)} - {"backbone"}
    found = {name: value for name, value in found.items() if name.split(".")[0] in parts}
    for fault, names in differences(own, shapes, found).items():
        raise TaskError(
            f"--model.weights: {path} is of another network: next to {len(own)} entries of neck and head it "
            f"{fault} {len(names)}, {listed(names)}; expected a checkpoint of a run with the same model options; "
            f"for its backbone alone use --model.backbone.weights {path}"
        )


def _class_report(new: Sequence[str], old: list[str], rows: dict[int, int], unordered: list[str]) -> str:
    """What became of the classes, in a line."""
    parts = {
        "started anew": [name for label, name in enumerate(new) if label not in rows],
        "not needed": [name for name in old if name and name not in new],
        "started anew for all classes": unordered,
    }
    details = "".join(f"; {what}: {listed(names)}" for what, names in parts.items() if names)
    return f"{len(rows)} of {len(new)} classes taken over by name{details}"


def _classes(checkpoint: dict[str, Any]) -> CheckpointClasses | None:
    """The classes among the arguments that a checkpoint holds."""
    arguments = checkpoint.get("hyper_parameters", {})
    names, ids = arguments.get("class_names"), arguments.get("category_ids")
    return None if names is None else CheckpointClasses(list(names), None if ids is None else list(ids))


def _require_file(path: str | Path) -> None:
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "does not exist"
        raise TaskError(f"{path} {what}; {EXPECTED}")


def _damaged(path: object, error: Exception) -> DamagedCheckpoint:
    cause = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return DamagedCheckpoint(f"{path} is damaged or no checkpoint ({cause}); {EXPECTED}")
