"""Metrics over a whole data set: COCO detection scores and segmentation IoU, equal for any number of processes."""

from tasks.metrics.boundary import BoundaryMetric
from tasks.metrics.coco import RLE, COCODetectionMetric, GroundTruth, Prediction
from tasks.metrics.confusion import SegmentationMetric
from tasks.metrics.named import Metric, NamedMetrics

__all__ = [
    "RLE",
    "BoundaryMetric",
    "COCODetectionMetric",
    "GroundTruth",
    "Metric",
    "NamedMetrics",
    "Prediction",
    "SegmentationMetric",
]
