"""Checks of the columns of tables."""

import datasets


def check_columns(table: datasets.Dataset, *names: str) -> None:
    """Check that a table has all required columns.

    Args:
        table: Table to check.
        *names: Names of the required columns.

    Raises:
        ValueError: If the table lacks a column.

    Example:
        >>> check_columns(datasets.Dataset.from_dict({"image": []}), "image", "captions")
        Traceback (most recent call last):
        ...
        ValueError: The table lacks 'captions'. Its columns are ['image'].
    """
    if missing := set(names).difference(table.column_names):
        raise ValueError(
            f"The table lacks {' and '.join(map(repr, sorted(missing)))}. Its columns are {table.column_names}."
        )


def check_has_images(table: datasets.Dataset) -> None:
    """Check that a table has images or cached vision features.

    Args:
        table: Table to check.

    Raises:
        ValueError: If the table has neither a column `image` nor a column `vision_features`.
    """
    if not {"image", "vision_features"} & set(table.column_names):
        raise ValueError(f"The table must have the column 'image' or 'vision_features', but got {table.column_names}.")
