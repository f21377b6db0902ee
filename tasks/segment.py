"""`python -m tasks.segment {fit,validate,test,predict} --config FILE`: semantic segmentation on ADE20K and its like."""

from datamodules import ADE20K
from tasks.callbacks import LabelMapWriter, SegmentationPictures
from tasks.cli import VisionCLI
from tasks.command_line import run
from tasks.segmentation import SegmentationTask


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    reports = {"pictures": SegmentationPictures}
    run(lambda: VisionCLI("segment", SegmentationTask, ADE20K, reports, LabelMapWriter, args))


if __name__ == "__main__":
    main()
