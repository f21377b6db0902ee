"""Importing this module registers this library's decode heads with MMSegmentation.

    import tasks.segmentors.in_mmseg
    MODELS.build(dict(type="CAAHead", in_channels=2048, num_classes=150))

This is a module of its own because importing MMSegmentation takes seconds.
"""

from mmseg.registry import MODELS

from tasks.segmentors.attention_head import AttentionHead, CAAHead

for _head in (AttentionHead, CAAHead):
    MODELS.register_module(module=_head)
