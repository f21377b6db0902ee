"""Typical mistakes of a newcomer: each ends in one line that says what to write instead, and with exit code 2."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tasks.run import exit_codes
from tests.tasks.conftest import MAINS, command_arguments

ROOT = Path(__file__).parents[2]
Refusal = Callable[..., str]


@pytest.fixture
def refusal(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refusal:
    """The one line with which a command line is refused, run in a folder that has the recipes and the sample data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shapes").symlink_to(shapes)
    (tmp_path / "no.ckpt.json").write_text("{}")
    (tmp_path / "number.yaml").write_text("trainer: 3\n")

    def refuse(line: str) -> str:
        task, *arguments = line.split()
        with pytest.raises(SystemExit) as end:
            MAINS[task](arguments)
        shown = capsys.readouterr()
        *notes, last = shown.err.splitlines()
        assert end.value.code == exit_codes.MISTAKE
        assert not any(re.search(r"Traceback|usage:|^error", note) for note in notes), shown.err
        assert len(last) < 420 and not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
        return last

    return refuse


FIT = "detect fit --config configs/detect/quickstart.yaml"
SEGMENT = "segment fit --config configs/segment/quickstart.yaml"

MISTAKES = {
    # commands and files
    "detect": "error: expected a command first, fit, validate, test or predict: fit --config configs/.../NAME.yaml",
    "detect train --config configs/detect/quickstart.yaml": "error: train is no command; here it is fit",
    "detect fit": (
        "error: --model.backbone, --model.detector and --data not given; a recipe gives them: --config "
        "configs/.../NAME.yaml"
    ),
    "detect fit configs/detect/quickstart.yaml": (
        "error: 'configs/detect/quickstart.yaml' stands alone; a configuration is given as --config "
        "configs/detect/quickstart.yaml"
    ),
    "detect fit --config": "error: --config stands without a file; expected one such as configs/detect/quickstart.yaml",
    "detect fit --config quickstart": (
        "error: --config: no file quickstart; did you mean configs/detect/quickstart.yaml or "
        "configs/segment/quickstart.yaml?"
    ),
    "detect fit --config configs/detect/quikstart.yaml": (
        "error: --config: no file configs/detect/quikstart.yaml; did you mean configs/detect/quickstart.yaml?"
    ),
    "detect fit --config configs/detect": (
        "error: --config configs/detect is a folder; expected a file, such as configs/detect/quickstart.yaml"
    ),
    "detect fit --config configs/detect/*.yaml": (
        "error: --config: no file configs/detect/*.yaml; expected the name of one file"
    ),
    "detect predict --data.images data/shapes": "error: no recipe given; add --config RUN/config.fit.yaml",
    "detect predict --ckpt_path best": (
        "error: --model.backbone, --model.detector and --data not given; a recipe gives them: --config "
        "RUN/config.fit.yaml"
    ),
    "detect validate --ckpt_path nosuch.ckpt --data.root data/shapes/coco": (
        "error: no checkpoint at nosuch.ckpt; --ckpt_path expects a file such as RUN/checkpoints/last.ckpt"
    ),
    "detect fit --config configs/segment/quickstart.yaml": (
        "error: configs/segment/quickstart.yaml is a configuration of tasks.segment: python -m tasks.segment fit "
        "--config configs/segment/quickstart.yaml"
    ),
    "segment fit --config configs/detect/quickstart.yaml": (
        "error: configs/detect/quickstart.yaml is a configuration of tasks.detect: python -m tasks.detect fit "
        "--config configs/detect/quickstart.yaml"
    ),
    "detect fit --config configs/backbones/resnet50.yaml": (
        "error: configs/backbones/resnet50.yaml describes one class, backbones.ResNet; give it to the option that "
        "takes the class: --model.backbone configs/backbones/resnet50.yaml"
    ),
    "detect fit --config configs/sweeps/two_attentions.yaml": (
        "error: configs/sweeps/two_attentions.yaml is a sweep, not a recipe; it is run by: python -m tasks.sweep "
        "configs/sweeps/two_attentions.yaml"
    ),
    # names of options
    f"{FIT} --epochs 3": "error: --epochs is no option; here it is --trainer.max_epochs",
    f"{FIT} --lr 0.1": "error: --lr is no option; did you mean --model.optimizer.lr?",
    f"{FIT} --batch-size 4": "error: --batch-size is no option; did you mean --data.batch_size?",
    f"{FIT} --trainer.gpus 1": "error: --trainer.gpus is no option; here it is --trainer.devices",
    f"{FIT} --device cuda": "error: --device is no option; here it is --trainer.accelerator",
    f"{FIT} --freeze 2": "error: --freeze is no option; here it is --host.frozen_stages",
    f"{FIT} -trainer.max_epochs 3": "error: -trainer.max_epochs is no option; did you mean --trainer.max_epochs?",
    f"{FIT} trainer.max_epochs=3": (
        "error: 'trainer.max_epochs' stands alone; an option begins with two dashes: --trainer.max_epochs"
    ),
    f"{FIT} ++trainer.max_epochs=3": (
        "error: '++trainer.max_epochs' stands alone; an option begins with two dashes: --trainer.max_epochs"
    ),
    f"{FIT} \N{EM DASH}trainer.max_epochs 3": (
        "error: '\N{EM DASH}trainer.max_epochs' stands alone; an option begins with two dashes: --trainer.max_epochs"
    ),
    f"{FIT} --host.droppath 0.1": "error: --host.droppath is no option; did you mean --host.drop_path?",
    f"{FIT} --model.optimzer SGD": "error: --model.optimzer is no option; did you mean --model.optimizer?",
    f"{FIT} --wandb.projct x": "error: --wandb.projct is no option; did you mean --wandb.project?",
    f"{FIT} --config-name x": "error: --config-name is no option; here it is --config configs/.../NAME.yaml",
    f"{FIT} --cfg-options x=1": (
        "error: --cfg-options is no option; here it is the option itself: --data.batch_size 4"
    ),
    f"{FIT} --work-dir x": ("error: --work-dir is no option; here it is --runs, the folder of all runs, or --name"),
    f"{FIT} --multirun": (
        "error: --multirun is no option; here it is a sweep: python -m tasks.sweep configs/sweeps/NAME.yaml"
    ),
    f"{FIT} --local_rank 0": (
        "error: --local_rank is no option; here it is given by torchrun or srun (docs/cluster.md)"
    ),
    f"{FIT} --model.num_classes 3": (
        "error: --model.num_classes is no option; here it is --data.class_names; the classes are read from the data set"
    ),
    f"{FIT} --model.segmentor pspnet": (
        "error: --model.segmentor is an option of tasks.segment: python -m tasks.segment fit --model.segmentor"
    ),
    f"{FIT} --model.backbone.atention CBAM": (
        "error: --model.backbone.atention is no option of backbones.MobileNetV2; did you mean "
        "--model.backbone.attention?"
    ),
    # values
    f"{FIT} --model.backbone.attention none": (
        "error: --model.backbone.attention is 'none', expected a class (--model.backbone.attention.help lists them); "
        "nothing is written null: --model.backbone.attention null"
    ),
    f"{FIT} --name None": "error: --name is 'None'; nothing is written null: --name null",
    f"{FIT} --model.backbone.attention SE": (
        "error: --model.backbone.attention SE cannot be found; did you mean SqueezeExcitation?"
    ),
    f"{FIT} --model.backbone.attention HaloAttention": (
        "error: --model.backbone.attention HaloAttention: HaloAttention replaces convolutions, so it is given as "
        "--model.backbone.mixer HaloAttention"
    ),
    f"{FIT} --model.backbone resnet_50": (
        "error: --model.backbone resnet_50 cannot be found; did you mean backbones.resnet50?"
    ),
    f"{FIT} --model.backbone my_package.MyNet": (
        "error: --model.backbone my_package.MyNet cannot be found (No module named 'my_package'); a module of "
        "your own is looked for in the folder where you are and in those of PYTHONPATH"
    ),
    f"{FIT} --model.backbone.attention_stages 3,4": (
        "error: --model.backbone.attention_stages is '3,4', expected a list such as [3,4]; write [3,4]"
    ),
    f"{FIT} --model.backbone.attention_stages [3, 4]": (
        "error: --model.backbone.attention_stages is '[3,', expected a list such as [3,4]; write a list without "
        "spaces, or in quotes"
    ),
    f"{FIT} --model.optimizer adamw": "error: --model.optimizer adamw cannot be found; did you mean AdamW?",
    f"{FIT} --model.optimizer.lr fast": ("error: --model.optimizer.lr is 'fast', expected a number or Tensor"),
    f"{FIT} --trainer.max_epochs ten": "error: --trainer.max_epochs is 'ten', expected an integer or null",
    f"{FIT} --trainer.max_epochs -5": "error: --trainer.max_epochs is -5, expected at least 0, or -1 for no limit",
    f"{FIT} --trainer.precision fp16": (
        "error: --trainer.precision is 'fp16', expected bf16-mixed, 16-mixed, 32-true or 64-true; here fp16 is 16-mixed"
    ),
    f"{FIT} --data.batch_size 2.5": "error: --data.batch_size is '2.5', expected an integer",
    f"{FIT} --wandb false": (
        "error: --wandb false is no file of options; --wandb.help lists its options; to switch it off: "
        "--wandb.mode disabled"
    ),
    f"{SEGMENT} --model.segmentor upernett": "error: --model.segmentor upernett cannot be found; did you mean upernet?",
    f"{FIT} --model.backbone.attention.nosuch {{}}": (
        "error: --model.backbone.attention.nosuch is no option of attention.CoordinateAttention; known: reduction, "
        "min_channels, directions"
    ),
    f"{FIT} --config number.yaml": (
        "error: number.yaml: trainer is 3, expected options such as `trainer: {NAME: VALUE}`"
    ),
    f"{FIT} --data.pipeline.height 160,160": "error: --data.pipeline.height is '160,160', expected an integer",
    f"{FIT} --trainer.callbacks EarlyStopping": (
        "error: lightning.pytorch.callbacks.EarlyStopping needs --trainer.callbacks.monitor"
    ),
    f"{FIT} --model.optimizer torch.optim.Adamw": (
        "error: --model.optimizer torch.optim.Adamw cannot be found (module 'torch.optim' has no attribute 'Adamw'); "
        "did you mean AdamW?"
    ),
    f"{FIT} --model.optimizer torch.nn.Linear": (
        "error: --model.optimizer torch.nn.Linear is no Optimizer; --model.optimizer.help lists all"
    ),
    f"{FIT} --data null --data.root data/shapes/coco": (
        "error: --data is null, expected a class (--data.help lists them)"
    ),
    f"{FIT} --data.pipeline RandomRatioCrop": (
        "error: --data.pipeline RandomRatioCrop belongs to tasks.segment; --data.pipeline.help lists what fits here"
    ),
    f"{SEGMENT} --data.pipeline FixedSize": (
        "error: --data.pipeline FixedSize belongs to tasks.detect; --data.pipeline.help lists what fits here"
    ),
    f"{FIT} --launcher pytorch": (
        "error: --launcher is no option; here it is torchrun or srun in front of the command (docs/cluster.md)"
    ),
    f"{FIT} --model.lr_schedule null": (
        "error: --model.lr_schedule is null, expected a class (--model.lr_schedule.help lists them)"
    ),
    f"{FIT} --model.backbone null": (
        "error: --model.backbone is null, expected a class (--model.backbone.help lists them)"
    ),
    f"{FIT} --model.parameter_rules 3": (
        "error: --model.parameter_rules 3 is no file of options; --model.parameter_rules.help lists its options"
    ),
    f"{FIT} --model.backbone CBAM": (
        "error: --model.backbone CBAM: CBAM refines the maps behind convolutions, so it is given as "
        "--model.backbone.attention CBAM"
    ),
    f"{SEGMENT} --model.windows.size 512": (
        "error: --model.windows.size is for detectors; for windows in tasks.segment: --model.segmentor.inference "
        "SlideInference"
    ),
    f"{FIT} --trainer.strategy ddpstrategy": (
        "error: --trainer.strategy is 'ddpstrategy', expected auto, ddp, fsdp or another of Lightning's names"
    ),
    f"{FIT} --trainer.max_time 1h": (
        "error: --trainer.max_time is '1h', expected DD:HH:MM:SS; one hour is 00:01:00:00"
    ),
    f"{FIT} --host.weights imagnet": (
        "error: weights imagnet: no such file, and timm has no network of that name; did you mean imagenet?"
    ),
    # numbers out of range
    f"{FIT} --seed_everything -1": "error: --seed_everything is -1, expected 0 to 4294967295",
    f"{FIT} --save_every_n_steps 0": "error: --save_every_n_steps is 0, expected at least 1, or null",
    f"{FIT} --save_every_n_minutes -1": "error: --save_every_n_minutes is -1.0, expected at least 0, or null",
    f"{FIT} --stop_within -1": "error: --stop_within is -1.0, expected at least 0",
    f"{FIT} --skip_bad_steps -1": "error: --skip_bad_steps is -1, expected at least 0",
    f"{FIT} --ema_decay 5": "error: --ema_decay is 5.0, expected 0 to 1, such as 0.999",
    f"{FIT} --pictures.images -1": "error: --pictures.images is -1, expected at least 0",
    f"{FIT} --host.drop_path 2": "error: --host.drop_path is 2.0, expected 0 to 1",
    f"{FIT} --trainer.accumulate_grad_batches 0": (
        "error: --trainer.accumulate_grad_batches is 0, expected at least 1"
    ),
    f"{FIT} --trainer.gradient_clip_val -1": "error: --trainer.gradient_clip_val is -1, expected at least 0, or null",
    f"{FIT} --trainer.check_val_every_n_epoch 0": (
        "error: --trainer.check_val_every_n_epoch is 0, expected at least 1; --trainer.limit_val_batches 0 switches "
        "validation off"
    ),
    f"{FIT} --trainer.val_check_interval 0": (
        "error: --trainer.val_check_interval is 0, expected a number of batches, or a share of an epoch such as 0.25; "
        "--trainer.limit_val_batches 0 switches validation off"
    ),
    f"{FIT} --trainer.val_check_interval 5000 --wandb.mode disabled": (
        "error: --trainer.val_check_interval 5000 is more batches than an epoch has; to count on over epochs add "
        "--trainer.check_val_every_n_epoch null (after step 0)"
    ),
    f"{FIT} --model.parameter_rules.base_batch_size 0": (
        "error: --model.parameter_rules.base_batch_size is 0, expected at least 1, or null"
    ),
    f"{FIT} --model.parameter_rules.layer_decay 1.5": (
        "error: --model.parameter_rules.layer_decay is 1.5, expected above 0 and at most 1"
    ),
    f"{FIT} --model.detector.channels 0": (
        "error: channels is 0, expected a multiple of 32: the head has 32 normalisation groups"
    ),
    f"{FIT} --model.detector.num_convs -1": "error: num_convs is -1, expected at least 0",
    f"{FIT} --model.detector.coarsest_stride 48": (
        "error: coarsest_stride is 48, expected a power of two such as 8 or 128"
    ),
    f"{FIT} --model.detector.score_threshold 2": "error: score_threshold is 2.0, expected 0 to 1",
    f"{FIT} --model.detector.nms_threshold 5": "error: nms_threshold is 5.0, expected 0 to 1",
    f"{FIT} --model.detector.max_detections -1": "error: max_detections is -1, expected at least 1",
    f"{FIT} --model.lr_schedule.warmup_steps -1": "error: warmup_steps is -1, expected at least 0",
    f"{FIT} --model.lr_schedule.warmup_factor 5": "error: warmup_factor is 5.0, expected 0 to 1",
    f"{FIT} --model.lr_schedule Polynomial --model.lr_schedule.power -1": "error: power is -1.0, expected at least 0",
    f"{FIT} --model.lr_schedule MultiStep --model.lr_schedule.milestones [11,8]": (
        "error: milestones is [11.0, 8.0], expected rising numbers such as [8,11]"
    ),
    f"{FIT} --model.optimizer.lr -1": (
        "error: --model.optimizer: Invalid learning rate: -1.0; see --model.optimizer.help"
    ),
    f"{FIT} --model.optimizer.weight_decay null": (
        "error: --model.optimizer.weight_decay is null, expected a value such as 0.01"
    ),
    f"{FIT} --model.optimizer.betas null": (
        "error: --model.optimizer.betas is null, expected a value such as [0.9, 0.999]"
    ),
    f"{FIT} --model.optimizer LBFGS": (
        "error: --model.optimizer: LBFGS doesn't support per-parameter options (parameter groups); see "
        "--model.optimizer.help"
    ),
    # classes that do not fit
    f"{FIT} --pictures SegmentationPictures": (
        "error: --pictures SegmentationPictures belongs to tasks.segment; --pictures.help lists what fits here"
    ),
    f"{FIT} --pictures Pictures": (
        "error: --pictures Pictures is the base of what can be named; --pictures.help lists that"
    ),
    f"{FIT} --reports+=Report": "error: --reports Report is the base of what can be named; --reports.help lists that",
    f"{FIT} --model.lr_schedule Schedule": (
        "error: --model.lr_schedule Schedule is the base of what can be named; --model.lr_schedule.help lists that"
    ),
    f"{SEGMENT} --writer DetectionWriter": (
        "error: --writer DetectionWriter belongs to tasks.detect; --writer.help lists what fits here"
    ),
    f"{FIT} --data shapes_segment": (
        "error: --data ADE20K reads label masks, and tasks.detect needs boxes (COCO); for label masks: python -m "
        "tasks.segment"
    ),
    # data, checkpoints and runs
    f"{FIT} --name ../up": "error: --name is '../up', expected a name such as first or sweep/first",
    f"{FIT} --name=": "error: --name is '', expected a name such as first or sweep/first",
    f"{FIT} --runs null": "error: --runs is null, expected a folder; leave it out for runs",
    f"{FIT} --runs number.yaml": (
        "error: --runs number.yaml: number.yaml/detect/quickstart leads through a file; expected a folder"
    ),
    f"{FIT} --ckpt_path no.ckpt.json": (
        "error: no.ckpt.json is damaged or no checkpoint (BadZipFile); expected a checkpoint such as "
        "RUN/checkpoints/best.ckpt or last.ckpt"
    ),
    f"{FIT} --data.root nowhere": (
        "error: --data.root nowhere: no such folder; give that of the data set, or write the sample data set "
        "with: python -m datamodules.shapes --root data/shapes"
    ),
    f"{FIT} --data.root data/shapes": (
        "error: --data.root data/shapes is the folder above the data set; give --data.root data/shapes/coco"
    ),
    f"{FIT} --data.root data/shapes/coco/annotations/instances_train2017.json": (
        "error: --data.root data/shapes/coco/annotations/instances_train2017.json is a file; expected the folder "
        "of the data set, which holds annotations/instances_val2017.json"
    ),
    f"{SEGMENT} --data.root nowhere": (
        "error: --data.root nowhere: no such folder; give that of the data set, or write the sample data set "
        "with: python -m datamodules.shapes --root data/shapes"
    ),
    f"{FIT} --resume": "error: --resume stands without a value; expected auto, never, must or null",
    f"{FIT} --resume runs/detect/first": (
        "error: --resume is 'runs/detect/first', expected auto, never, must or null; which run goes on is said by "
        "--name"
    ),
    f"{FIT} --resume must --name first": (
        "error: --resume must: there is no run in runs/detect/first; give its --name, or leave --resume out"
    ),
    f"{FIT} --ckpt_path no.ckpt": (
        "error: no checkpoint at no.ckpt; --ckpt_path expects a file such as RUN/checkpoints/last.ckpt"
    ),
    f"{FIT} --model.weights no.pth": (
        "error: no.pth does not exist; expected a checkpoint such as RUN/checkpoints/best.ckpt or last.ckpt"
    ),
    "detect validate --config configs/detect/quickstart.yaml": (
        "error: validate without weights would score a network that has learnt nothing; give --ckpt_path FILE, such as "
        "RUN/checkpoints/best.ckpt"
    ),
    # the machine
    f"{FIT} --trainer.accelerator gpu": (
        "error: --trainer.accelerator gpu: PyTorch sees no GPU here (torch.cuda.is_available() is false); leave "
        "it out to train on the CPU, or see `nvidia-smi` and which build of torch is installed"
    ),
    f"{FIT} --trainer.devices 2,3": (
        "error: --trainer.devices 2,3 names GPUs, and PyTorch sees none here; on the CPU it is a number of processes"
    ),
    f"{FIT} --trainer.devices -1": (
        "error: --trainer.devices -1 is all GPUs, and PyTorch sees none here; on the CPU it is a number of processes"
    ),
    f"{FIT} --trainer.devices two": (
        "error: --trainer.devices is 'two', expected auto, a number, or GPUs such as [0,1]"
    ),
    f"{FIT} --trainer.logger MLFlowLogger": (
        "error: --trainer.logger MLFlowLogger needs the package mlflow; install it: pip install mlflow"
    ),
    f"{FIT} --trainer.callbacks+=LearningRateFinder": (
        "error: --trainer.callbacks LearningRateFinder sets one rate for all parameter groups, and the schedule takes "
        "it back at its next step; look for a rate before the run: python -m tasks.find lr RECIPE"
    ),
    f"{FIT} --trainer.callbacks+=BatchSizeFinder": (
        "error: --trainer.callbacks BatchSizeFinder changes the batch after rate, schedule and order of images were "
        "made for another; look for a batch before the run: python -m tasks.find batch_size RECIPE"
    ),
    # watched scores
    f"{FIT} --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val/map": (
        "error: --trainer.callbacks.monitor val/map (EarlyStopping) is not logged; did you mean val/mAP?"
    ),
    f"{FIT} --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val/mAP": (
        "error: --trainer.callbacks.monitor val/mAP (EarlyStopping) is better the larger it is; add "
        "--trainer.callbacks.mode max"
    ),
    f"{FIT} --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val/loss": (
        "error: --trainer.callbacks.monitor val/loss (EarlyStopping): the validation's loss is logged with "
        "--model.validation_loss true only"
    ),
}
"""Command line: the line that it ends with."""
ON_CPU_ONLY = ("accelerator gpu", "devices 2,3", "devices -1")


@pytest.mark.parametrize("command", MISTAKES)
def test_mistake(command: str, refusal: Refusal) -> None:
    if any(option in command for option in ON_CPU_ONLY) and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    if "MLFlowLogger" in command and find_spec("mlflow"):
        pytest.skip("mlflow is installed")
    assert refusal(command) == MISTAKES[command]


def test_weights_of_the_other_task(trained: Callable[[str], Path], refusal: Refusal) -> None:
    file = trained("segment") / "checkpoints" / "best.ckpt"
    assert refusal(f"{FIT} --model.weights {file}") == (
        f"error: --model.weights {file} is a segmentor's; for its backbone alone: --model.backbone.weights {file}"
    )


def test_checkpoint_of_the_other_task(
    trained: Callable[[str], Path], shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = trained("segment") / "checkpoints" / "best.ckpt"
    with pytest.raises(SystemExit) as end:
        MAINS["detect"]([*command_arguments("detect", "validate", shapes, tmp_path, "other"), f"--ckpt_path={file}"])
    assert end.value.code == exit_codes.MISTAKE
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {file} is the checkpoint of tasks.segment: python -m tasks.segment; this one has no model option "
        "'boundary_width'"
    )
