"""Heads of MMSegmentation that cannot be used as they are, under their own names and with their own parameters.

Importing this file takes the seconds that importing MMSegmentation takes.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.config import ConfigDict
from mmseg.models import decode_heads as theirs
from mmseg.models.decode_heads import cc_head, point_head
from mmseg.models.decode_heads.pid_head import BasePIDHead
from torch import Tensor, nn

from attention import CrissCrossAttention
from tasks.precision import precise


def point_sample(input: Tensor, points: Tensor, align_corners: bool = False, mode: str = "bilinear") -> Tensor:
    """Values (B, C, P) of maps (B, C, H, W) at points (B, P, 2), x and y from 0 to 1; mmcv's, of PyTorch's own."""
    maps = precise(input)
    grid = 2 * points.to(maps.dtype).unsqueeze(2) - 1
    return F.grid_sample(maps, grid, mode=mode, align_corners=align_corners).squeeze(3)


# mmcv has both without compiled code, in a package that cannot be imported without its compiled code.
point_head.point_sample = point_head.point_sample or point_sample
cc_head.CrissCrossAttention = cc_head.CrissCrossAttention or partial(CrissCrossAttention, recurrence=1)


class ASPPHead(theirs.ASPPHead):
    """MMSegmentation's, with the kernel of the last convolution as an option.

    Args:
        projection_kernel: 3, or 1 as in DeepLabV3 (arXiv 1706.05587, section 3.3) and torchvision.
        options: MMSegmentation's own.
    """

    def __init__(self, *, projection_kernel: int = 3, **options: Any) -> None:
        super().__init__(**options)
        if projection_kernel != 3:
            self.bottleneck = ConvModule(
                (len(self.dilations) + 1) * self.channels,
                self.channels,
                projection_kernel,
                padding=projection_kernel // 2,
                conv_cfg=self.conv_cfg,
                norm_cfg=self.norm_cfg,
                act_cfg=self.act_cfg,
            )


class ANNHead(theirs.ANNHead):
    """MMSegmentation's, which calls its dropout also where `dropout_ratio` is 0 and there is none."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if getattr(self, "dropout", None) is None:
            self.dropout = nn.Identity()


_LARGEST = 49
"""Side of the windows whose means LR-ASPP takes."""


class LRASPPHead(theirs.LRASPPHead):
    """MMSegmentation's, which averages windows of 49 x 49 and fails where the map is smaller: there its size counts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.image_pool[0] = _WindowMeans(_LARGEST, (16, 20))


class _WindowMeans(nn.AvgPool2d):
    def forward(self, input: Tensor) -> Tensor:
        window = [min(_LARGEST, side) for side in input.shape[-2:]]
        return F.avg_pool2d(input, window, self.stride)


class DDRHead(theirs.DDRHead):
    """MMSegmentation's, which chooses its two maps itself; only the second is read in evaluation.

    Args:
        in_channels: Channels of the two maps; DDRNet's first has half as many as the second.
        channels: Channels in front of the classifiers.
        num_classes: K.
        in_index: Numbers of the maps.
        options: MMSegmentation's own.
    """

    def __init__(
        self, in_channels: list[int], channels: int, num_classes: int, *, in_index: list[int], **options: Any
    ) -> None:
        super().__init__(in_channels[1], channels, num_classes, in_index=in_index[1], **options)
        self.maps = in_index
        self.aux_head = self._make_base_head(in_channels[0], channels)

    def forward(self, inputs: Any) -> Any:
        """Logits of the second map, in training beside those of the first."""
        spatial, context = (inputs[level] for level in self.maps)
        return super().forward((spatial, context) if self.training else context)


class PIDHead(theirs.PIDHead):
    """MMSegmentation's, which chooses its maps itself and finds the edges between classes that it is trained on.

    Args:
        in_channels: Channels of the map of the details and edges (PIDNet has half as many there), and of the other.
        channels: Channels in front of the classifiers.
        num_classes: K.
        in_index: Numbers of the maps.
        edge_width: Width of the edges in pixels.
        options: MMSegmentation's own.
    """

    main_output = 1

    def __init__(
        self,
        in_channels: list[int],
        channels: int,
        num_classes: int,
        *,
        in_index: list[int],
        edge_width: int = 4,
        **options: Any,
    ) -> None:
        details, whole = in_channels
        super().__init__(whole, channels, num_classes, in_index=in_index[1], **options)
        self.maps, self.edge_width = in_index, edge_width
        self.p_head = BasePIDHead(details, channels, self.norm_cfg, self.act_cfg)
        self.d_head = BasePIDHead(details, whole // 4, self.norm_cfg)

    def forward(self, inputs: Any) -> Any:
        """Logits of the second map, in training between those of details and those of edges."""
        details, whole = (inputs[level] for level in self.maps)
        return super().forward((details, whole, details) if self.training else whole)

    def _stack_batch_gt(self, batch_data_samples: list[Any]) -> tuple[Tensor, Tensor]:
        masks = torch.stack([sample.gt_sem_seg.data for sample in batch_data_samples])
        return masks, class_edges(masks, self.edge_width, self.ignore_index)


def class_edges(masks: Tensor, width: int, ignore_index: int = 255) -> Tensor:
    """Whether the pixels of masks (B, 1, H, W) lie where two classes meet; int64, equal to MMSegmentation's.

    Args:
        masks: Classes; ignored pixels meet none.
        width: Of the edges in pixels.
        ignore_index: What ignored pixels have.
    """
    edges = torch.zeros_like(masks, dtype=torch.float32)
    upper, lower = masks[..., :-1, :], masks[..., 1:, :]
    # Where the mark is put, and the two pixels that are compared: below, to the right, and along both diagonals.
    for marked, first, second in (
        (edges[..., 1:, :], upper, lower),
        (edges[..., :-1], masks[..., :-1], masks[..., 1:]),
        (edges[..., :-1, :-1], upper[..., :-1], lower[..., 1:]),
        (edges[..., :-1, 1:], upper[..., 1:], lower[..., :-1]),
    ):
        marked[(first != second) & (first != ignore_index) & (second != ignore_index)] = 1
    before, after = width // 2, (width - 1) // 2
    return F.max_pool2d(F.pad(edges, (before, after, before, after)), width, stride=1).long()


class PointHead(theirs.PointHead):
    """MMSegmentation's, with the numbers of its points as options.

    Args:
        num_points: Points of an image that are trained on.
        oversample_ratio: Random points among which the uncertain ones are looked for, per point that is trained on.
        importance_sample_ratio: Share of uncertain points; the others are random.
        subdivision_steps: How often logits are enlarged and refined in evaluation.
        subdivision_num_points: Points that are refined each time.
        scale_factor: Enlargement of each time.
        options: MMSegmentation's own.
    """

    def __init__(
        self,
        *,
        num_points: int = 2048,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
        subdivision_steps: int = 2,
        subdivision_num_points: int = 8196,
        scale_factor: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.train_cfg = ConfigDict(
            num_points=num_points,
            oversample_ratio=oversample_ratio,
            importance_sample_ratio=importance_sample_ratio,
        )
        self.test_cfg = ConfigDict(
            subdivision_steps=subdivision_steps,
            subdivision_num_points=subdivision_num_points,
            scale_factor=scale_factor,
        )

    def forward(self, inputs: Any, prev_output: Tensor) -> Any:
        """In training logits of points (B, K, P) and the points, otherwise refined logits (B, K, H, W)."""
        if isinstance(inputs, Tensor):  # features of points, from MMSegmentation's own steps
            return super().forward(inputs, prev_output).to(prev_output.dtype)
        if not self.training:
            scale = self.test_cfg.scale_factor**self.test_cfg.subdivision_steps
            size = tuple(side * scale for side in prev_output.shape[-2:])
            return self.predict(inputs, precise(prev_output), [{"img_shape": size}], self.test_cfg)
        with torch.no_grad():
            points = self.get_points_train(prev_output, point_head.calculate_uncertainty, self.train_cfg)
        fine = self._get_fine_grained_point_feats(self._transform_inputs(inputs), points)
        return super().forward(fine, self._get_coarse_point_feats(prev_output, points)), points

    def loss_by_feat(self, outputs: Any, batch_data_samples: list[Any]) -> dict[str, Tensor]:
        """Losses of logits of points."""
        logits, points = outputs
        losses: dict[str, Tensor] = super().loss_by_feat(logits, points, batch_data_samples)
        return losses


OWN = (ANNHead, ASPPHead, DDRHead, LRASPPHead, PIDHead, PointHead)
