"""`python -m tasks.segment {fit,validate,test,predict} --config FILE`: semantic segmentation on ADE20K and its like."""

from datamodules import ADE20K
from tasks.callbacks import LabelMapWriter, SegmentationPictures
from tasks.cli import VisionCLI
from tasks.command_line import run
from tasks.segmentation import SegmentationTask


def command_line(args: list[str] | None = None, task: type[SegmentationTask] = SegmentationTask) -> VisionCLI:
    """Carries the command out; what ends it before its end is raised.

    Args:
        args: Arguments; default: those of the process.
        task: A task of your own, with other metrics say.
    """
    return VisionCLI("segment", task, ADE20K, {"pictures": SegmentationPictures}, LabelMapWriter, args)


def main(args: list[str] | None = None, task: type[SegmentationTask] = SegmentationTask) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
        task: A task of your own, with other metrics say.
    """
    run(lambda: command_line(args, task))


if __name__ == "__main__":
    main()
