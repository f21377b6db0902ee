"""The base of everything that shows an evaluation: pictures, and what a user adds with `--reports`."""

from lightning.pytorch import Callback


class Report(Callback):
    """Base of reports, which show an evaluation in files of the run folder (`trainer.default_root_dir`) or in loggers.

    A report of your own is a class derived from this with Lightning's hooks, such as `on_validation_batch_end`, which
    gets the predictions as `outputs`, and `on_validation_end`; its constructor's arguments are its options:
    `--reports+=my_package.MyReport --reports.threshold 0.5`, as often as there are reports. Reports change nothing of a
    run: they may differ when it goes on, and are left out of `fast_dev_run` and `predict`.
    """
