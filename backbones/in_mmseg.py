"""Importing this module registers every published network with MMSegmentation.

    import backbones.in_mmseg
    MODELS.build(dict(type="elsa_swin_t", frozen_stages=1))

It is a module of its own because importing MMSegmentation takes seconds.
"""

from mmseg.registry import MODELS

from backbones.zoo.registry import backbone_function, list_backbones

for _name in list_backbones():
    MODELS.register_module(name=_name, module=backbone_function(_name))
