"""Every training option does something: each test fails when its option is ignored."""

import csv
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from attention import CoordinateAttention
from backbones import MobileNetV2
from tasks.base import auxiliary_losses
from tasks.callbacks import Performance
from tasks.detectors import FCOS
from tasks.errors import TaskError
from tasks.optimization import ParameterRules, group_table
from tests.tasks.conftest import MAINS, command_arguments

Command = Callable[..., Path]


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as lines:
        return [float(row["train/loss"]) for row in csv.DictReader(lines) if row["train/loss"]]


def load(folder: Path, name: str = "last") -> dict:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


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

    def test_position_tables_do_not_decay(self) -> None:
        module = nn.Module()
        module.relative_position_table = nn.Parameter(torch.zeros(3, 3))
        module.weight = nn.Parameter(torch.zeros(3, 3))
        optimizer = ParameterRules(decay_norms_and_biases=False).build(self.adamw, module, 16)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.05]

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
    """A constant rate from the first step on."""
    return ("--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.05", "--model.lr_schedule.warmup_steps=0")


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
        ("--trainer.precision=bf16-mixed", 0),
        ("--model.parameter_rules.backbone_multiplier=0.0", 1),
        ("--model.parameter_rules.base_batch_size=1", 1),
        ("--model.backbone.norms=eval", 0),
        ("--model.lr_schedule=Constant", 2),
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


def test_deterministic_runs_are_equal(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, **_: asked.append(mode))
    one = load(command("detect", "fit", "--trainer.deterministic=true", name="one"))["state_dict"]
    other = load(command("detect", "fit", "--trainer.deterministic=true", name="other"))["state_dict"]
    assert True in asked
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_accumulation_takes_one_step_for_two_batches(command: Command) -> None:
    options = ("--model.backbone.norms=frozen", "--trainer.max_steps=2", "--trainer.limit_train_batches=4")
    folder = command("segment", "fit", *options, "--data.batch_size=2", "--trainer.accumulate_grad_batches=2")
    assert load(folder)["global_step"] == 2
    assert load(folder)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] == 4


class TestAveragedWeights:
    def test_validation_and_best_checkpoint_use_the_average(self, command: Command) -> None:
        folder = command("segment", "fit", "--ema_decay=0.5", "--trainer.max_epochs=2")
        checkpoint = load(folder)
        averaged, current = checkpoint["state_dict"], checkpoint["current_model_state"]
        name = "model.decode_head.conv_seg.weight"
        assert not torch.equal(averaged[name], current[name])
        scored = (folder / "summary.json").read_text()
        again = command("segment", "validate", f"--ckpt_path={folder}/checkpoints/best.ckpt")
        validated = json.loads((again / "summary.validate.json").read_text())
        assert validated["val/mIoU"] == pytest.approx(json.loads(scored)["val/mIoU"], abs=1e-9)

    def test_resumes_exactly(self, command: Command, tmp_path: Path) -> None:
        options = ("--ema_decay=0.5", "--trainer.max_epochs=2", "--model.lr_schedule.warmup_steps=1")
        steps = (
            "--trainer.callbacks+=ModelCheckpoint",
            "--trainer.callbacks.every_n_train_steps=1",
            "--trainer.callbacks.save_top_k=-1",
            "--trainer.callbacks.filename={step}",
            f"--trainer.callbacks.dirpath={tmp_path}/steps",
        )
        whole = load(command("detect", "fit", *options, *steps, name="whole"))
        resumed = load(command("detect", "fit", *options, f"--ckpt_path={tmp_path}/steps/step=2.ckpt", name="resumed"))
        for part in ("state_dict", "current_model_state"):
            assert all(torch.equal(whole[part][name], resumed[part][name]) for name in whole[part])


def test_sync_batchnorm_is_plain_on_the_cpu(command: Command, caplog: pytest.LogCaptureFixture) -> None:
    head = '--model.segmentor.decode_head.norm_cfg={"type": "SyncBN", "requires_grad": true}'
    caplog.set_level("INFO")
    folder = command("segment", "fit", "--trainer.sync_batchnorm=true", head)
    shown = caplog.text
    assert "sync_batchnorm needs GPUs" in shown and "SyncBN needs GPUs" in shown
    assert (folder / "checkpoints" / "last.ckpt").exists()


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


def test_compile_option_compiles_the_backbone(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(MobileNetV2, "compile", lambda self: calls.append(self))
    command("detect", "fit", "--model.compile_backbone=true")
    assert len(calls) == 1


class TestPerformance:
    def test_numbers_are_logged(self, command: Command) -> None:
        folder = command("detect", "fit")
        with (folder / "metrics.csv").open() as lines:
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


def test_auxiliary_losses_of_a_backbone_join_the_others(monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> None:
    assert auxiliary_losses(model) == {}
    monkeypatch.setattr(MobileNetV2, "auxiliary_loss", lambda self: torch.tensor(0.5))
    assert {name: value.item() for name, value in auxiliary_losses(model).items()} == {"loss_auxiliary": 0.5}
