"""Differentiable functions that several operators share, in rooms; each room's page names the file to read first.

    layout          memory formats and subsampling of maps; plain PyTorch
    logits          softmax attention whose weights are stored, and the precision of its inner products; plain PyTorch
    relative        attention of blocks to windows with relative vectors: the plain form, and one that stores no logits
    neighbourhood   sliding local attention: the plain form, and kernels for CPU and GPU

`plain.py` says when a function with gradients of its own steps back for plain PyTorch. What may be here at all is the
rule on kernels in docs/architecture.md, measured by `python -m benchmarks.kernels`.
"""
