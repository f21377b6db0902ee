"""A classification head on a backbone: the network whose parameters and accuracy the papers' ImageNet tables print."""

from torch import Tensor, nn
from torch.nn import functional as F

from backbones.base import Backbone


class Classifier(nn.Module):
    """Global average of a backbone's last feature map, dropout, and one linear layer.

    The linear layer starts normally distributed with standard deviation 0.01, its biases at zero.

    Args:
        backbone: Network that supplies the features; only its last, coarsest map is used.
        num_classes: Number of classes K, at least 1. ImageNet has 1000.
        dropout: Probability in [0, 1] of dropping an averaged feature in training.
    """

    def __init__(self, backbone: Backbone, num_classes: int = 1000, dropout: float = 0.0) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes} leaves nothing to tell apart; give an integer of at least 1")
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(backbone.channels[-1], num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, K) of images `x` (B, 3, H, W)."""
        features = self.backbone(x)
        pooled = F.adaptive_avg_pool2d(features[-1], 1).flatten(1)  # (B, C)
        scores: Tensor = self.fc(self.dropout(pooled))
        return scores
