"""`python -m tasks.detect {fit,validate,test,predict} --config FILE`: object detection on COCO and its like."""

from datamodules import COCO
from tasks.callbacks import DetectionPictures, DetectionWriter
from tasks.cli import VisionCLI
from tasks.command_line import run
from tasks.detection import DetectionTask


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    reports = {"pictures": DetectionPictures}
    run(lambda: VisionCLI("detect", DetectionTask, COCO, reports, DetectionWriter, args))


if __name__ == "__main__":
    main()
