"""Pooling of token sequences to one vector, over attended tokens only."""

import torch
from torch import Tensor

from vlmkit.validation import check_choice

POOLINGS = ("mean", "cls", "last")


def pool_tokens(tokens: Tensor, attention_mask: Tensor | None = None, *, pooling: str = "mean") -> Tensor:
    """Pool the attended tokens of each sequence.

    Args:
        tokens: `(B, T, D)`.
        attention_mask: `(B, T)`, 1 for tokens and 0 for padding on either side. Defaults to ones.
        pooling: `"mean"`, `"cls"` (the first attended token) or `"last"` (the last attended token).

    Returns:
        `(B, D)`. A sequence without attended tokens gives zeros.

    Raises:
        ValueError: If `pooling` is unknown.

    Example:
        >>> pool_tokens(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]])).item()
        2.0
    """
    check_choice("pooling", pooling, POOLINGS)
    if attention_mask is None:
        attention_mask = tokens.new_ones(tokens.shape[:2])
    mask = attention_mask.to(tokens.dtype)
    if pooling == "mean":
        weights = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
    else:
        # The first attended token is the first maximum of the mask; the last one is the first in the mirrored mask.
        first = mask.argmax(dim=1) if pooling == "cls" else mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
        weights = mask * torch.nn.functional.one_hot(first, mask.shape[1]).to(mask.dtype)
    return torch.einsum("bt,btd->bd", weights, tokens)
