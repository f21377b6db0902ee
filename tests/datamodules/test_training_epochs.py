"""What Lightning makes of the training loader: epochs, interruptions, limits, overfitting, reloading."""

import multiprocessing
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from datamodules import ADE20K, COCO, FixedSize, RandomRatioCrop, VisionDataModule
from datamodules.sampling import SampleKey

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


class Recorder(pl.LightningModule):
    """Trains nothing, and writes down which samples it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.trained: list[list[SampleKey]] = []
        self.validated: list[list[SampleKey]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.trained.append(batch["keys"])
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.validated.append(batch["keys"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class CountFromHere(pl.Callback):
    """Tells Lightning, when it goes on with an epoch, how many of the steps that it has now are done."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data, loop = trainer.datamodule, trainer.fit_loop.epoch_loop  # type: ignore[attr-defined]
        done = data.full_batches() - data.remaining_batches()
        current = loop.batch_progress.current
        current.ready = current.started = current.processed = done
        current.completed = done - loop.restarted_on_train_batch_end  # which Lightning counts itself


def detection(shapes: Path, batch_size: int = 2, **options: Any) -> COCO:
    options = {"num_workers": 0, "pipeline": FixedSize(32, 32), **options}
    return COCO(shapes / "coco", batch_size=batch_size, **options)


def fit(data: VisionDataModule, folder: Path, checkpoint: Path | None = None, **options: Any) -> Recorder:
    """Saves after every step as `step=N.ckpt`."""
    saver = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    options = {"max_epochs": 2, "limit_val_batches": 0, "callbacks": [saver, CountFromHere()], **options}
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    task = Recorder()
    trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    return task


def indices(batches: list[list[SampleKey]], epoch: int) -> list[list[int]]:
    return [[key.index for key in keys] for keys in batches if keys[0].epoch == epoch]


def test_equal_settings_in_a_chain_of_resumes(shapes: Path, tmp_path: Path) -> None:
    whole = fit(detection(shapes), tmp_path / "whole").trained
    assert len(whole) == 12 and len({key.index for keys in whole[:6] for key in keys}) == 12
    for step in (1, 5, 6, 7):
        first = tmp_path / "whole" / f"step={step}.ckpt"
        rest = fit(detection(shapes, num_workers=1), tmp_path / f"from-{step}", first, max_steps=step + 2).trained
        assert rest == whole[step : step + 2]
        again = fit(detection(shapes), tmp_path / f"again-{step}", tmp_path / f"from-{step}" / f"step={step + 2}.ckpt")
        assert again.trained == whole[step + 2 :]


@pytest.mark.parametrize(
    "options", [{"batch_size": 4}, {"batch_size": 1}, {"batch_size": 5}, {"group_by_orientation": True}]
)
def test_other_settings_see_the_other_images(options: dict[str, Any], shapes: Path, tmp_path: Path) -> None:
    whole = fit(detection(shapes), tmp_path / "whole").trained
    data = detection(shapes, **options)
    rest = fit(data, tmp_path / "rest", tmp_path / "whole" / "step=3.ckpt").trained
    seen = [key.index for keys in whole[:3] for key in keys]
    other = [index for batch in indices(rest, 0) for index in batch]
    assert sorted(seen + other) == list(range(12)) and all(key.epoch in (0, 1) for keys in rest for key in keys)
    if "batch_size" in options:
        assert other == [key.index for keys in whole[3:6] for key in keys], "the order of the epoch stays"
    assert len(indices(rest, 1)) == 12 // data.batch_size, "the next epoch is whole"
    assert str(data.continuation()).startswith("epoch 0 was interrupted after 6 of 12 images with 2 x 1 ")


def test_limited_epochs(shapes: Path, tmp_path: Path) -> None:
    whole = fit(detection(shapes), tmp_path / "whole", limit_train_batches=4).trained
    assert [len(indices(whole, epoch)) for epoch in (0, 1)] == [4, 4]
    data = detection(shapes, batch_size=3)
    rest = fit(data, tmp_path / "rest", tmp_path / "whole" / "step=3.ckpt", limit_train_batches=0.75).trained
    assert data.full_batches() == 3  # 0.75 of 12 images in steps of 3: 9 images, 6 of them are seen
    assert [[len(batch) for batch in indices(rest, epoch)] for epoch in (0, 1)] == [[3], [3, 3, 3]]
    assert not {*indices(rest, 0)[0]} & {key.index for keys in whole[:3] for key in keys}


def test_checkpoint_of_a_callback_in_the_middle_of_a_step(shapes: Path, tmp_path: Path) -> None:
    """Lightning's own count of completed batches is one behind where callbacks save."""
    fit(detection(shapes), tmp_path)
    content = torch.load(tmp_path / "step=4.ckpt", weights_only=True)
    record = content["COCO"]
    assert (record["epoch"], record["steps"], record["finished"]) == (0, 4, False)
    assert content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["completed"] == 3
    assert torch.load(tmp_path / "step=6.ckpt", weights_only=True)["COCO"]["finished"]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("amount", "count"), [(2, 2), (0.5, 3)])
def test_overfitting_takes_the_same_first_batches(
    amount: float, count: int, workers: int, shapes: Path, tmp_path: Path
) -> None:
    data = detection(shapes, num_workers=workers)
    task = fit(data, tmp_path, overfit_batches=amount, limit_val_batches=None)
    expected = [[2 * step, 2 * step + 1] for step in range(count)]
    assert indices(task.trained, 0) == indices(task.trained, 1) == expected
    assert indices(task.validated, 1) == [[step] for step in range(count)]
    resumed = fit(data, tmp_path / "again", tmp_path / "step=1.ckpt", overfit_batches=amount, limit_val_batches=0)
    assert indices(resumed.trained, 0) == expected[1:] and indices(resumed.trained, 1) == expected


def test_reloaded_every_epoch(shapes: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_epochs": 3, "limit_val_batches": 1.0}
    plain = fit(detection(shapes), tmp_path / "plain", **options)
    alive: list[int] = []

    class Census(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            alive.append(len(multiprocessing.active_children()))

    options |= {"reload_dataloaders_every_n_epochs": 1, "callbacks": [Census()]}
    reloaded = fit(detection(shapes, num_workers=1), tmp_path / "reloaded", **options)
    assert reloaded.trained == plain.trained and reloaded.validated == plain.validated
    assert max(alive) <= 2, "one worker for training and one for validation"
    resumed = fit(detection(shapes), tmp_path / "resumed", tmp_path / "plain" / "step=9.ckpt", **options)
    assert resumed.trained == plain.trained[9:]


def test_a_checkpoint_of_before_is_continued_by_count(shapes: Path, tmp_path: Path) -> None:
    whole = fit(detection(shapes), tmp_path).trained
    content = torch.load(tmp_path / "step=4.ckpt", weights_only=True)
    del content["COCO"]
    torch.save(content, tmp_path / "old.ckpt")
    assert fit(detection(shapes), tmp_path / "rest", tmp_path / "old.ckpt").trained == whole[4:]


@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_a_batch_is_made_again_from_its_keys(kind: str, shapes: Path) -> None:
    if kind == "detection":
        data: VisionDataModule = detection(shapes, batch_size=3, pipeline=FixedSize(64, 64, (0.5, 2.0)), seed=7)
    else:
        pipeline = RandomRatioCrop(longest=160, shorter=96, crop=64)
        data = ADE20K(shapes / "ade20k", pipeline=pipeline, batch_size=3, num_workers=0, seed=7)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(2)  # type: ignore[attr-defined]
    for batch in loader:
        assert all(isinstance(key, SampleKey) and key.epoch == 2 for key in batch["keys"])
        again = data.batch_of([list(key) for key in batch["keys"]])  # type: ignore[misc]  # as a json file gives them
        assert batch.keys() == again.keys() and batch["keys"] == again["keys"]
        assert all(torch.equal(batch[name], again[name]) for name in ("image", "size", "mask") if name in batch)
        for target, other in zip(batch["targets"], again["targets"], strict=True):
            assert Path(target["file_name"]).is_file()
            assert str(target) == str(other)
