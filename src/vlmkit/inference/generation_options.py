"""What whole tables of rows ask of `generate`."""

from collections.abc import Mapping
from typing import Any


def check_generation(batch_size: int, *, generation: Mapping[str, Any], limit: str) -> None:
    """Refuse batches without rows, and several texts for a row.

    Args:
        batch_size: rows per call of `generate`.
        generation: what is passed to it.
        limit: what a row gets, for the error, such as "a row gets one caption".

    Raises:
        ValueError: see above.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give 1 or more")
    if (count := generation.get("num_return_sequences", 1)) != 1:
        raise ValueError(f"num_return_sequences is {count}; {limit}")
