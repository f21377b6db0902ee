"""What happens around a run: files, pictures, progress, summaries. Tasks know nothing of it."""

from tasks.callbacks.label_map_writer import LabelMapWriter
from tasks.callbacks.performance import Performance
from tasks.callbacks.pictures import DetectionPictures, Pictures, SegmentationPictures
from tasks.callbacks.prediction_writer import DetectionWriter, PredictionWriter
from tasks.callbacks.progress import choose_progress
from tasks.callbacks.replaced_samples import ReplacedSamples
from tasks.callbacks.report import Report
from tasks.callbacks.step_seed import StepSeed

__all__ = [
    "DetectionPictures",
    "DetectionWriter",
    "LabelMapWriter",
    "Performance",
    "Pictures",
    "PredictionWriter",
    "ReplacedSamples",
    "Report",
    "SegmentationPictures",
    "StepSeed",
    "choose_progress",
]
