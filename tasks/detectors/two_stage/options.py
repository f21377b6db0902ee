"""Options of the parts of two-stage detectors, as the command line shows them."""

from dataclasses import dataclass
from typing import Literal

from tasks.detectors.two_stage.convention import Regressors


@dataclass(frozen=True)
class RPNOptions:
    """The region proposal network.

    Attributes:
        convs: 3x3 convolutions before the predictions; torchvision's second version has 2.
        anchor_scale: Side of a square anchor, in strides of its level.
        ratios: Height over width of the anchors of a cell.
        positive_iou: IoU with an object from which on an anchor is positive.
        negative_iou: IoU below which it is negative; between the two it is ignored.
        samples: Anchors of an image that are trained on.
        positive_fraction: Largest share of positives among them.
        candidates_train: Best anchors of every level that may become proposals in training.
        candidates_test: The same in evaluation.
        proposals_train: Proposals of an image in training. None: 1000 in MMDetection's convention (2000 in cascades),
            2000 in torchvision's.
        proposals_test: Proposals of an image in evaluation.
        nms_threshold: IoU above which the weaker of two proposals of a level is dropped.
        inside: Whether anchors that reach beyond the image are ignored in training. None: in MMDetection's cascades.
        beta: Where the loss of boxes turns from quadratic to linear; 0 is L1. None: L1 in MMDetection's convention (1/9
            in cascades), 1/9 in torchvision's.
    """

    convs: int = 1
    anchor_scale: float = 8.0
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    samples: int = 256
    positive_fraction: float = 0.5
    candidates_train: int = 2000
    candidates_test: int = 1000
    proposals_train: int | None = None
    proposals_test: int = 1000
    nms_threshold: float = 0.7
    inside: bool | None = None
    beta: float | None = None


@dataclass(frozen=True)
class BoxHeadOptions:
    """The head that classifies proposals and moves their boxes; in a cascade every stage has one.

    Attributes:
        convs: 3x3 convolutions with batch normalisation in front of the fully connected layers; the papers share its
            statistics among the processes (`--trainer.sync_batchnorm true`).
        conv_channels: Their channels.
        fcs: Fully connected layers.
        fc_channels: Their channels.
        regressors: Who has a box regressor of its own: `classes`; `all`, the background too; or nobody (`shared`).
            None: `classes` in MMDetection's convention, `all` in torchvision's.
        loss: `smooth_l1` of the offsets, or `giou` of the boxes that they decode to (arXiv 1902.09630).
        loss_weight: Factor of the loss of boxes. None: 1, or 10 with `giou`.
        beta: Where `smooth_l1` turns from quadratic to linear; 0 is L1. None: L1 in MMDetection's convention (1 in
            cascades), 1/9 in torchvision's.
        pooled: Cells of a side that RoIAlign makes.
        samples: Proposals of an image that are trained on.
        positive_fraction: Largest share of positives among them.
    """

    convs: int = 0
    conv_channels: int = 256
    fcs: int = 2
    fc_channels: int = 1024
    regressors: Regressors | None = None
    loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    loss_weight: float | None = None
    beta: float | None = None
    pooled: int = 7
    samples: int = 512
    positive_fraction: float = 0.25


@dataclass(frozen=True)
class MaskHeadOptions:
    """The head that draws a mask in every box; in a cascade every stage has one.

    Attributes:
        convs: 3x3 convolutions before the upsampling.
        channels: Channels of all its layers.
        norm: Whether batch normalisations follow the convolutions, as in torchvision's second version.
        masks: Who has a mask of its own: `classes`; `all`, the background too; or nobody (`shared`). None: `classes` in
            MMDetection's convention, `all` in torchvision's.
        pooled: Cells of a side that RoIAlign makes; masks have twice as many.
    """

    convs: int = 4
    channels: int = 256
    norm: bool = False
    masks: Regressors | None = None
    pooled: int = 14


@dataclass(frozen=True)
class CascadeOptions:
    """The stages of a cascade.

    Attributes:
        ious: IoU with an object from which on a box is positive, for every stage.
        deviations: What offsets are divided by in every stage: centre in x and y, width and height.
        weights: Factor of the losses of every stage.
    """

    ious: tuple[float, ...] = (0.5, 0.6, 0.7)
    deviations: tuple[tuple[float, float, float, float], ...] = (
        (0.1, 0.1, 0.2, 0.2),
        (0.05, 0.05, 0.1, 0.1),
        (0.033, 0.033, 0.067, 0.067),
    )
    weights: tuple[float, ...] = (1.0, 0.5, 0.25)

    def __post_init__(self) -> None:
        counts = (len(self.ious), len(self.deviations), len(self.weights))
        if len({*counts}) > 1 or not counts[0]:
            raise ValueError(
                f"ious, deviations and weights of a cascade have {counts[0]}, {counts[1]} and {counts[2]} entries; "
                "give one of each for every stage"
            )


RPN = RPNOptions()
TWO_FCS = BoxHeadOptions()
"""The box head of Faster and Mask R-CNN."""
FOUR_CONVS = BoxHeadOptions(convs=4, fcs=1, loss="giou")
"""The box heads of the cascades that Swin and ELSA report."""
FOUR_CONVS_MASK = MaskHeadOptions()
THREE_STAGES = CascadeOptions()
ONE_STAGE = CascadeOptions(ious=(0.5,), deviations=((0.1, 0.1, 0.2, 0.2),), weights=(1.0,))
