"""The command line of a task: LightningCLI with the life of a run, two loggers and the callbacks that every run has."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import lazy_instance
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

import attention  # noqa: F401 - imported so that short class names resolve
import backbones
import datamodules
import tasks.schedules  # noqa: F401
from configs.version import version_line
from tasks.argument_order import in_order
from tasks.assembly import LOG_EVERY, go_on, make_life, make_plugins, take_over, training_callbacks
from tasks.base import VisionTask
from tasks.callbacks import PredictionWriter, Report, choose_progress
from tasks.completion import asked_shell, completion_script
from tasks.detectors.base import learns_masks
from tasks.errors import MachineError, TaskError
from tasks.help_pages import asked_help, help_page
from tasks.host_options import HostOptions, complete_backbone
from tasks.other_names import refuse_none
from tasks.precision import refuse_precision
from tasks.printed import show
from tasks.recipe_parts import with_files
from tasks.refused_options import OptionParser
from tasks.refused_parts import refuse_parts
from tasks.run import exit_codes
from tasks.run.checkpoint_files import BEST, CHECKPOINTS
from tasks.run.checkpoint_options import merge_options
from tasks.run.clock import RunClock
from tasks.run.cluster import check_processes
from tasks.run.ending import Ending
from tasks.run.facts import recipe_name
from tasks.run.folder import Request, evaluation_folder
from tasks.run.job import current_job
from tasks.run.life import EvaluationStop, RunLife
from tasks.run.loggers import assemble_loggers, check_loggers
from tasks.run.monitors import check_monitors
from tasks.run.saved_config import SavedConfig
from tasks.run.start import RunEnded, RunStart, named_checkpoint
from tasks.run.stop import StopRequests, StopRun, listening
from tasks.run.summary import RunSummary
from tasks.run.table import CSVMetrics
from tasks.run.trainer_options import refuse_seed, refuse_trainer_options
from tasks.run.wandb_run import make_wandb_run
from tasks.run_options import RunOptions, add_run_options
from tasks.saved_data import with_checkpoint
from tasks.task_options import TaskOptions, saved_options
from tasks.weights import describe_weights_classes, read_checkpoint

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML has it: the same objects, eight times as fast."""


class VisionCLI(LightningCLI):
    """LightningCLI for one task.

    Args:
        name: `detect` or `segment`: the folder below `runs`.
        task: The LightningModule.
        data: Data module that is used unless the configuration names another.
        reports: Reports that every run has, by the names of their options.
        writer: Callback that writes predictions.
        args: Arguments; default: those of the process.
    """

    config: Any
    model: VisionTask
    subcommand: str

    def __init__(
        self,
        name: str,
        task: type[VisionTask],
        data: type[datamodules.VisionDataModule],
        reports: Mapping[str, type[Report]],
        writer: type[PredictionWriter],
        args: list[str] | None,
    ) -> None:
        self.name, self.task, self.data, self.reports, self.writer = name, task, data, reports, writer
        self.subcommands = partial(_commands, sys.argv[1:] if args is None else args)
        self.job = current_job()
        self.stop, self.clock = StopRequests(), RunClock()
        self.run_start: RunStart | None = None
        self.life: RunLife | None = None
        try:
            with listening(self.stop, leaves=self.job.started_outside):
                super().__init__(
                    task,
                    datamodules.VisionDataModule,
                    subclass_mode_data=True,
                    save_config_callback=None,
                    seed_everything_default=42,
                    auto_configure_optimizers=False,
                    trainer_defaults={"max_epochs": 12, "enable_model_summary": False},
                    parser_kwargs={},
                    parser_class=OptionParser,
                    args=args,
                )
        except BaseException as error:
            self.stop.done()
            Ending(self.name, self.run_start, self.life).failed(error)
            raise

    def __deepcopy__(self, memo: dict[int, Any]) -> "VisionCLI":
        """Itself: a task's optimiser refers to it, and is copied with the task where weights are averaged."""
        return self

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options that every run has, and hands the data set's facts to the model."""
        add_run_options(parser)
        for name, report in self.reports.items():  # another of its kind may take its place
            parser.add_subclass_arguments(report.__base__, name, default=lazy_instance(report))
        parser.add_argument(
            "--reports", type=list[Report], default=[], help="Reports of your own besides: classes derived from Report."
        )
        parser.add_subclass_arguments(PredictionWriter, "writer", default=lazy_instance(self.writer))
        for fact in ("class_names", "category_ids", "image_size"):
            if fact != "category_ids" or self.name == "detect":
                parser.link_arguments(f"data.{fact}", f"model.{fact}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=_integer_seed)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})  # a checkpoint is data, never code
        if subcommand == "predict":
            parser.set_defaults({"return_predictions": False})  # they are written; nobody takes them from here
        return parser

    def _set_seed(self) -> None:
        """Seeds everything, once the seed is one."""
        refuse_seed(self.config[self.subcommand].seed_everything)
        super()._set_seed()

    def _parse_ckpt_path(self) -> None:
        """Nothing yet: which checkpoint it is, is known when the run folder is."""

    def before_instantiate_classes(self) -> None:
        """Claims the run folder, chooses the checkpoint, and lets that decide about the model."""
        config = self.config[self.subcommand]
        self._stop_if_asked()
        refuse_parts(self.name, config)
        RunOptions.of(config)
        if isinstance(config.trainer.callbacks, Mapping) or hasattr(config.trainer.callbacks, "class_path"):
            config.trainer.callbacks = [config.trainer.callbacks]
        refuse_trainer_options(config.trainer, self.job)
        refuse_precision(config.trainer.precision, fits=self.subcommand == "fit")
        check_loggers(config.trainer.logger)
        config = self._complete_backbone()
        self.stop.seconds = config.stop_within
        request = self._request(config)
        if self.subcommand == "fit" and not config.trainer.fast_dev_run:
            self.run_start = RunStart(request, self.job, self._plain(config), config.new_schedule)
            self.run_folder, chosen = self.run_start.folder, self.run_start.start.checkpoint
            checkpoint = None if chosen is None else Path(chosen)
            if self.run_start.start.finished is not None:
                rank_zero_info(self.run_start.start.finished)
                raise RunEnded(self.run_folder, exit_codes.FINISHED)
        else:
            self.run_folder, checkpoint = evaluation_folder(request, self.job), request.checkpoint
            if self.subcommand != "fit" and checkpoint is None and config.model.weights is None:
                raise TaskError(self._without_weights(request))
        if config.trainer.sync_batchnorm and not trains_on_gpu(config.trainer.accelerator):
            rank_zero_info("sync_batchnorm needs GPUs; on the CPU every process keeps its own batch norm statistics")
            config.trainer.sync_batchnorm = False
        config.ckpt_path = None if checkpoint is None else str(checkpoint)
        content = {} if checkpoint is None else read_checkpoint(checkpoint)
        if checkpoint is not None:
            self._take_options_of(checkpoint, content)
        self._ask_for_targets()
        saved = self.config[self.subcommand].clone()
        saved.ckpt_path = None if self.subcommand == "fit" else saved.ckpt_path
        self.saved_config = self._dump(saved)
        if checkpoint is not None:
            self._take_classes(content.get("hyper_parameters", {}))
        elif self.subcommand == "predict" and config.data.init_args.get("images") is not None:
            classes = describe_weights_classes(config.model.weights)
            if classes is not None and config.data.init_args.class_names is None:
                self._take_classes({"class_names": classes.names, "category_ids": classes.category_ids})

    def _complete_backbone(self) -> Any:
        """Fills in what the recipe asks of the chosen backbone."""
        config = self.config[self.subcommand]
        asked = HostOptions(**config.host.as_dict())
        if asked != HostOptions():
            chosen = self._plain(config)["model"]["backbone"]
            keeps = "weights" in self._explicit.get("backbone", {}).get("init_args", {})
            backbone = complete_backbone(asked, chosen, self._explicit, self._arguments)
            if config.model.weights is not None and not keeps:  # which hold the backbone's, too
                backbone["init_args"]["weights"] = None
            self.config = self.parser.parse_object({self.subcommand: {"model": {"backbone": backbone}}}, self.config)
        return self.config[self.subcommand]

    @cached_property
    def _explicit(self) -> dict[str, Any]:
        """What has been written down of the model, in files or on the command line, or filled in by the recipe."""
        config = self.config[self.subcommand]
        arguments = [*self._arguments, f"--seed_everything={config.seed_everything}"]  # a link needs it
        model = self.parser.parse_args(arguments, defaults=False)[self.subcommand].get("model")
        explicit: dict[str, Any] = {} if model is None else model.as_dict()
        return explicit

    def _request(self, config: Any) -> Request:
        first_config = Path(str(config.config[0])) if config.get("config") else None
        command = tuple(map(str, self._arguments))
        request = Request(self.name, config.runs, config.name, first_config, None, config.get("resume"), command)
        if config.get("ckpt_path"):
            return replace(request, checkpoint=named_checkpoint(request, self.job, str(config.ckpt_path)))
        return request

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Remembers the arguments, with the files of named parts, and what a checkpoint alone says, in their places."""
        arguments = sys.argv[1:] if args is None else args
        self._answer(parser, arguments)
        self._arguments = with_checkpoint(with_files(in_order(arguments)), self.name)
        refuse_none(self._arguments)
        super().parse_arguments(parser, self._arguments)

    def _answer(self, parser: LightningArgumentParser, arguments: Sequence[str]) -> None:
        """Prints what the command line asks for, and ends, where it asks for something else than a run."""
        if "--version" in arguments:
            answer = version_line()
        elif (shell := asked_shell(arguments)) is not None:
            answer = completion_script(parser._subcommands_action.choices, self.name, shell)
        elif asked_help(arguments):
            answer = help_page(
                parser, f"tasks.{self.name}", arguments, {"data": self.data, "model.backbone": backbones.ResNet}
            )
        else:
            return
        show(answer)
        raise SystemExit(0)

    def _plain(self, config: Any) -> dict[str, Any]:
        """The configuration as plain data."""
        plain: dict[str, Any] = yaml.load(self._dump(config), Loader=YAML_LOADER)
        return plain

    def _dump(self, config: Any) -> str:
        parser = self._parser(self.subcommand)
        return str(parser.dump(config, skip_none=False, skip_link_targets=True, skip_validation=True))

    def _without_weights(self, request: Request) -> str:
        best = evaluation_folder(request, self.job) / CHECKPOINTS / BEST
        remedy = f"--ckpt_path {best}" if best.is_file() else "--ckpt_path FILE, such as RUN/checkpoints/best.ckpt"
        return f"{self.subcommand} without weights would score a network that has learnt nothing; give {remedy}"

    def _take_options_of(self, checkpoint: Path, content: Mapping[str, Any]) -> None:
        """Lets a checkpoint decide about the model, and says what it overrules."""
        subcommand = self.subcommand
        config = self.config[subcommand]
        saved = saved_options(content, checkpoint, self.task.options_class)
        merged, overruled = merge_options(saved, self._plain(config)["model"], self._explicit, config.new_schedule)
        if overruled:
            rank_zero_info(f"{checkpoint} decides about the model, not the command line: {'; '.join(overruled)}")
        self.config = self.parser.parse_object({subcommand: {"model": merged}}, self.config)

    def _ask_for_targets(self) -> None:
        """Has the data module read masks where the detector learns them, and what losses need where they are wanted."""
        config = self.config[self.subcommand]
        if self.name == "detect" and "masks" in config.data.init_args and learns_masks(config.model.detector):
            config.data.init_args.masks = True
        if config.model.validation_loss and "training_targets" in config.data.init_args:
            config.data.init_args.training_targets = True

    def _take_classes(self, facts: Mapping[str, Any]) -> None:
        """Hands the classes of a model to the data module, which maps the data set's to them by name."""
        config = self.config[self.subcommand]
        for fact in ("class_names", "category_ids") if self.name == "detect" else ("class_names",):
            if fact in facts:
                config.data.init_args[fact] = facts[fact]

    def _add_instantiators(self) -> None:
        # Lightning's dump the whole configuration for `save_hyperparameters`; a task keeps its options by itself.
        self.parser.add_instantiator(self._build_task, self.task.options_class, subclasses=False)

    def _build_task(
        self, options: type[TaskOptions], applied_instantiation_links: Mapping[str, Any], **values: Any
    ) -> VisionTask:
        """Makes the task of its options, and lets it keep them as they are written."""
        task = self.task(options(**values))
        linked = {name.removeprefix("model."): value for name, value in applied_instantiation_links.items()}
        task.saved_options = self._plain(self.config[self.subcommand])["model"] | linked
        return task

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer; what a constructor refuses is the user's to correct."""
        try:
            super().instantiate_classes()
        except (datamodules.DataError, TaskError, MachineError):
            raise
        except (ValueError, RuntimeError) as error:  # RuntimeError: weights that cannot be downloaded
            raise TaskError(str(error)) from error
        reads_classes = self.subcommand != "predict"
        for words in (self.datamodule.class_mapping(), self.datamodule.convention() if reads_classes else None):
            if words:
                rank_zero_info(words)
        take_over(self.trainer, self.life)
        self._stop_if_asked()

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Adds run folder, loggers, callbacks and the cluster to what the configuration says."""
        config = self.config_init[self.subcommand]
        loggers = self._loggers(config)
        own = config.trainer.callbacks or []
        check_monitors(own, self.model.metrics, self.model.validation_losses is not None)
        callbacks = [*own, *self._callbacks(config, has_logger=bool(loggers))]
        trainer = super().instantiate_trainer(
            default_root_dir=self.run_folder,
            logger=loggers,
            callbacks=callbacks,
            plugins=make_plugins(config.trainer.plugins, self.run_start, self.job),
            use_distributed_sampler=False,
            enable_checkpointing=self.life is not None,
            **kwargs,
        )
        check_processes(self.job, trainer.num_devices, trainer.num_nodes)
        return trainer

    def _loggers(self, config: Any) -> list[Any]:
        given = config.trainer.logger
        if config.trainer.fast_dev_run or self.subcommand == "predict":
            return []
        if self.subcommand != "fit":
            return assemble_loggers(given, CSVMetrics(self.run_folder, f"metrics.{self.subcommand}.csv"), None)
        usual = given is None or given is True
        tracker = make_wandb_run(config.wandb, self.name, self.run_folder) if usual else None
        return assemble_loggers(given, CSVMetrics(self.run_folder, clock=self.clock), tracker)

    def _callbacks(self, config: Any, has_logger: bool) -> list[pl.Callback]:
        seed = _integer_seed(config.seed_everything)
        callbacks: list[pl.Callback] = []
        if config.trainer.enable_progress_bar is not False:
            callbacks.append(choose_progress(config.trainer.log_every_n_steps or LOG_EVERY))
        if self.subcommand != "fit":
            callbacks.append(EvaluationStop(self.stop))
        if self.subcommand == "predict":
            return [*callbacks, config.writer]
        if not config.trainer.fast_dev_run:
            continues = self.run_start is not None and self.run_start.start.continues
            recipe = recipe_name(self._request(config).config)
            callbacks.append(SavedConfig(self.saved_config, self.subcommand, continues))
            keeps = config.keep_evaluation
            callbacks.append(RunSummary(self.name, self.subcommand, seed, recipe, keeps, self.clock))
            callbacks += [*(config[name] for name in self.reports), *config.reports]
        if self.subcommand != "fit":
            return callbacks
        saves = config.trainer.enable_checkpointing is not False and not config.trainer.fast_dev_run
        options, headline = RunOptions.of(config), self.model.headline
        self.life = make_life(self.name, self.run_folder, headline, self.stop, self.saved_config, options, saves)
        log_every = (config.trainer.log_every_n_steps or LOG_EVERY) if has_logger else None
        return callbacks + training_callbacks(self.life, seed, options.ema_decay, log_every)

    def before_fit(self) -> None:
        """Lets `metrics.csv` and W&B go on where the checkpoint is."""
        go_on(self.trainer, self.run_start)

    def after_fit(self) -> None:
        """Says how the run has ended."""
        Ending(self.name, self.run_start, self.life).trained(self.trainer)

    def _stop_if_asked(self) -> None:
        if self.stop.signal:
            raise StopRun(self.stop.signal)


def _commands(arguments: Sequence[str]) -> dict[str, set[str]]:
    """The commands that a command line may mean: one where it begins with that; their parsers take long to build."""
    commands = LightningCLI.subcommands()
    return {name: skipped for name, skipped in commands.items() if not {*arguments[:1]} & {*commands} - {name}}


def trains_on_gpu(accelerator: Any) -> bool:
    """Whether Lightning will choose a GPU."""
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())


def _integer_seed(seed: bool | int) -> int:
    """The seed of the data: the given one, or 42 where a random or no seed is asked for."""
    return 42 if isinstance(seed, bool) else seed
