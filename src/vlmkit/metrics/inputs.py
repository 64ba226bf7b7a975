"""Validation of the inputs of metrics."""

import reprlib
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

Array: TypeAlias = Tensor | np.ndarray


def validate_integers(name: str, values: Array, *, bound: int) -> Tensor:
    """Validate integers `(N,)` from 0 to `bound` - 1, and return them as int64 on the CPU."""
    tensor = torch.as_tensor(values).cpu()
    if tensor.ndim != 1 or len(tensor) == 0 or tensor.is_floating_point():
        raise ValueError(
            f"`{name}` must be a vector of at least one integer, but got {tuple(tensor.shape)} of {tensor.dtype}."
        )
    outside = (tensor < 0) | (tensor >= bound)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"`{name}` must be from 0 to {bound - 1}, but got {tensor[row].item()} in row {row}. Check the ids and "
            "`num_classes`."
        )
    return tensor.long()


def validate_embeds(name: str, embeds: Array) -> Tensor:
    """Validate finite embeddings `(rows, D)`, and return them as float32 without gradient."""
    tensor = torch.as_tensor(embeds).detach().float()
    if tensor.ndim != 2 or tensor.numel() == 0:
        raise ValueError(f"`{name}` must be a matrix (rows, width) that is not empty, but got {tuple(tensor.shape)}.")
    # A finite sum of squares also bounds all dot products.
    broken = ~torch.linalg.vecdot(tensor, tensor).isfinite()
    if broken.any():
        raise ValueError(
            f"`{name}` must be finite in float32, but {int(broken.sum())} rows are not, the first of them row "
            f"{broken.nonzero()[0].item()}. Check whether training diverged or half precision overflowed."
        )
    return tensor


def check_cutoffs(cutoffs: Sequence[int], num_candidates: int) -> None:
    """Check that each cutoff is from 1 to `num_candidates`."""
    for k in cutoffs:
        if not 1 <= k <= num_candidates:
            raise ValueError(
                f"Cutoffs must be from 1 to {num_candidates}, the number of candidates, but got {k}. Choose a smaller "
                "cutoff, or evaluate on more candidates."
            )


def check_list(name: str, values: object, *, advice: str) -> None:
    """Check that a value is a list, not a string or a dictionary."""
    if isinstance(values, str | Mapping) or not isinstance(values, Collection):
        raise TypeError(f"`{name}` must be a list, but got {reprlib.repr(values)}. {advice}")


def check_strings(name: str, values: Sequence[str], *, kind: str) -> None:
    """Check that a list contains strings. `kind` names them in the message, such as "caption"."""
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise TypeError(
                f"`{name}[{index}]` must be a string, but got {reprlib.repr(value)}. Pass the decoded {kind}."
            )
