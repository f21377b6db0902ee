"""Every training option does something: each test fails when its option is ignored."""

import csv
import json
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from attention import CoordinateAttention, IdentityStart, SqueezeExcitation
from backbones import MobileNetV2, ResNet
from tasks.base import auxiliary_losses
from tasks.callbacks import Performance
from tasks.detectors import FCOS
from tasks.errors import TaskError
from tasks.optimization import ParameterRules, group_table
from tasks.run.evaluation_file import SegmentationEvaluation
from tasks.run.length import images_per_step
from tests.tasks.conftest import MAINS, command_arguments
from tests.tasks.running import content_of

Command = Callable[..., Path]


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as lines:
        return [float(row["train/loss"]) for row in csv.DictReader(lines) if row["train/loss"]]


def load(folder: Path, name: str = "last") -> dict:
    return content_of(folder / "checkpoints" / f"{name}.ckpt")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return FCOS(MobileNetV2(0.25, CoordinateAttention, frozen_stages=2), 5, channels=32, num_convs=1)


class TestParameterRules:
    def adamw(self, groups: list[dict]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=0.1, weight_decay=0.05)

    def test_default_is_one_rate_for_all_that_is_not_frozen(self, model: nn.Module) -> None:
        optimizer = ParameterRules().build(self.adamw, model, 16)
        assert {group["lr"] for group in optimizer.param_groups} == {0.1}
        found = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert found == {id(p) for p in model.parameters() if p.requires_grad}
        assert len(found) < len(list(model.parameters()))

    def test_no_decay_on_norms_and_biases(self, model: nn.Module) -> None:
        optimizer = ParameterRules(decay_norms_and_biases=False).build(self.adamw, model, 16)
        decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert decay[id(parameter)] == (0.05 if parameter.ndim > 1 else 0.0), name

    def test_the_scalar_of_an_identity_start_never_decays(self) -> None:
        network = ResNet(18, lambda channels: IdentityStart(channels, SqueezeExcitation))
        optimizer = ParameterRules().build(self.adamw, network, 16)
        without = next(group for group in optimizer.param_groups if group["weight_decay"] == 0)
        assert len(without["params"]) == 8 and all(parameter.ndim == 0 for parameter in without["params"])

    def test_backbone_multiplier(self, model: nn.Module) -> None:
        optimizer = ParameterRules(backbone_multiplier=0.1).build(self.adamw, model, 16)
        rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert rate[id(parameter)] == pytest.approx(0.01 if name.startswith("backbone") else 0.1), name

    def test_layer_decay_falls_towards_the_stem(self, model: nn.Module) -> None:
        optimizer = ParameterRules(layer_decay=0.5).build(self.adamw, model, 16)
        rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        layers = model.backbone.layer_groups()
        for depth, layer in enumerate(layers):
            expected = 0.1 * 0.5 ** (len(layers) - depth)
            assert all(rate[id(p)] == pytest.approx(expected) for p in layer if p.requires_grad)
        assert rate[id(next(model.head.parameters()))] == 0.1

    def test_rate_scales_with_the_batch(self, model: nn.Module) -> None:
        optimizer = ParameterRules(base_batch_size=16).build(self.adamw, model, images_per_step=64)
        assert all(group["lr"] == pytest.approx(0.4) for group in optimizer.param_groups)

    def test_table_counts_every_parameter(self, model: nn.Module) -> None:
        optimizer = ParameterRules(backbone_multiplier=0.5, decay_norms_and_biases=False).build(self.adamw, model, 16)
        lines = group_table(optimizer).splitlines()
        assert lines[0].startswith("parameter group") and len(lines) == 5
        counted = sum(int(re.split(r"  +", line)[2].replace(",", "")) for line in lines[1:])
        assert counted == sum(p.numel() for p in model.parameters() if p.requires_grad)
        row = next(line for line in lines if line.startswith("backbone, no decay"))
        assert re.split(r"  +", row)[3:] == ["0.05", "0"]

    def test_refused(self, model: nn.Module) -> None:
        with pytest.raises(ValueError, match="layer_decay"):
            ParameterRules(layer_decay=1.5)
        with pytest.raises(TaskError, match="frozen"):
            ParameterRules().build(self.adamw, nn.Linear(2, 2).requires_grad_(False), 16)


@pytest.fixture(scope="module")
def sgd() -> tuple[str, ...]:
    """A rate without warm-up, and no validation."""
    rate = ("--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.05", "--model.lr_schedule.warmup_steps=0")
    return (*rate, "--trainer.limit_val_batches=0")


@pytest.fixture(scope="module")
def plain(sgd: tuple[str, ...], shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses without any of the options."""
    runs = tmp_path_factory.mktemp("runs")
    MAINS["segment"]([*command_arguments("segment", "fit", shapes, runs, "plain"), *sgd])
    return losses(runs / "segment" / "plain")


@pytest.mark.parametrize(
    ("option", "changes_from_step"),
    [
        ("--trainer.gradient_clip_val=0.01", 1),
        pytest.param("--trainer.precision=bf16-mixed", 0, marks=pytest.mark.slow),
        pytest.param("--model.parameter_rules.backbone_multiplier=0.0", 1, marks=pytest.mark.slow),
        # In every run: TestParameterRules, and the rates of an accumulation below.
        pytest.param("--model.parameter_rules.base_batch_size=1", 1, marks=pytest.mark.slow),
        pytest.param("--model.backbone.norms=eval", 0, marks=pytest.mark.slow),
        # In every run: test_rate_and_schedule_may_change_when_asked in tests/tasks/run/test_resume.py.
        pytest.param("--model.lr_schedule=Constant", 2, marks=pytest.mark.slow),
    ],
)
def test_option_changes_training(
    option: str, changes_from_step: int, sgd: tuple[str, ...], plain: list[float], command: Command
) -> None:
    changed = losses(command("segment", "fit", *sgd, option, name="changed"))
    assert len(plain) == len(changed) == 3
    assert plain[:changes_from_step] == pytest.approx(changed[:changes_from_step], abs=1e-4)
    assert all(one != other for one, other in zip(plain[changes_from_step:], changed[changes_from_step:], strict=True))
    assert all(torch.isfinite(torch.tensor(changed)))


@pytest.mark.slow
def test_channels_last_changes_no_result(command: Command) -> None:
    plain = losses(command("segment", "fit", name="plain"))
    changed = losses(command("segment", "fit", "--model.channels_last=true", name="changed"))
    assert plain == pytest.approx(changed, rel=1e-3)


def test_channels_last_reaches_the_features() -> None:
    model = FCOS(MobileNetV2(0.25), 5, channels=32, num_convs=1).to(memory_format=torch.channels_last)
    features = model.backbone(torch.zeros(1, 3, 64, 64))
    assert all(feature.is_contiguous(memory_format=torch.channels_last) for feature in features)


@pytest.mark.usefixtures("own_determinism")
def test_deterministic_runs_are_equal(command: Command) -> None:
    ends = []
    for name in ("one", "other"):
        options = ("--trainer.deterministic=true", "--trainer.limit_val_batches=0")
        ends.append(load(command("detect", "fit", *options, name=name))["state_dict"])
        with pytest.raises(RuntimeError, match="deterministic"):  # an operation that has no deterministic form
            torch.zeros(3).put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_accumulation_takes_one_step_for_two_batches(command: Command) -> None:
    """Also in the schedule: 12 images in batches of 2 are 3 steps an epoch, of half the images that the rate is for."""
    options = ("--trainer.max_epochs=2", "--model.lr_schedule.warmup_steps=0", "--trainer.limit_val_batches=0")
    folder = command("segment", "fit", *options, "--data.batch_size=2", "--trainer.accumulate_grad_batches=2")
    assert load(folder)["global_step"] == 6
    assert load(folder)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] == 12
    with (folder / "metrics.csv").open() as lines:
        rates = {int(row["step"]): float(row["lr-AdamW/head"]) for row in csv.DictReader(lines) if row["lr-AdamW/head"]}
    # Lightning logs the rate of the first step only where a batch is a step.
    assert rates == pytest.approx({step: 0.001 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(1, 6)})


def test_images_of_a_step_are_those_of_all_processes_and_batches() -> None:
    data = SimpleNamespace(batch_size=5)
    assert images_per_step(SimpleNamespace(datamodule=data, world_size=3, accumulate_grad_batches=2)) == 30


class TestAveragedWeights:
    def test_validation_and_best_checkpoint_use_the_average(self, command: Command) -> None:
        folder = command("segment", "fit", "--ema_decay=0.5", "--trainer.limit_train_batches=2")
        checkpoint = load(folder)
        averaged, current = checkpoint["state_dict"], checkpoint["current_model_state"]
        name = "model.decode_head.conv_seg.weight"
        assert not torch.equal(averaged[name], current[name])
        scored = (folder / "summary.json").read_text()
        again = command("segment", "validate", f"--ckpt_path={folder}/checkpoints/best.ckpt")
        validated = json.loads((again / "summary.validate.json").read_text())
        assert validated["val/mIoU"] == pytest.approx(json.loads(scored)["val/mIoU"], abs=1e-9)
        kept = SegmentationEvaluation.read(folder / "evaluation.npz")
        assert kept.images == tuple(f"ADE_val_{number:08}.jpg" for number in range(1, 8))
        for name, value in kept.scores().items():
            assert json.loads(scored)[f"val/{name}"] == (None if value != value else value)
        assert (folder / "evaluation.npz").read_bytes() == (again / "evaluation.validate.npz").read_bytes()

    def test_the_average_moves_by_what_the_decay_leaves_and_resumes_exactly(
        self, command: Command, tmp_path: Path
    ) -> None:
        options = ("--ema_decay=0.75", "--model.lr_schedule=Constant", "--trainer.limit_val_batches=0")
        steps = (
            "--trainer.callbacks+=ModelCheckpoint",
            "--trainer.callbacks.every_n_train_steps=1",
            "--trainer.callbacks.save_top_k=-1",
            "--trainer.callbacks.filename={step}",
            f"--trainer.callbacks.dirpath={tmp_path}/steps",
        )
        whole = load(command("detect", "fit", *options, *steps, name="whole"))
        one, two = (content_of(tmp_path / "steps" / f"step={step}.ckpt") for step in (1, 2))
        first, second, average = one["current_model_state"], two["current_model_state"], two["state_dict"]
        name = "model.backbone.features.0.0.weight"
        assert not torch.equal(first[name], second[name])
        torch.testing.assert_close(average[name], 0.75 * first[name] + 0.25 * second[name])
        resumed = load(command("detect", "fit", *options, f"--ckpt_path={tmp_path}/steps/step=2.ckpt", name="resumed"))
        for part in ("state_dict", "current_model_state"):
            assert all(torch.equal(whole[part][name], resumed[part][name]) for name in whole[part])


def test_sync_batchnorm_is_plain_on_the_cpu(command: Command, caplog: pytest.LogCaptureFixture) -> None:
    head = '--model.segmentor.decode_head.norm_cfg={"type": "SyncBN", "requires_grad": true}'
    quick = (head, "--trainer.limit_val_batches=0")
    caplog.set_level("INFO")
    folder = command("segment", "fit", "--trainer.sync_batchnorm=true", "--trainer.max_steps=1", *quick)
    shown = caplog.text
    assert "sync_batchnorm needs GPUs" in shown and "SyncBN needs GPUs" in shown
    assert (folder / "checkpoints" / "last.ckpt").exists()


@pytest.mark.slow  # in every run: tests/backbones/test_swin.py
def test_compiled_backbone_gives_the_same_features() -> None:
    torch.manual_seed(0)
    backbone = MobileNetV2(0.25, CoordinateAttention).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone(x)
        backbone.compile(backend="aot_eager")
        found = backbone(x)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_compile_option_compiles_the_backbone(command: Command) -> None:
    """Code is made and run for it, the losses are those of the plain backbone, and the checkpoint is any run's."""
    from torch._inductor import metrics

    two_steps = ("--trainer.limit_train_batches=2", "--trainer.limit_val_batches=0", "--model.lr_schedule=Constant")
    plain = command("detect", "fit", *two_steps, name="plain")
    torch._dynamo.reset()
    made = metrics.generated_kernel_count
    compiled = command("detect", "fit", *two_steps, "--model.compile_backbone=true", name="compiled")
    assert metrics.generated_kernel_count > made
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-2)
    assert load(compiled)["state_dict"].keys() == load(plain)["state_dict"].keys()


class TestPerformance:
    def test_numbers_are_logged(self, trained: Callable[[str], Path]) -> None:
        with (trained("detect") / "metrics.csv").open() as lines:
            rows = [row for row in csv.DictReader(lines) if row["perf/images_per_second"]]
        assert len(rows) == 3
        for row in rows:
            assert float(row["perf/images_per_second"]) > 0 and 0 <= float(row["perf/data_wait"]) <= 1
            assert 0 < float(row["perf/step_p50"]) <= float(row["perf/step_p95"])
            assert float(row["perf/peak_memory_MB"]) > 50

    def test_waiting_is_warned_of_once_with_the_remedy(self) -> None:
        class SlowData:
            num_workers = 3

        class StandIn:
            datamodule = SlowData()

        performance = Performance(10)
        with pytest.warns(UserWarning, match=r"data 50% of the time; raise --data.num_workers \(now 3"):
            performance._warn_of_waiting(StandIn(), 0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            performance._warn_of_waiting(StandIn(), 0.5)
            Performance(10)._warn_of_waiting(StandIn(), 0.1)


def test_auxiliary_losses_of_a_backbone_are_minimised_too(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.setattr(MobileNetV2, "auxiliary_loss", lambda self: torch.tensor(0.5))
    folder = command("detect", "fit", "--trainer.max_steps=1", "--trainer.limit_val_batches=0")
    with (folder / "metrics.csv").open() as lines:
        row = next(csv.DictReader(lines))
    parts = {name: float(value) for name, value in row.items() if name.startswith("train/") and name != "train/loss"}
    assert parts["train/loss_auxiliary"] == 0.5 and len(parts) == 4
    assert float(row["train/loss"]) == pytest.approx(sum(parts.values()))


def test_auxiliary_losses_of_a_backbone_join_the_others(monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> None:
    assert auxiliary_losses(model) == {}
    monkeypatch.setattr(MobileNetV2, "auxiliary_loss", lambda self: torch.tensor(0.5))
    assert {name: value.item() for name, value in auxiliary_losses(model).items()} == {"loss_auxiliary": 0.5}
