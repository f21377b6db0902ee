"""The VGG of "Learn to pay attention" (Jetley et al., ICLR 2018, arXiv 1804.02391)."""

from typing import Any

from backbones.vgg import VGG, LearnToPayNetwork
from backbones.zoo.registry import zoo_entry


@zoo_entry(head=LearnToPayNetwork, out_strides=(1, 2, 4, 32))
def ltpa_vgg(**options: Any) -> VGG:
    """The host of (VGG-att3)-concat-pc for CIFAR: 77.03 % top-1 of 100 classes (arXiv 1804.02391, 22.97 % error).

    The attention is in the classifier, `backbones.vgg.LearnToPayNetwork`, whose options give the paper's other variants
    (att2, att1, dp, indep).
    """
    return VGG(**options)
