"""Several processes on one machine (gloo): trained as a user starts them, scored as under torchrun."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.tasks.running import DATA, ROOT, run, run_as_forks

Command = Callable[..., Path]

BACKBONES = {
    # Of a transformer's maps a detector reads three; norms of the others would have no gradient, and end the run.
    "detect": (
        "--model.backbone=backbones.Swin",
        "--model.backbone.embed_channels=32",
        "--model.backbone.depths=[1,1,1,1]",
    ),
    "segment": ("--model.backbone.width=0.25",),
}


def here(processes: int) -> list[str]:
    """Options for so many processes on this machine."""
    strategy = ["--trainer.strategy=ddp"] if processes > 1 else []
    return ["--data.num_workers=0", "--trainer.accelerator=cpu", f"--trainer.devices={processes}", *strategy]


@pytest.mark.parametrize(
    ("task", "several"),
    [
        ("detect", 2),
        pytest.param("detect", 3, marks=pytest.mark.slow),
        pytest.param("segment", 3, marks=pytest.mark.slow),
    ],
)
def test_processes_agree(task: str, several: int, command: Command, shapes: Path, tmp_path: Path) -> None:
    """Both ranks end with equal weights; one checkpoint scores the same on 1 and several processes (7 images)."""
    folder = tmp_path / "runs" / task / "ddp"
    config = [f"--config={ROOT}/configs/{task}/quickstart.yaml", f"--data.root={shapes / DATA[task]}"]
    options = [
        "--data.batch_size=3",
        *BACKBONES[task],
        "--trainer.max_epochs=1",
        "--wandb.mode=disabled",
        "--trainer.callbacks+=rank_probe.RankProbe",
        f"--runs={tmp_path}/runs",
        "--name=ddp",
    ]
    code, output = run(task, ["fit", *config, *options, *here(2)], 240)
    assert code == 0, output
    weights = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert weights[0].keys() == weights[1].keys()
    # Batch norm's running statistics belong to each process, as everywhere without SyncBN; rank 0's are saved.
    parameters = [name for name in weights[0] if "running_" not in name]
    assert parameters and all(torch.equal(weights[0][name], weights[1][name]) for name in parameters)
    assert json.loads((folder / "summary.json").read_text())["processes"] == 2

    checkpoint = f"--ckpt_path={folder}/checkpoints/last.ckpt"
    found, kept = [], []
    counts = sorted({1, 2, several})
    for processes in counts:
        own = [f"--runs={tmp_path}/runs", f"--name=validate{processes}", *here(processes)]
        codes, output = run_as_forks(task, ["validate", *config, checkpoint, *own], processes, 240)
        assert codes == [0] * processes, output
        validated = folder.parent / f"validate{processes}"
        summary = json.loads((validated / "summary.validate.json").read_text())
        kept += [path.read_bytes() for path in validated.glob("evaluation.validate.npz")]
        found.append({name: value for name, value in summary.items() if name.startswith("val/")})
    assert found[0]["val/images"] == 7 and len(found[0]) > 10
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, value in found[0].items():
            assert other[name] == (value if value is None else pytest.approx(value, abs=1e-6)), name
    assert len(kept) == len(counts) and len({*kept}) == 1  # of every image, byte by byte, whatever process saw it
