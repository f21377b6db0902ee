"""`python -m tasks.detect {fit,validate,test,predict} --config FILE`: object detection on COCO and its like."""

from datamodules import COCO
from tasks.callbacks import DetectionPictures, DetectionWriter
from tasks.cli import VisionCLI
from tasks.command_line import run
from tasks.detection import DetectionTask


def command_line(args: list[str] | None = None, task: type[DetectionTask] = DetectionTask) -> VisionCLI:
    """Carries the command out; what ends it before its end is raised.

    Args:
        args: Arguments; default: those of the process.
        task: A task of your own, with other metrics say.
    """
    return VisionCLI("detect", task, COCO, {"pictures": DetectionPictures}, DetectionWriter, args)


def main(args: list[str] | None = None, task: type[DetectionTask] = DetectionTask) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
        task: A task of your own, with other metrics say.
    """
    run(lambda: command_line(args, task))


if __name__ == "__main__":
    main()
