"""Checks of the columns of a table."""

import datasets


def check_columns(table: datasets.Dataset, *names: str) -> None:
    """Check that a table has all of some columns.

    Raises:
        ValueError: If it lacks a column.

    Example:
        >>> check_columns(datasets.Dataset.from_dict({"image": []}), "image", "captions")
        Traceback (most recent call last):
        ...
        ValueError: the table lacks captions; its columns: ['image']
    """
    if missing := set(names).difference(table.column_names):
        raise ValueError(f"the table lacks {' and '.join(sorted(missing))}; its columns: {table.column_names}")


def check_has_images(table: datasets.Dataset) -> None:
    """Check that a table has images, or cached vision features in their place.

    Raises:
        ValueError: If it has neither column.
    """
    if not {"image", "vision_features"} & set(table.column_names):
        raise ValueError(f"the table has neither 'image' nor 'vision_features', only {table.column_names}")
