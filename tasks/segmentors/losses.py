"""MMSegmentation's losses, with what goes wrong in them put right, under their own names and with their options.

Wrong in MMSegmentation 1.2: Dice counts predictions of ignored pixels, and takes the background for the foreground of a
single logit; focal loss needs compiled code on a GPU and fails on a CPU; OHEM takes none of the arguments that heads
give it; class weights fail beside `avg_non_ignore` and with sigmoids; a batch without a label gives an error, nothing,
or no gradient, according to the loss.

Logits are (B, C, H, W) and labels (B, H, W) of 0..K-1 or `ignore_index`; C is K, or 1 for two classes, the logit being
that of class 1. Every loss is 0 with zero gradients where all pixels are ignored, and nothing waits for the device
except the sorting of `LovaszLoss`. Importing this file takes the seconds that importing MMSegmentation takes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models import losses as theirs
from mmseg.models.losses.dice_loss import dice_loss
from mmseg.models.losses.lovasz_loss import lovasz_hinge_flat, lovasz_softmax_flat
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

Reduction = str | None


class CrossEntropyLoss(theirs.CrossEntropyLoss):
    """MMSegmentation's: the mean over all pixels, or with `avg_non_ignore` or class weights over labelled ones."""

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | None = None,
        reduction_override: Reduction = None,
        ignore_index: int = 255,
        **_: Any,
    ) -> Tensor:
        """The loss, weighted by pixel where `weight` (B, H, W) is given."""
        if logits.ndim == labels.ndim:  # EncHead: a yes or no for each class of an image
            found: Tensor = super().forward(logits, labels, weight, avg_factor, reduction_override, ignore_index)
            return found
        reduction = reduction_override or self.reduction
        class_weight = None if self.class_weight is None else logits.new_tensor(self.class_weight)
        labelled = labels != ignore_index
        if logits.shape[1] > 1 and self.use_sigmoid:  # a yes or no for each class of a pixel
            target = one_hot(labels, labelled, logits)
            positive = None if class_weight is None else class_weight.view(-1, 1, 1)
            losses = F.binary_cross_entropy_with_logits(logits, target, pos_weight=positive, reduction="none")
            losses, counted = losses * labelled.unsqueeze(1), labelled.sum() * logits.shape[1]
            weight = None if weight is None else weight.unsqueeze(1)
            of_labelled = self.avg_non_ignore
        else:
            logits = of_two_classes(logits)
            losses = F.cross_entropy(logits, labels, class_weight, ignore_index=ignore_index, reduction="none")
            shares = labelled if class_weight is None else class_weight[labels.where(labelled, 0)] * labelled
            counted, of_labelled = shares.sum(), self.avg_non_ignore or class_weight is not None
        if avg_factor is None and reduction == "mean" and of_labelled:
            avg_factor = counted
        loss: Tensor = theirs.weight_reduce_loss(losses, weight, reduction, avg_factor)
        return self.loss_weight * loss


class OhemCrossEntropy(theirs.OhemCrossEntropy):
    """Mean cross-entropy of hard pixels: those whose own class has a probability below `thres`, at least `min_kept`."""

    def forward(
        self, logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = 255, **_: Any
    ) -> Tensor:
        """The loss, weighted by pixel where `weight` (B, H, W) is given."""
        logits = of_two_classes(logits)
        labelled = labels != ignore_index
        class_weight = None if self.class_weight is None else logits.new_tensor(self.class_weight)
        losses = F.cross_entropy(logits, labels, class_weight, ignore_index=ignore_index, reduction="none")
        with torch.no_grad():
            own = logits.softmax(1).gather(1, labels.where(labelled, 0).unsqueeze(1)).squeeze(1)
            own = own.masked_fill(~labelled, float("inf"))
            last = (labelled.sum() - 1).clamp(0, self.min_kept)
            threshold = own.flatten().sort().values[last].clamp(min=self.thresh)
            hard = (own < threshold) & labelled
        return self.loss_weight * (losses * hard * (1 if weight is None else weight)).sum() / hard.sum().clamp(min=1)


class DiceLoss(theirs.DiceLoss):
    """MMSegmentation's, over all classes and labelled pixels of an image at once; the mean over images."""

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: Reduction = None,
        ignore_index: int = 255,
        **_: Any,
    ) -> Tensor:
        """The loss; pixels count by `weight` (B, H, W) where it is given."""
        labelled = (labels != ignore_index) * (1 if weight is None else weight)
        found = logits
        if self.activate:
            found = logits.softmax(1) if logits.shape[1] > 1 and not self.use_sigmoid else logits.sigmoid()
        loss: Tensor = dice_loss(
            found * labelled.unsqueeze(1),
            one_hot(labels, labels != ignore_index, logits) * labelled.unsqueeze(1),
            weight=labelled.flatten(1).any(1),  # there is nothing to learn from an image without labels
            eps=self.eps,
            reduction=reduction_override or self.reduction,
            naive_dice=self.naive_dice,
            avg_factor=avg_factor,
            ignore_index=self.ignore_index,
        )
        return self.loss_weight * loss


class LovaszLoss(theirs.LovaszLoss):
    """MMSegmentation's: of a batch, or the mean over images.

    Args:
        per_image: Whether each image counts by itself.
        reduction: Of the losses of images; needs not be given.
        options: MMSegmentation's own.
    """

    def __init__(self, *, per_image: bool = False, reduction: Reduction = None, **options: Any) -> None:
        super().__init__(per_image=per_image, reduction=reduction or ("mean" if per_image else "none"), **options)
        self.binary = options.get("loss_type", "multi_class") == "binary"

    def forward(self, logits: Tensor, labels: Tensor, *_: Any, ignore_index: int = 255, **__: Any) -> Tensor:
        """The loss."""
        if not self.per_image:
            return self.loss_weight * self._flat(logits, labels, ignore_index)
        losses = [self._flat(logits[i : i + 1], labels[i : i + 1], ignore_index) for i in range(len(logits))]
        stacked = torch.stack(losses)
        return self.loss_weight * (stacked.sum() if self.reduction == "sum" else stacked.mean())

    def _flat(self, logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        labelled = labels != ignore_index
        chosen, theirs_labels = logits.movedim(1, -1)[labelled], labels[labelled]  # (P, C)
        if len(chosen) == 0:
            return logits.sum() * 0
        if self.binary:
            found: Tensor = lovasz_hinge_flat(chosen.squeeze(1), theirs_labels)
            return found
        weight = None if self.class_weight is None else logits.new_tensor(self.class_weight)
        found = lovasz_softmax_flat(of_two_classes(chosen).softmax(1), theirs_labels, self.classes, weight)
        return found


class FocalLoss(nn.Module):
    """Focal loss (Lin et al., ICCV 2017, arXiv 1708.02002): a yes or no for each class of a pixel, by torchvision.

    Args:
        use_sigmoid: There is no other.
        gamma: How much less is made of what is known well.
        alpha: Share of the pixels of a class, the others having 1 - alpha; one number, or one for each class.
        reduction: `mean` over all pixels and classes, or `sum`.
        class_weight: Weight of each class.
        loss_weight: Weight of the loss.
        loss_name: Name under which it is logged.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: float = 2.0,
        alpha: float | list[float] = 0.5,
        reduction: str = "mean",
        class_weight: list[float] | None = None,
        loss_weight: float = 1.0,
        loss_name: str = "loss_focal",
    ) -> None:
        super().__init__()
        if not use_sigmoid:
            raise ValueError("FocalLoss has use_sigmoid false, and there is none with a softmax; leave it out")
        self.gamma, self.alpha, self.reduction = gamma, alpha, reduction
        self.class_weight, self.loss_weight, self.loss_name = class_weight, loss_weight, loss_name

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: Reduction = None,
        ignore_index: int = 255,
        **_: Any,
    ) -> Tensor:
        """The loss, weighted by pixel where `weight` (B, H, W) is given."""
        labelled = labels != ignore_index
        target = one_hot(labels, labelled, logits)
        losses = sigmoid_focal_loss(logits, target, alpha=-1, gamma=self.gamma, reduction="none")
        alpha = logits.new_tensor(self.alpha).view(-1, 1, 1)
        losses = losses * (alpha * target + (1 - alpha) * (1 - target)) * labelled.unsqueeze(1)
        if self.class_weight is not None:
            losses = losses * logits.new_tensor(self.class_weight).view(-1, 1, 1)
        if weight is not None:
            losses = losses * weight.unsqueeze(1)
        reduction = reduction_override or self.reduction
        if reduction == "none":
            return self.loss_weight * losses
        divisor = 1 if reduction == "sum" else losses.numel() if avg_factor is None else avg_factor
        return self.loss_weight * losses.sum() / divisor


def of_two_classes(logits: Tensor) -> Tensor:
    """Logits of both classes where there is one, (B, 1, ...): their softmax is its sigmoid; others as they are."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def one_hot(labels: Tensor, labelled: Tensor, logits: Tensor) -> Tensor:
    """1 where a pixel has the class of a logit, of the type and shape of the logits (B, C, H, W)."""
    known = labels.where(labelled, 0)
    classes = torch.arange(logits.shape[1], device=labels.device) if logits.shape[1] > 1 else labels.new_ones(1)
    return ((known.unsqueeze(1) == classes.view(-1, 1, 1)) & labelled.unsqueeze(1)).to(logits.dtype)


OWN = (CrossEntropyLoss, DiceLoss, FocalLoss, LovaszLoss, OhemCrossEntropy)
