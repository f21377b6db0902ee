"""`python -m tasks.detect {fit,validate,test,predict} --config FILE`: object detection on COCO and its like."""

from datamodules import COCO
from tasks.callbacks import DetectionPictures, DetectionWriter
from tasks.cli import VisionCLI
from tasks.command_line import run
from tasks.detection import DetectionTask


def command_line(args: list[str] | None = None) -> VisionCLI:
    """Carries the command out; what ends it before its end is raised.

    Args:
        args: Arguments; default: those of the process.
    """
    return VisionCLI("detect", DetectionTask, COCO, {"pictures": DetectionPictures}, DetectionWriter, args)


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    run(lambda: command_line(args))


if __name__ == "__main__":
    main()
