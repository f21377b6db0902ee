"""Segmentors: a backbone under MMSegmentation's heads."""

from tasks.segmentors.base import Segmentor, SegmentorBuilder
from tasks.segmentors.encoder_decoder import EncoderDecoder
from tasks.segmentors.inference import Inference, SlideInference, WholeInference

__all__ = ["EncoderDecoder", "Inference", "Segmentor", "SegmentorBuilder", "SlideInference", "WholeInference"]
