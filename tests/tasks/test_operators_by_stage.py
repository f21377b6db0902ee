"""One operator a stage on the command line: what a run saves is read back, as validation and another start need it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

OPERATORS = "[{class_path: CBAM, init_args: {reduction: 4}}, null, CoordinateAttention, null]"
KERNEL = "{class_path: SelectiveKernel, init_args: {groups: 8}}"
MIXERS = f"[null, {KERNEL}, null, {{class_path: LocalFilter, init_args: {{head_channels: 8}}}}]"


def test_a_run_with_an_operator_for_each_stage_is_saved_and_read_back(command: Callable[..., Path]) -> None:
    options = (f"--model.backbone.attention={OPERATORS}", f"--model.backbone.mixer={MIXERS}")
    folder = command("detect", "fit", *options, "--model.detector.head_attention=StripPooling", name="by-stage")
    saved: dict[str, Any] = yaml.safe_load((folder / "config.fit.yaml").read_text())["model"]
    of_backbone = saved["backbone"]["init_args"]
    names = {name: [entry and entry["class_path"] for entry in of_backbone[name]] for name in ("attention", "mixer")}
    assert names == {
        "attention": ["attention.CBAM", None, "attention.CoordinateAttention", None],
        "mixer": [None, "attention.SelectiveKernel", None, "attention.LocalFilter"],
    }
    assert of_backbone["attention"][0]["init_args"]["reduction"] == 4
    assert of_backbone["mixer"][3]["init_args"]["head_channels"] == 8
    summary = json.loads((folder / "summary.json").read_text())
    command("detect", "validate", f"--config={folder / 'config.fit.yaml'}", "--ckpt_path=best", name="by-stage")
    validated = json.loads((folder / "summary.validate.json").read_text())
    scores = {name for name in summary if name.startswith("val/")}
    assert scores and {name: validated[name] for name in scores} == {name: summary[name] for name in scores}
