"""Differentiable functions that several operators share, where plain PyTorch takes more time or memory than needed."""
