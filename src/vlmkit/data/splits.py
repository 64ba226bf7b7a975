"""Selection of splits and rows of a data set."""

from collections.abc import Mapping

from datasets import Dataset, DatasetDict

from vlmkit.validation import check_at_least


def take_rows(tables: Mapping[str, Dataset], count: int | None) -> DatasetDict:
    """Select the first rows of each split.

    Args:
        tables: Dictionary from the name of each split to its table.
        count: Maximum number of rows per split. `None` selects all rows.

    Returns:
        A `DatasetDict` with the selected rows.

    Raises:
        ValueError: If `count` is less than 1.

    Example:
        >>> tables = {"train": Dataset.from_dict({"n": [1, 2, 3]}), "test": Dataset.from_dict({"n": [4]})}
        >>> [table["n"][:] for table in take_rows(tables, 2).values()]
        [[1, 2], [4]]
    """
    if count is None:
        return DatasetDict(tables)
    check_at_least("count", count)
    return DatasetDict({name: table.select(range(min(count, len(table)))) for name, table in tables.items()})


def evaluation_split(tables: Mapping[str, Dataset]) -> Dataset:
    """Return the split for the evaluation of a model.

    This is `test`, `validation` if `test` is missing (such as in COCO, whose test captions are not public), or the only
    split.

    Args:
        tables: Dictionary from the name of each split to its table.

    Returns:
        The table of the split.

    Raises:
        ValueError: If there is neither `test` nor `validation`, and the number of splits is not one.

    Example:
        >>> train, validation = Dataset.from_dict({"n": [1]}), Dataset.from_dict({"n": [2]})
        >>> evaluation_split({"train": train, "validation": validation})["n"][:]
        [2]
    """
    for name in ("test", "validation"):
        if name in tables:
            return tables[name]
    if len(tables) != 1:
        names = ", ".join(map(repr, tables)) or "no splits"
        raise ValueError(f"`tables` must have a split 'test' or 'validation', or only one split, but got {names}.")
    return next(iter(tables.values()))
