"""What whole tables of rows ask of `generate`."""

from collections.abc import Mapping
from typing import Any

from vlmkit.validation import check_at_least


def check_generation_options(batch_size: int, *, generation: Mapping[str, Any], limit: str) -> None:
    """Check that batches have rows, and that each row gets one text.

    Args:
        batch_size: rows per call of `generate`.
        generation: what is passed to it.
        limit: what a row gets, for the error, such as "a row gets one caption".

    Raises:
        ValueError: see above.
    """
    check_at_least("batch_size", batch_size)
    if (count := generation.get("num_return_sequences", 1)) != 1:
        raise ValueError(f"num_return_sequences is {count}; {limit}")
