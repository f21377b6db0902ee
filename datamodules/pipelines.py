"""Augmentation pipelines: one object defines what training draws and what validation sees.

Chosen by `--data.pipeline`, for instance `--data.pipeline FixedSize --data.pipeline.height 320`.
"""

from abc import ABC, abstractmethod

import albumentations as A

from datamodules.errors import DataError
from datamodules.geometry import RatioCrop, ResizeByRatio, ResizeOrCropAndResize, ResizeShorterSide, ScaleJitterCrop
from datamodules.photometric import PhotoMetricDistortion
from datamodules.resampling import Size
from datamodules.zoom_and_crop import ZoomAndCrop


class Pipeline(ABC):
    """What happens to an image between the file and the batch, apart from normalisation.

    Every argument of a constructor stays under its name, so that checkpoints can say how images are prepared
    (`datamodules/described.py`).

    Attributes:
        image_size: Height and width of a typical network input.
        frame: Height and width that every training image is padded to, or None to pad to the largest of the batch.
        test_frame: The same in evaluation.
    """

    image_size: Size
    frame: Size | None = None

    @property
    def test_frame(self) -> Size | None:
        """No frame, unless a pipeline says otherwise."""
        return None

    @property
    def keeps_size(self) -> bool:
        """Whether images of evaluation keep their size, or a share of it, however large that is."""
        return False

    @abstractmethod
    def training(self) -> list[A.BasicTransform]:
        """Random transforms of a training sample."""

    @abstractmethod
    def evaluation(self) -> list[A.BasicTransform]:
        """Transforms of a validation or prediction image: geometry only, no random numbers."""


class DetectionPipeline(Pipeline):
    """A pipeline that keeps boxes aligned; base of those that `datamodules.COCO` takes.

    Of its transforms exactly one moves pixels, a `datamodules.geometry.ResizeAndCrop`: crowd regions and masks follow
    its window. Others may change colours.

    Attributes:
        test_scale: Evaluation resizes an image to so many times its own size, however large that is, for detectors that
            look at it in windows (`--model.windows`); 1 keeps its size. None: to the size of the input.
    """

    test_scale: float | None = None

    @property
    def test_frame(self) -> Size | None:
        """That of training, or none where images keep their sizes."""
        return self.frame if self.test_scale is None else None

    @property
    def keeps_size(self) -> bool:
        """Where `test_scale` says so."""
        return self.test_scale is not None

    def resize_for_test(self, to_input: A.BasicTransform) -> list[A.BasicTransform]:
        """The resize of evaluation: the given one to the size of the input, or by `test_scale`."""
        return [to_input if self.test_scale is None else ResizeByRatio(self.test_scale)]


class SegmentationPipeline(Pipeline):
    """A pipeline that keeps masks aligned; base of those that `datamodules.LabelMasks` takes.

    Evaluation resizes the image only: predictions go back to the original resolution, where the mask is.
    """

    def views(self) -> list[A.BasicTransform]:
        """Transforms of the sizes in which evaluation looks at an image; none where it is one, that of `evaluation`."""
        return []


class ShorterSide(DetectionPipeline):
    """Shorter side to a given length: the input of RetinaNet, FCOS and Faster R-CNN.

    Args:
        shorter: Lengths of the shorter side in pixels; training draws one of them, evaluation takes the largest.
        longest: Limit of the longer side in pixels.
        flip: Probability of a horizontal flip in training.
        photometric: Distort brightness, contrast and colour in training.
        test_scale: Evaluation resizes an image to so many times its own size instead, for detectors that look at it in
            windows (`--model.windows`); 1 keeps its size.
    """

    def __init__(
        self,
        shorter: tuple[int, ...] = (800,),
        longest: int = 1333,
        flip: float = 0.5,
        photometric: bool = False,
        test_scale: float | None = None,
    ) -> None:
        if not shorter:
            raise DataError("shorter is (), expected at least one length in pixels")
        _check_positive(shorter=min(shorter), longest=longest)
        _check_share("flip", flip)
        self.test_scale = _checked_scale(test_scale)
        self.shorter, self.longest, self.flip, self.photometric = list(shorter), longest, flip, photometric
        self.image_size = (max(shorter), longest)

    def training(self) -> list[A.BasicTransform]:
        """Resize, flip, colour."""
        return [ResizeShorterSide(self.shorter, self.longest, self.flip, _colour(self.photometric))]

    def evaluation(self) -> list[A.BasicTransform]:
        """Resize."""
        return self.resize_for_test(ResizeShorterSide([max(self.shorter)], self.longest))


class MultiScaleCrop(DetectionPipeline):
    """Swin's multi-scale training: a resize by the shorter side, or at random a crop between two resizes.

    The recipe of Swin and ELSA-Swin for Mask R-CNN and Cascade Mask R-CNN, 1x and 3x. Evaluation resizes the shorter
    side to the largest length.

    Args:
        shorter: Lengths of the shorter side of the input in pixels; training draws one, evaluation takes the largest.
        longest: Limit of the longer side in pixels.
        before_crop: Lengths of the shorter side that half of the training images get before they are cropped.
        crop: Least and greatest side of the crop in pixels; each side is drawn by itself.
        flip: Probability of a horizontal flip in training.
        photometric: Distort brightness, contrast and colour in training.
        test_scale: Evaluation resizes an image to so many times its own size instead, for detectors that look at it in
            windows (`--model.windows`); 1 keeps its size.
    """

    def __init__(
        self,
        shorter: tuple[int, ...] = tuple(range(480, 801, 32)),
        longest: int = 1333,
        before_crop: tuple[int, ...] = (400, 500, 600),
        crop: tuple[int, int] = (384, 600),
        flip: float = 0.5,
        photometric: bool = False,
        test_scale: float | None = None,
    ) -> None:
        for name, lengths in (("shorter", shorter), ("before_crop", before_crop)):
            if not lengths:
                raise DataError(f"{name} is (), expected at least one length in pixels")
        _check_positive(shorter=min(shorter), longest=longest, before_crop=min(before_crop), crop=min(crop))
        _check_range("crop", crop)
        _check_share("flip", flip)
        self.test_scale = _checked_scale(test_scale)
        self.shorter, self.longest, self.before_crop, self.crop = list(shorter), longest, list(before_crop), crop
        self.flip, self.photometric = flip, photometric
        self.image_size = (max(shorter), longest)

    def training(self) -> list[A.BasicTransform]:
        """One of the two branches, flip, colour."""
        colour = _colour(self.photometric)
        return [ResizeOrCropAndResize(self.shorter, self.longest, self.before_crop, self.crop, self.flip, colour)]

    def evaluation(self) -> list[A.BasicTransform]:
        """Resize."""
        return self.resize_for_test(ResizeShorterSide([max(self.shorter)], self.longest))


class FixedSize(DetectionPipeline):
    """Every input has the same size: the image is fitted into a frame and padded right and bottom.

    Large-scale jitter takes `height: 1024, width: 1024, scale: [0.1, 2.0]`.

    Args:
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.
        scale: Range of the factor by which a training image is larger or smaller than the frame; what sticks out is
            cropped at random.
        keep_ratio: Keep the aspect ratio of the image.
        flip: Probability of a horizontal flip in training.
        photometric: Distort brightness, contrast and colour in training.
        test_scale: Evaluation resizes an image to so many times its own size instead, for detectors that look at it in
            windows (`--model.windows`); 1 keeps its size.
    """

    def __init__(
        self,
        height: int = 320,
        width: int = 320,
        scale: tuple[float, float] = (1.0, 1.0),
        keep_ratio: bool = True,
        flip: float = 0.5,
        photometric: bool = False,
        test_scale: float | None = None,
    ) -> None:
        _check_positive(height=height, width=width)
        _check_range("scale", scale)
        _check_share("flip", flip)
        self.test_scale = _checked_scale(test_scale)
        self.height, self.width = self.frame = self.image_size = (height, width)
        self.scale, self.keep_ratio, self.flip, self.photometric = scale, keep_ratio, flip, photometric

    def training(self) -> list[A.BasicTransform]:
        """Jitter of scale and place, flip, colour."""
        return [ScaleJitterCrop(self.image_size, self.scale, self.keep_ratio, self.flip, _colour(self.photometric))]

    def evaluation(self) -> list[A.BasicTransform]:
        """Fit into the frame."""
        return self.resize_for_test(ScaleJitterCrop(self.image_size, (1.0, 1.0), self.keep_ratio))


class SSDCrop(DetectionPipeline):
    """SSD's augmentation: a random part of the image that overlaps an object well enough, stretched to a fixed size.

    SSDLite of torchvision takes the defaults; SSD adds `zoom_out: 0.5` and `photometric: true`.

    Args:
        height: Height of the network input in pixels.
        width: Width of the network input in pixels.
        zoom_out: Probability that the image is first laid on a canvas of up to 4 times its height and width, filled
            with ImageNet's mean colour.
        flip: Probability of a horizontal flip in training.
        photometric: Distort brightness, contrast and colour in training.
        test_scale: Evaluation resizes an image to so many times its own size instead, for detectors that look at it in
            windows (`--model.windows`); 1 keeps its size.
    """

    def __init__(
        self,
        height: int = 320,
        width: int = 320,
        zoom_out: float = 0.0,
        flip: float = 0.5,
        photometric: bool = False,
        test_scale: float | None = None,
    ) -> None:
        _check_positive(height=height, width=width)
        _check_share("zoom_out", zoom_out)
        _check_share("flip", flip)
        self.test_scale = _checked_scale(test_scale)
        self.height, self.width = self.frame = self.image_size = (height, width)
        self.zoom_out, self.flip, self.photometric = zoom_out, flip, photometric

    def training(self) -> list[A.BasicTransform]:
        """Zoom-out and crop, flip, colour; the canvas keeps its colour."""
        return [ZoomAndCrop(self.image_size, self.zoom_out, flip=self.flip, colour=_colour(self.photometric))]

    def evaluation(self) -> list[A.BasicTransform]:
        """Stretch to the frame."""
        return self.resize_for_test(ScaleJitterCrop(self.image_size, (1.0, 1.0), keep_ratio=False))


class RandomRatioCrop(SegmentationPipeline):
    """MMSegmentation's ADE20K pipeline: random ratio, crop with mixed content, flip, photometric distortion.

    Args:
        longest: Limit of the longer side in pixels, at ratio 1.
        shorter: Length of the shorter side in pixels, at ratio 1.
        ratio: Range of the random ratio.
        crop: Height and width of the training input in pixels, or one number for a square; smaller images are padded
            with ignored pixels.
        max_share: Largest share of one class in a crop (`cat_max_ratio`); 1 takes every crop.
        flip: Probability of a horizontal flip in training.
        photometric: Distort brightness, contrast and colour in training.
        test_ratios: Sizes, relative to the one of evaluation, in which the network looks at an image in evaluation;
            their probabilities are averaged. Published multi-scale scores are those of [0.5, 0.75, 1, 1.25, 1.5, 1.75]
            and `flip` of the segmentor's inference.
        test_resize: Resize images in evaluation to `shorter` and `longest`; otherwise they keep their own size, which
            large ones need windows for (`SlideInference`).
    """

    def __init__(
        self,
        longest: int = 2048,
        shorter: int = 512,
        ratio: tuple[float, float] = (0.5, 2.0),
        crop: int | tuple[int, int] = 512,
        max_share: float = 0.75,
        flip: float = 0.5,
        photometric: bool = True,
        test_ratios: tuple[float, ...] = (1.0,),
        test_resize: bool = True,
    ) -> None:
        frame = (crop, crop) if isinstance(crop, int) else crop
        _check_positive(longest=longest, shorter=shorter, crop=min(frame))
        if not test_ratios or not 0 < min(test_ratios) <= max(test_ratios) < float("inf"):
            raise DataError(f"test_ratios is {test_ratios}, expected one positive number or more, such as 0.5, 1, 1.5")
        _check_range("ratio", ratio)
        _check_share("flip", flip)
        _check_share("max_share", max_share)
        self.longest, self.shorter, self.ratio, self.max_share = longest, shorter, ratio, max_share
        self.flip, self.photometric, self.test_ratios, self.test_resize = flip, photometric, test_ratios, test_resize
        self.crop = self.frame = self.image_size = frame

    @property
    def keeps_size(self) -> bool:
        """Unless `test_resize` resizes them."""
        return not self.test_resize

    def training(self) -> list[A.BasicTransform]:
        """Resize and crop, flip, colour."""
        scale, colour = (self.longest, self.shorter), _colour(self.photometric)
        return [RatioCrop(scale, self.ratio, self.image_size, self.max_share, None, self.flip, colour)]

    def evaluation(self) -> list[A.BasicTransform]:
        """Resize with the aspect ratio kept, if at all."""
        return [self._resized(1.0)] if self.test_resize else []

    def views(self) -> list[A.BasicTransform]:
        """The same resize to every ratio."""
        return [] if tuple(self.test_ratios) == (1.0,) else [self._resized(ratio) for ratio in self.test_ratios]

    def _resized(self, ratio: float) -> A.BasicTransform:
        if not self.test_resize:
            return ResizeByRatio(ratio)
        shorter, longest = (max(1, int(side * ratio + 0.5)) for side in (self.shorter, self.longest))
        return ResizeShorterSide([shorter], longest)


def _colour(wanted: bool) -> PhotoMetricDistortion | None:
    return PhotoMetricDistortion() if wanted else None


def _check_positive(**lengths: int) -> None:
    for name, length in lengths.items():
        if length < 1:
            raise DataError(f"{name} is {length}, expected at least 1 pixel")


def _check_range(name: str, values: tuple[float, float]) -> None:
    if not 0 < values[0] <= values[1] < float("inf"):
        raise DataError(f"{name} is {values}, expected 0 < first <= second, both finite")


def _checked_scale(test_scale: float | None) -> float | None:
    if test_scale is not None and not 0 < test_scale < float("inf"):
        raise DataError(f"test_scale is {test_scale}, expected a positive number, such as 1 for an image's own size")
    return test_scale


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise DataError(f"{name} is {value}, expected 0..1")
