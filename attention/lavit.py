"""Vanilla and less attention of LaViT (Zhang et al., CVPR 2024, arXiv 2406.00427), in windows of a map of any size."""

import torch
from torch import Tensor, nn

from attention.base import Operator, check_at_least
from attention.functional.layout import merge_windows, split_windows, window_mask
from attention.functional.logits import at_least_float32, autocast_off, precise_logits


class _Windowed(Operator):
    """Values, softmax and output projection: what vanilla and less attention share."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        check_at_least(1, channels=channels, heads=heads, window=window)
        if channels % heads:
            raise ValueError(f"channels={channels} does not divide by heads={heads}; give a number of heads that does")
        self.channels = channels
        self.heads = heads
        self.window = window
        self.v = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)
        for layer in (self.v, self.proj):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def _heads(self, tokens: Tensor) -> Tensor:
        """(M, N, C) -> (M, heads, N, d)."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _attend(self, scores: Tensor, valid: Tensor | None, tokens: Tensor, x: Tensor) -> Tensor:
        """softmax(scores) v, projected and put back in the place of `x`; padded keys get no weight."""
        logits = scores if valid is None else scores.masked_fill(~valid[:, None, None], float("-inf"))
        weights = torch.softmax(logits, -1)
        if self.recording:
            self._record(weights, x)
        values = self._heads(self.v(tokens))
        read = torch.matmul(weights.to(values.dtype), values).transpose(1, 2).flatten(2)  # (M, N, C)
        return merge_windows(self.proj(read), x, self.window)

    def _record(self, weights: Tensor, x: Tensor) -> None:
        side, (height, width) = self.window, x.shape[2:]
        weights = weights.unflatten(0, (x.shape[0], -1, -(-width // side)))  # (B, rows, columns, heads, N, N)
        weights = weights.unflatten(5, (side, side)).unflatten(4, (side, side))
        weights = weights.permute(0, 3, 1, 4, 2, 5, 6, 7).flatten(4, 5).flatten(2, 3)  # (B, heads, H', W', w, w)
        rows, columns = (
            torch.arange(size, device=x.device).unsqueeze(1) // side * side + torch.arange(side, device=x.device)
            for size in (height, width)
        )
        self.record("key", weights[:, :, :height, :width], rows, columns)


class VanillaAttention(_Windowed):
    """Multi-head attention in windows that hands its scores on to less attention.

        A = Q K^T / sqrt(d) + A_0,   [Q; K; V] = W x + b            A: (M, heads, N, N), N = window^2
        y = W_o softmax(A) V + b_o                                  (B, C, H, W)

    arXiv 2406.00427: A_0, nothing or the attention residual of the stage before (`AttentionResidual`), is added before
    the softmax, and A is returned as it stands before it. The paper attends globally to 14 x 14 or 7 x 7 tokens; here
    the map is cut into M = B ceil(H / window) ceil(W / window) windows of that size, in the order batch, row, column,
    which changes nothing where the map is one window and makes N a constant where it is not. Maps are padded at the
    bottom and right to whole windows: padded keys get no weight, and scores of padded queries and keys are zero in what
    is returned, so no value of the padding reaches a later layer.

    No code of the authors is public (assumption A11). Weights start normal with deviation 0.02 (truncated), biases at
    zero. Scores stay in float32 under autocast. A plain `Operator`: scores travel beside the map, so it does not fit a
    `Mixer`'s place. Compiles and exports for any size.

    Parameters: 4 C^2 + 4 C. Cost: 4 H W C^2 + 2 H W N C multiply-accumulates; memory heads N weights per cell, and the
    scores live until the last layer that reads them.

    Place: the first blocks of a stage of a hierarchical vision transformer, behind its normalisation.

    Args:
        channels: Number of channels C of the map, a multiple of `heads`.
        heads: Number of heads, at least 1.
        window: Side of a window in cells, at least 1. The paper's last two stages have 14 and 7 at 224 x 224 pixels.
    """

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__(channels, heads, window)
        self.q = nn.Linear(channels, channels)
        self.k = nn.Linear(channels, channels)
        for layer in (self.q, self.k):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attends within the windows of `x`.

        Args:
            x: Map (B, C, H, W).
            residual: Scores (M, heads, N, N) added to this layer's, or none.

        Returns:
            The map (B, C, H, W), and the scores (M, heads, N, N) in float32 or better.
        """
        tokens = split_windows(x, self.window)
        valid = valid_tokens(x, self.window)
        queries, keys = self._heads(self.q(tokens)), self._heads(self.k(tokens))
        scores = precise_logits(queries * queries.shape[3] ** -0.5, keys)
        if residual is not None:
            check_scores(residual, self.heads, self.window)
            scores = scores + residual
        scores = without_padding(scores, valid)
        return self._attend(scores, valid, tokens, x), scores


class LessAttention(_Windowed):
    """Attention by the transformed scores of the layer before, without queries and keys of its own.

        A' = Psi(Theta(A)^T)^T = W_psi A W_theta^T + (W_psi 1) b_theta^T + b_psi 1^T        (M, heads, N, N)
        y = W_o softmax(A') V + b_o,   V = W_v x + b_v                                      (B, C, H, W)

    arXiv 2406.00427: Theta and Psi are linear maps of the N = window^2 scores of a query and of a key, shared by all
    heads and windows. A' is returned for the next layer. Windows and padding are those of `VanillaAttention`; as scores
    of padded queries and keys are zero, the transforms act on the valid ones as their valid sub-matrices do.

    Theta and Psi are stored as their deviation from the identity, W = I + `weight`, and start there with biases at
    zero: a fresh layer attends exactly as the one before, and weight decay pulls towards that and not towards uniform
    attention. With `rank` r the deviation is U V^T with V at zero. b_psi adds a constant to all keys of a query, so
    that it leaves the softmax of its own layer unchanged (its gradient there is zero) and acts through the scores
    handed on.

    The transforms cost more than they save unless windows are small: per window 2 heads N^3 multiply-accumulates
    against N^2 C + 2 N C^2 of the queries, keys and their product; with C = 320 and 5 heads more than saved at N = 196,
    a small part of it at N = 49. `rank` makes it 4 heads r N^2. Beside fused self-attention both forms are slower, and
    the more so the larger N is; `python -m benchmarks.attention --only "less attention"` measures by how much. Scores
    stay in float32 under autocast. Compiles and exports for any size.

    Parameters: 2 C^2 + 2 C + 2 N^2 + 2 N, with `rank` 2 C^2 + 2 C + 4 r N + 2 N. Cost: 2 H W C^2 + H W N C + 2 heads H
    W N^2 multiply-accumulates (with `rank` 4 heads r H W N for the last term); memory 2 heads N scores per cell.

    Place: the later blocks of a stage that a `VanillaAttention` opens, behind their normalisation.

    Args:
        channels: Number of channels C of the map, a multiple of `heads`.
        heads: Number of heads, that of the layer before.
        window: Side of a window in cells, that of the layer before.
        rank: Rank r of the deviations of Theta and Psi from the identity, at least 1, or none for full matrices (the
            paper).
    """

    def __init__(self, channels: int, heads: int, window: int, rank: int | None = None) -> None:
        super().__init__(channels, heads, window)
        if rank is not None:
            check_at_least(1, rank=rank)
        self.theta = _Deviation(window**2, rank)
        self.psi = _Deviation(window**2, rank)

    def forward(self, x: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Attends within the windows of `x`.

        Args:
            x: Map (B, C, H, W), of the size of the map the scores belong to.
            scores: Scores (M, heads, N, N) that the layer before returned.

        Returns:
            The map (B, C, H, W), and the transformed scores (M, heads, N, N) in float32 or better.
        """
        check_scores(scores, self.heads, self.window)
        valid = valid_tokens(x, self.window)
        with autocast_off(x.device):
            scores = without_padding(self._transformed(without_padding(scores, valid), valid), valid)
        return self._attend(scores, valid, split_windows(x, self.window), x), scores

    def _transformed(self, scores: Tensor, valid: Tensor | None) -> Tensor:
        """A' by its closed form, in two large products and one further pass over the scores."""
        mixed = self.theta.of_keys(scores)
        counted = scores.new_ones(1, scores.shape[2]) if valid is None else valid.to(scores.dtype)
        theta_bias, psi_bias = at_least_float32(self.theta.bias), at_least_float32(self.psi.bias)
        constant = self.psi(counted).unsqueeze(2) * theta_bias + psi_bias.unsqueeze(1)  # (M or 1, N, N)
        return self.psi.of_queries(mixed, mixed + constant.unsqueeze(1))


class _Deviation(nn.Module):
    """Linear map W of N numbers, stored as its difference from the identity: I + weight, or I + up down^T."""

    def __init__(self, size: int, rank: int | None) -> None:
        super().__init__()
        self.full = rank is None
        if rank is None:
            self.weight = nn.Parameter(torch.zeros(size, size))
        else:
            self.up = nn.Parameter(torch.randn(size, rank) * rank**-0.5)
            self.down = nn.Parameter(torch.zeros(size, rank))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, vectors: Tensor) -> Tensor:
        """Applies the map, without its bias, to vectors (M, N)."""
        inner, outer = self._factors()
        return torch.addmm(vectors, vectors if inner is None else vectors @ inner, outer.T)

    def of_keys(self, scores: Tensor) -> Tensor:
        """The same for the last axis of scores (M, heads, N, N): one matrix product over all queries."""
        mixed: Tensor = self(scores.flatten(0, 2))
        return mixed.view_as(scores)

    def of_queries(self, scores: Tensor, start: Tensor) -> Tensor:
        """(W - I) A added to `start`: the map on the axis before, without a transpose."""
        inner, outer = self._factors()
        flat = scores.flatten(0, 1)  # (M heads, N, N)
        count = flat.shape[0]
        right = flat if inner is None else torch.bmm(inner.T.expand(count, -1, -1), flat)  # (M heads, r, N)
        # An expanded batch goes into the product as it is; `outer @ right` would copy the scores.
        return torch.baddbmm(start.flatten(0, 1), outer.expand(count, -1, -1), right).view_as(scores)

    def _factors(self) -> tuple[Tensor | None, Tensor]:
        """W - I as outer inner^T, where the first of (inner, outer) is none for a full matrix."""
        if self.full:
            return None, at_least_float32(self.weight)
        return at_least_float32(self.down), at_least_float32(self.up)


def check_scores(scores: Tensor, heads: int, window: int) -> None:
    """Raises `ValueError` if scores are not those of `heads` heads in windows of the given side."""
    if scores.dim() != 4 or scores.shape[1] != heads or scores.shape[2] != window**2 or scores.shape[3] != window**2:
        raise ValueError(
            f"scores of shape {tuple(scores.shape)} do not fit heads={heads} and window={window}; "
            f"give scores of shape (windows, {heads}, {window**2}, {window**2})"
        )


def valid_tokens(x: Tensor, window: int) -> Tensor | None:
    """The mask of valid tokens, or none where windows divide the map and every token is one."""
    # An exported program must not depend on the sizes that it was exported at.
    whole = not torch.compiler.is_exporting() and x.shape[2] % window == 0 and x.shape[3] % window == 0
    return None if whole else window_mask(x, window)


def without_padding(scores: Tensor, valid: Tensor | None) -> Tensor:
    """Scores (M, heads, N, N) with zeros where the query or the key is no valid (M, N) token."""
    if valid is None:
        return scores
    return scores.masked_fill(~(valid[:, None, :, None] & valid[:, None, None, :]), 0.0)
