"""Checks that the metrics share."""

import reprlib
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

Array: TypeAlias = Tensor | np.ndarray


def validate_integers(name: str, values: Array, *, bound: int) -> Tensor:
    """Integers `(N,)` from 0 to `bound` - 1, as int64 on the CPU."""
    tensor = torch.as_tensor(values).cpu()
    if tensor.ndim != 1 or len(tensor) == 0 or tensor.is_floating_point():
        raise ValueError(f"{name} {tuple(tensor.shape)} of {tensor.dtype} must be a row of integers, at least one")
    outside = (tensor < 0) | (tensor >= bound)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"{name} has {tensor[row].item()} in row {row}, outside 0..{bound - 1}; check it and num_classes"
        )
    return tensor.long()


def validate_embeds(name: str, embeds: Array) -> Tensor:
    """Embeddings `(rows, D)` as float32, finite, without gradient."""
    tensor = torch.as_tensor(embeds).detach().float()
    if tensor.ndim != 2 or tensor.numel() == 0:
        raise ValueError(f"{name} {tuple(tensor.shape)} must have the shape (rows, width), both at least 1")
    # A finite sum of squares also bounds all dot products.
    broken = ~torch.linalg.vecdot(tensor, tensor).isfinite()
    if broken.any():
        raise ValueError(
            f"{int(broken.sum())} rows of {name}, from row {broken.nonzero()[0].item()} on, are not finite, or too "
            "large for float32; look for a diverged training run or an overflow of half precision"
        )
    return tensor


def check_cutoffs(cutoffs: Sequence[int], num_candidates: int) -> None:
    """Check that each value of k lies in 1..num_candidates."""
    for k in cutoffs:
        if not 1 <= k <= num_candidates:
            raise ValueError(
                f"cut-off k={k} is outside 1..{num_candidates}, the number of candidates; choose k in that range or "
                "evaluate on more candidates"
            )


def check_list(name: str, values: object, *, advice: str) -> None:
    """Check that something is a list, and neither a string nor a dictionary."""
    if isinstance(values, str | Mapping) or not isinstance(values, Collection):
        raise TypeError(f"{name} is {reprlib.repr(values)}, not a list; {advice}")


def check_strings(name: str, values: Sequence[str], *, kind: str) -> None:
    """Check that a list holds strings, which are of some kind, such as captions."""
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise TypeError(f"{name}[{index}] is {reprlib.repr(value)}, not a string; give the decoded {kind}")
