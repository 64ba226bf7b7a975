"""Checks of the arguments that are passed to `generate` for each batch of a dataset."""

from collections.abc import Mapping
from typing import Any

from vlmkit.validation import check_at_least


def check_generation_options(batch_size: int, *, generation: Mapping[str, Any]) -> None:
    """Check the batch size, and that one sequence is generated for each input.

    Args:
        batch_size: Number of inputs per call of `generate`.
        generation: Keyword arguments of `generate`.

    Raises:
        ValueError: If `batch_size` is less than 1, or `num_return_sequences` is not 1.
    """
    check_at_least("batch_size", batch_size)
    if (count := generation.get("num_return_sequences", 1)) != 1:
        raise ValueError(f"`num_return_sequences` must be 1, but got {count}. Call `generate` directly.")
