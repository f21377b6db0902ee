"""Metrics over a whole data set: COCO detection scores and segmentation IoU, equal for any number of processes."""

from tasks.metrics.coco import RLE, COCODetectionMetric, GroundTruth, Prediction
from tasks.metrics.confusion import SegmentationMetric

__all__ = ["RLE", "COCODetectionMetric", "GroundTruth", "Prediction", "SegmentationMetric"]
