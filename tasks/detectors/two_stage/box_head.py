"""The head that classifies boxes and moves them, from pooled features."""

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead

from attention.base import check_at_least
from tasks.class_tensors import ClassRows
from tasks.detectors.head_operators import NO_OPERATORS, Operators, mix_convolutions, of_boxes
from tasks.detectors.two_stage.convention import Convention, Regressors
from tasks.detectors.two_stage.options import BoxHeadOptions
from tasks.precision import precise


class ClassColumns:
    """Where a head keeps what belongs to each of K classes; labels are 0..K-1, and K for the background.

    Args:
        num_classes: K.
        kind: Who has a column: `classes`, `all` (the background too) or nobody (`shared`).
        background_first: Whether the background's column comes before the others.
    """

    def __init__(self, num_classes: int, kind: Regressors, background_first: bool) -> None:
        self.num_classes, self.kind = num_classes, kind
        self.first = int(kind == "all" and background_first)
        self.count = {"shared": 1, "classes": num_classes, "all": num_classes + 1}[kind]

    def of_labels(self, labels: Tensor) -> Tensor:
        """Columns of labels (N,)."""
        return torch.zeros_like(labels) if self.kind == "shared" else (labels + self.first) % self.count

    def foreground(self, values: Tensor) -> Tensor:
        """Of values (N, count, ...) those of the classes (N, K, ...)."""
        if self.kind == "shared":
            return values.expand(-1, self.num_classes, *values.shape[2:])
        return values[:, self.first : self.first + self.num_classes]

    def rows(self, width: int = 1) -> ClassRows | None:
        """The same for taking weights over by class names; None where nothing depends on the classes."""
        if self.kind == "shared":
            return None
        return ClassRows(background=int(self.kind == "all"), background_first=bool(self.first), width=width)


class BoxHead(nn.Module):
    """Convolutions and fully connected layers, then logits of the classes and offsets of the boxes.

    Args:
        channels: Channels of the pooled features.
        num_classes: K, without background.
        convention: What torchvision and MMDetection do differently.
        options: Everything else.
        operators: In place of the convolutions, and behind them; without convolutions the refinement of the pooled
            features.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        convention: Convention,
        options: BoxHeadOptions,
        operators: Operators = NO_OPERATORS,
    ) -> None:
        super().__init__()
        check_at_least(0, convs=options.convs)
        check_at_least(1, fcs=options.fcs, fc_channels=options.fc_channels, pooled=options.pooled)
        first = convention.background_first
        self.classes = ClassColumns(num_classes, "all", first)
        self.regressors = ClassColumns(num_classes, options.regressors or convention.regressors, first)
        if options.convs == 0 and options.fcs == 2:
            self.layers: nn.Module = TwoMLPHead(channels * options.pooled**2, options.fc_channels)
        else:
            self.layers = FastRCNNConvFCHead(
                (channels, options.pooled, options.pooled),
                [options.conv_channels] * options.convs,
                [options.fc_channels] * options.fcs,
                nn.BatchNorm2d,
            )
        self.cls_score = nn.Linear(options.fc_channels, self.classes.count)
        self.bbox_pred = nn.Linear(options.fc_channels, 4 * self.regressors.count)
        self._initialise()
        if operators.head_mixer is not None:
            mix_convolutions(self.layers, operators.head_mixer)
        self.refine: nn.Module = nn.Identity()
        if operators.head_attention is not None:
            self.refine = operators.head_attention(options.conv_channels if options.convs else channels)

    def _initialise(self) -> None:
        """As both libraries' first models: small logits and smaller offsets."""
        for layer in self.layers.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for layer, deviation in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """From pooled features (N, C, side, side) to logits (N, K + 1) and offsets (N, regressors, 4), in float32."""
        features = of_boxes(self._features, pooled)
        offsets = precise(self.bbox_pred(features))
        return precise(self.cls_score(features)), offsets.view(-1, self.regressors.count, 4)

    def _features(self, pooled: Tensor) -> Tensor:
        """From pooled features to those (N, F) that the last layers read."""
        if isinstance(self.layers, TwoMLPHead):
            flat: Tensor = self.layers(self.refine(pooled))
            return flat
        for layer in self.layers.children():
            pooled = layer(self.refine(pooled) if isinstance(layer, nn.Flatten) else pooled)
        return pooled

    def offsets_of(self, offsets: Tensor, labels: Tensor) -> Tensor:
        """Of offsets (N, regressors, 4) those (N, 4) of labels (N,) 0..K-1."""
        columns = self.regressors.of_labels(labels)
        return offsets.gather(1, columns[:, None, None].expand(-1, 1, 4))[:, 0]
