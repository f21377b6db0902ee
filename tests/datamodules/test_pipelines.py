"""What the pipelines promise to data modules: sizes, frames and refusals."""

from collections.abc import Callable

import albumentations as A
import numpy as np
import pytest

from datamodules import DataError, FixedSize, MultiScaleCrop, RandomRatioCrop, ShorterSide, SSDCrop
from datamodules.photometric import PhotoMetricDistortion
from datamodules.pipelines import Pipeline
from datamodules.sampling import SampleKey, seed_transforms

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def run(transforms: list[A.BasicTransform], index: int) -> np.ndarray:
    pipeline = A.Compose(transforms)
    seed_transforms(pipeline, 0, SampleKey(0, index, False))
    return pipeline(image=IMAGE)["image"]


@pytest.mark.parametrize(
    ("pipeline", "size"),
    [
        (FixedSize(32, 64), (32, 48)),
        (FixedSize(32, 64, keep_ratio=False), (32, 64)),
        (FixedSize(32, 64, scale=(0.1, 2.0)), (32, 48)),
        (SSDCrop(32, 64, zoom_out=0.5), (32, 64)),
        (ShorterSide((20, 40), 200), (40, 60)),
        (ShorterSide((20, 40), 50), (33, 50)),
        (RandomRatioCrop(longest=200, shorter=30, crop=16), (30, 45)),
    ],
)
def test_evaluation_draws_nothing_and_takes_the_largest_size(pipeline: Pipeline, size: tuple[int, int]) -> None:
    outputs = [run(pipeline.evaluation(), index) for index in range(8)]
    assert outputs[0].shape == (*size, 3)
    assert all((output == outputs[0]).all() for output in outputs)


@pytest.mark.parametrize("make", [FixedSize, ShorterSide, MultiScaleCrop, SSDCrop])
@pytest.mark.parametrize(("scale", "size"), [(1.0, IMAGE.shape[:2]), (0.5, (30, 45)), (1.7, (102, 153))])
def test_evaluation_for_windows_keeps_the_size_or_scales_it(
    make: Callable[..., Pipeline], scale: float, size: tuple[int, int]
) -> None:
    pipeline = make(test_scale=scale)
    seen = run(pipeline.evaluation(), 0)
    assert seen.shape == (*size, 3) and pipeline.test_frame is None
    assert (seen == IMAGE).all() if scale == 1 else True
    assert pipeline.frame == make().frame == make().test_frame  # training is as before


def test_scales_that_have_no_meaning_are_refused() -> None:
    for scale in (0.0, -1.0, float("inf")):
        with pytest.raises(DataError, match=r"test_scale is .*, expected a positive number"):
            FixedSize(test_scale=scale)


@pytest.mark.parametrize(
    ("pipeline", "image_size", "frame"),
    [
        (FixedSize(32, 64), (32, 64), (32, 64)),
        (ShorterSide((20, 40), 200), (40, 200), None),
        (RandomRatioCrop(crop=16), (16, 16), (16, 16)),
    ],
)
def test_image_size_and_frame(pipeline: Pipeline, image_size: tuple[int, int], frame: tuple[int, int] | None) -> None:
    assert (pipeline.image_size, pipeline.frame) == (image_size, frame)


@pytest.mark.parametrize(
    "pipeline",
    [
        FixedSize(32, 64, scale=(0.3, 3.0), photometric=True),
        FixedSize(32, 64, scale=(0.3, 3.0), keep_ratio=False),
        RandomRatioCrop(longest=200, shorter=60, crop=32),
    ],
)
def test_training_images_fit_the_frame(pipeline: Pipeline) -> None:
    assert pipeline.frame is not None
    shapes = [run(pipeline.training(), index).shape[:2] for index in range(60)]
    assert np.max(shapes, axis=0).tolist() == list(pipeline.frame)


def test_shorter_side_draws_every_length() -> None:
    shapes = {run(ShorterSide((20, 30, 40)).training(), index).shape[0] for index in range(60)}
    assert shapes == {20, 30, 40}


@pytest.mark.parametrize("make", [FixedSize, ShorterSide, RandomRatioCrop, SSDCrop])
def test_flip_and_colour_can_be_switched_off(make: Callable[..., Pipeline]) -> None:
    (plain,), (rich,) = make(flip=0.0, photometric=False).training(), make(flip=0.3, photometric=True).training()
    assert (plain.flip, plain.colour) == (0.0, None)
    assert rich.flip == 0.3 and isinstance(rich.colour, PhotoMetricDistortion)


@pytest.mark.parametrize("make", [ShorterSide, FixedSize, SSDCrop])
def test_flip_and_colour_are_drawn_independently(make: Callable[..., Pipeline]) -> None:
    chain, seen = make(flip=0.5, photometric=True).training(), set()
    for index in range(60):
        output = run(chain, index)
        plain = run(make(flip=0.0, photometric=False).evaluation(), index)
        mirrored = chain[0].params["window"].mirrored
        plain = plain[:, ::-1] if mirrored else plain
        seen.add((mirrored, bool(np.abs(output.astype(int) - plain).max() > 2)))
    assert {mirrored for mirrored, _ in seen} == {False, True}
    assert {(False, True), (True, True)} <= seen


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (FixedSize, {"height": 0}, "^height is 0, expected at least 1 pixel$"),
        (FixedSize, {"scale": (2.0, 1.0)}, r"scale is \(2\.0, 1\.0\), expected 0 < first <= second, both finite"),
        (FixedSize, {"scale": (0.0, 1.0)}, "scale is"),
        (FixedSize, {"scale": (0.5, float("inf"))}, "scale is"),
        (FixedSize, {"flip": float("nan")}, r"flip is nan, expected 0\.\.1"),
        (FixedSize, {"flip": 1.5}, r"flip is 1\.5, expected 0\.\.1"),
        (ShorterSide, {"shorter": ()}, r"shorter is \(\), expected at least one length in pixels"),
        (ShorterSide, {"shorter": (800, 0)}, "shorter is 0"),
        (ShorterSide, {"longest": -1}, "longest is -1"),
        (ShorterSide, {"flip": -0.5}, "flip is"),
        (SSDCrop, {"width": 0}, "width is 0"),
        (SSDCrop, {"zoom_out": 2.0}, "zoom_out is"),
        (RandomRatioCrop, {"crop": 0}, "crop is 0"),
        (RandomRatioCrop, {"ratio": (-1.0, 1.0)}, "ratio is"),
        (RandomRatioCrop, {"max_share": 75}, "max_share is 75"),
    ],
)
def test_impossible_options_are_refused(make: Callable[..., Pipeline], options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        make(**options)
    assert "\n" not in str(error.value)
