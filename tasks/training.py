"""Training from Python: the runs of the command line, by one call (docs/python.md)."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from lightning.pytorch import Callback, Trainer

from datamodules import VisionDataModule
from datamodules.described import describe
from tasks import detect, segment
from tasks.assembly import LOG_EVERY, go_on, listed, make_life, make_plugins, take_over, training_callbacks
from tasks.base import VisionTask
from tasks.callbacks import choose_progress
from tasks.changed_options import as_arguments
from tasks.command_line import run_within
from tasks.detection import DetectionTask
from tasks.errors import TaskError
from tasks.precision import refuse_precision
from tasks.run.clock import RunClock
from tasks.run.cluster import check_processes
from tasks.run.ending import Ending
from tasks.run.folder import Request, Resume
from tasks.run.job import current_job
from tasks.run.life import RunLife
from tasks.run.loggers import assemble_loggers
from tasks.run.saved_config import SavedConfig
from tasks.run.start import RunEnded, RunStart
from tasks.run.stop import StopRequests, listening
from tasks.run.summary import RunSummary
from tasks.run.table import CSVMetrics
from tasks.run.wandb_run import WandbOptions, make_wandb_run
from tasks.run_options import RunOptions
from tasks.trained_run import TrainedRun

COMMAND_LINES = {"detect": detect.command_line, "segment": segment.command_line}


def fit(
    task: Literal["detect", "segment"],
    config: str | Path | Sequence[str | Path],
    options: Mapping[str, object] | None = None,
) -> TrainedRun:
    """Trains as `python -m tasks.TASK fit --config CONFIG --OPTION VALUE ...` does, in this process.

    Args:
        task: `detect` or `segment`.
        config: A recipe, or the saved configuration of a run; or several files, of which a later one counts more.
        options: Options of the command line by their names, in their order: `{"data.root": "data/shapes/coco",
            "model.backbone.attention": "CBAM", "trainer.max_epochs": 2, "resume": "auto"}`. None is null, a class is
            its name, and `NAME+` adds to a list.

    Returns:
        The run, also where it was finished before, or `trainer.max_time` has ended it.

    Raises:
        TaskError: An option is refused.
        DataError: Something in the data set is not as expected; a `ValueError`, as `TaskError` is.
        KeyboardInterrupt: It was stopped by Ctrl-C, and has saved.
        SystemExit: It was stopped by SIGTERM (143) or SIGUSR1 (138), and has saved.
    """
    if task not in COMMAND_LINES:
        raise TaskError(f"task is {task!r}, expected {' or '.join(COMMAND_LINES)}")
    files = [config] if isinstance(config, str | Path) else config
    arguments = ["fit", *(f"--config={file}" for file in files), *as_arguments(options or {})]
    try:
        return TrainedRun(run_within(lambda: COMMAND_LINES[task](arguments)).run_folder)
    except RunEnded as end:
        return TrainedRun(end.folder)


def train(
    name: str,
    task: VisionTask,
    data: VisionDataModule,
    trainer: "partial[Trainer]",
    resume: Resume = "never",
    runs: str | Path = "runs",
    options: RunOptions | None = None,
    wandb: WandbOptions | None = None,
    reports: Sequence[Callback] = (),
) -> TrainedRun:
    """Trains a task that was made of objects in Python; the run is that of the command line.

    Its folder, checkpoints, tables, stop signals and resuming are the same, and `tasks.compare` ranks it with others.
    Order and augmentation follow from the seed of the data module.

    Args:
        name: Name of the run.
        task: The task.
        data: The data module, of the classes of the task.
        trainer: Lightning's trainer with options of yours: `partial(Trainer, max_epochs=12, precision="bf16-mixed")`.
        resume: `auto` goes on with the run of this name from its newest good checkpoint, if there is one; `must` fails
            if there is none; `never` starts a run of its own.
        runs: Folder of all runs.
        options: What the run does around its steps.
        wandb: Weights & Biases.
        reports: Reports and other callbacks of yours.

    Raises:
        TaskError: Task and data do not fit each other, or there is nothing to resume.
        KeyboardInterrupt: It was stopped by Ctrl-C, and has saved.
        SystemExit: It was stopped by SIGTERM (143) or SIGUSR1 (138), and has saved.
    """
    _check_kinds(task, data, trainer, resume, options, wandb)
    _check_fit(task, data)
    refuse_precision(trainer.keywords.get("precision"), fits=True)
    options = options or RunOptions()
    kind = "detect" if isinstance(task, DetectionTask) else "segment"
    config = {"name": name, "runs": str(runs), **_configuration(task, data, trainer)}
    request = Request(kind, Path(runs), name, resume=resume)
    training = partial(_train, request, task, data, trainer, config, options, wandb or WandbOptions(), reports)
    try:
        return run_within(training)
    except RunEnded as end:
        return TrainedRun(end.folder)


def _train(
    request: Request,
    task: VisionTask,
    data: VisionDataModule,
    trainer: "partial[Trainer]",
    config: dict[str, Any],
    options: RunOptions,
    wandb: WandbOptions,
    reports: Sequence[Callback],
) -> TrainedRun:
    job, stop, clock = current_job(), StopRequests(options.stop_within), RunClock()
    start: RunStart | None = None
    life: RunLife | None = None
    try:
        with listening(stop, leaves=job.started_outside):
            start = RunStart(request, job, config, new_schedule=False)
            if start.start.finished is not None:
                raise RunEnded(start.folder, 0)
            given, text = trainer.keywords, yaml.safe_dump(config, sort_keys=False)
            life = make_life(request.task, start.folder, task.headline, stop, text, options, saves=True)
            table = CSVMetrics(start.folder, clock=clock)
            loggers = assemble_loggers(given.get("logger"), table, make_wandb_run(wandb, request.task, start.folder))
            log_every = given.get("log_every_n_steps") or LOG_EVERY
            made = trainer(
                default_root_dir=start.folder,
                logger=loggers,
                callbacks=[
                    *listed(given.get("callbacks")),
                    choose_progress(log_every),
                    SavedConfig(text, "fit", start.start.continues),
                    RunSummary(request.task, "fit", data.seed, "none", options.keep_evaluation, clock),
                    *reports,
                    *training_callbacks(life, data.seed, options.ema_decay, log_every if loggers else None),
                ],
                plugins=make_plugins(given.get("plugins"), start, job),
                use_distributed_sampler=False,
                enable_model_summary=False,
            )
            check_processes(job, made.num_devices, made.num_nodes)
            take_over(made, life)
            go_on(made, start)
            made.fit(task, data, ckpt_path=start.start.checkpoint, weights_only=True)
            Ending(request.task, start, life).trained(made)
            return TrainedRun(start.folder)
    except BaseException as error:
        stop.done()
        Ending(request.task, start, life).failed(error)
        raise


def _check_kinds(task: object, data: object, trainer: object, resume: object, options: object, wandb: object) -> None:
    """Refuses what is no object of its kind, before anything is made of it."""
    kinds = {
        "task": (task, VisionTask, "DetectionTask(DetectionOptions(...))"),
        "data": (data, VisionDataModule, "datamodules.COCO(...)"),
        "options": (options, RunOptions | None, "tasks.run_options.RunOptions(...)"),
        "wandb": (wandb, WandbOptions | None, 'WandbOptions(mode="disabled")'),
    }
    for name, (value, kind, example) in kinds.items():
        if not isinstance(value, kind):
            raise TaskError(f"{name} is {value!r:.80}, expected an object such as {example}")
    if not (isinstance(trainer, partial) and inspect.isclass(trainer.func) and issubclass(trainer.func, Trainer)):
        raise TaskError(f"trainer is {trainer!r:.80}, expected partial(Trainer, max_epochs=12): the run completes it")
    if "default_root_dir" in trainer.keywords:
        raise TaskError("default_root_dir is the run's own folder; give runs=..., the folder of all runs")
    if resume not in get_args(Resume):
        raise TaskError(f"resume is {resume!r}, expected {', '.join(get_args(Resume))}")


def _check_fit(task: VisionTask, data: VisionDataModule) -> None:
    if task.class_names != data.class_names:
        raise TaskError(
            f"the task has the classes {', '.join(task.class_names[:5])}, ..., the data module "
            f"{', '.join(data.class_names[:5])}, ...; give the task class_names=data.class_names"
        )
    if getattr(task.model, "with_masks", False) and not getattr(data, "masks", True):
        raise TaskError(f"{type(task.model).__name__} learns masks; give the data module masks=True")


def _configuration(task: VisionTask, data: VisionDataModule, trainer: "partial[Trainer]") -> dict[str, Any]:
    """What the run is, in the form of the command line's configuration: objects are the names of their classes."""
    model = {field.name: _shown(getattr(task.options, field.name)) for field in fields(task.options)}
    wanted = data.prediction_options() | {"root": getattr(data, "root", None), "batch_size": data.batch_size}
    try:
        described = describe(data, wanted)
    except ValueError:  # a part of a user's own that is no plain data
        described = {"class_path": f"{type(data).__module__}.{type(data).__qualname__}"}
    options = {"max_epochs": None, "max_steps": -1, **{key: _shown(value) for key, value in trainer.keywords.items()}}
    return {"seed_everything": data.seed, "trainer": options, "model": model | task.saved_options, "data": described}


def _shown(value: object) -> Any:
    """Plain data as it is, and whatever else as the name of its class or function."""
    if isinstance(value, partial):
        return {
            "class_path": _shown(value.func),
            "init_args": {key: _shown(each) for key, each in value.keywords.items()},
        }
    if isinstance(value, list | tuple):
        return [_shown(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _shown(each) for key, each in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    return getattr(value, "__qualname__", type(value).__qualname__)
