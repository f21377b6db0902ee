"""`python -m tasks.segmentors.overview`: one table of all decode heads, each of which is built and trained a step."""

import inspect
import re
from pathlib import Path

import torch

from attention.page_command import run_page_command
from backbones import MobileNetV2
from tasks.losses import Losses, sum_losses
from tasks.segmentors.encoder_decoder import EncoderDecoder
from tasks.segmentors.head_table import HEADS, Head
from tasks.segmentors.parts import Config, find_class, options_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "segmentors.md"
COLUMNS = ("head", "paper", "maps", "beside type", "result")
TRAINS = "trains"
CLASSES, SIDE, CHANNELS = 3, 64, 16


def head_names() -> list[str]:
    """Names of all decode heads that MMSegmentation's registry has, ours among them."""
    import mmseg.models

    import tasks.segmentors.attention_head as ours

    names = {name for name in mmseg.models.decode_heads.__all__ if name.endswith("Head")}
    return sorted(names | {ours.AttentionHead.__name__, ours.CAAHead.__name__})


def small_config(name: str) -> Config:
    """A config of a head that is small, with the options that it needs."""
    entry = HEADS.get(name, Head())
    if entry.refused:
        return {"type": name}
    channels = {} if {"mla_channels", "kernel_generate_head"} & entry.example.keys() else {"channels": CHANNELS}
    return {"type": name, **channels, **entry.example}


def small_segmentor(name: str, num_classes: int = CLASSES) -> EncoderDecoder:
    """The head on a small MobileNetV2, behind or beside a plain one where it cannot be alone.

    Raises:
        ValueError: The head cannot be used here.
    """
    plain, config = {"type": "FCNHead", "channels": CHANNELS, "num_convs": 1}, small_config(name)
    entry = HEADS.get(name, Head())
    backbone = MobileNetV2(0.25, output_stride=16)
    if entry.classes:
        return EncoderDecoder(backbone, num_classes, plain, config)
    return EncoderDecoder(backbone, num_classes, [plain, config] if _is_later(name) else config)


def training_step(model: EncoderDecoder) -> Losses:
    """Losses of a batch of noise, whose gradients are computed as well.

    Raises:
        RuntimeError: A loss is not finite, or a parameter that can learn gets no gradient.
    """
    draw = torch.Generator().manual_seed(0)
    losses = model(
        {
            "image": torch.randint(0, 256, (2, 3, SIDE, SIDE), generator=draw, dtype=torch.uint8),
            "size": torch.tensor([[SIDE, SIDE]] * 2),
            "mask": torch.randint(0, model.num_classes, (2, SIDE, SIDE), generator=draw, dtype=torch.uint8),
        }
    )
    total = sum_losses(losses)
    total.backward()
    left = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    if not total.isfinite() or left:
        raise RuntimeError(f"the loss is {total.item()}; without a gradient: {', '.join(left) or 'none'}")
    found: Losses = losses
    return found


def result(name: str) -> str:
    """What becomes of a head: `trains`, or why there is none."""
    try:
        model = small_segmentor(name)
    except ValueError as refusal:
        return str(refusal).removeprefix(f"{name} ")
    training_step(model)
    entry = HEADS.get(name, Head())
    return TRAINS + (", as auxiliary head" if entry.classes else ", behind another head" if _is_later(name) else "")


def page() -> str:
    """The page about all decode heads, in Markdown."""
    rows = [_row(name) for name in head_names()]
    count = sum(row[-1].startswith(TRAINS) for row in rows)
    lines = [
        "# Decode heads",
        "",
        "Written by `python -m tasks.segmentors.overview --write docs/segmentors.md`, which builds every head on a",
        "small network and trains it for a step; change `tasks/segmentors/head_table.py`.",
        "",
        f"{count} of the {len(rows)} heads in MMSegmentation's registry train, `AttentionHead` and `CAAHead` of this",
        "library among them. A head is the value of `decode_head` or `auxiliary_head` of",
        "`tasks.segmentors.EncoderDecoder`, with the options of its constructor; a list of heads is a cascade, in",
        "which each starts from the logits of the one before.",
        "",
        "- Maps: what it reads of the backbone or neck unless `in_index` says otherwise.",
        "- Beside type: what its config must have; all else has a default or follows from the network and the data",
        "  set.",
        "- Losses are `loss_decode`, one or a list of `CrossEntropyLoss`, `OhemCrossEntropy`, `DiceLoss`,",
        "  `LovaszLoss`, `FocalLoss`, or another of MMSegmentation's; `class_weight` is a list, or `balanced` with",
        "  `pixel_counts`.",
        "",
        *map(_joined, [list(COLUMNS), ["---"] * len(COLUMNS), *rows]),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str) -> list[str]:
    """The cells of one head."""
    entry, outcome = HEADS.get(name, Head()), result(name)
    if not outcome.startswith(TRAINS):
        return [f"`{name}`", _paper(name), "", "", outcome]
    known = options_of(find_class(name)).values()
    needed = [option.name for option in known if option.default is option.empty and option.name in small_config(name)]
    maps = f"those of its {entry.source}" if entry.source else entry.maps
    return [f"`{name}`", _paper(name), maps, ", ".join(f"`{option}`" for option in needed), outcome]


def _is_later(name: str) -> bool:
    from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead

    return issubclass(find_class(name), BaseCascadeDecodeHead)


def _paper(name: str) -> str:
    """The paper's arXiv number as a link, where the first paragraphs of the head's docstring name it."""
    doc = next(
        parent.__doc__ or ""
        for parent in find_class(name).__mro__
        if not parent.__module__.startswith("tasks.segmentors.mmseg_heads")
    )
    found = re.search(r"(\d{4}\.\d{4,5})", " ".join(inspect.cleandoc(doc).split("\n\n")[:2]))
    return f"[arXiv {found[1]}](https://arxiv.org/abs/{found[1]})" if found else ""


def _joined(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    description = "Prints the table of all decode heads: paper, maps, options, and whether they train."
    run_page_command("tasks.segmentors.overview", description, page(), PAGE, ROOT, args)


if __name__ == "__main__":
    main()
