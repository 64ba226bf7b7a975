"""Parts of a data set: the first rows of its splits, and the split to score on."""

from collections.abc import Mapping

from datasets import Dataset, DatasetDict

from vlmkit.validation import check_at_least


def take_rows(tables: Mapping[str, Dataset], count: int | None) -> DatasetDict:
    """The first rows of each split.

    Args:
        tables: the splits.
        count: rows; a shorter split, or all of them if not given, stays as it is.

    Raises:
        ValueError: `count` is below 1.

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
    """The split to score on: `test`, else `validation` (COCO has no captions of the other), else the only one.

    Args:
        tables: the splits.

    Raises:
        ValueError: there are several splits, but neither of the two.

    Example:
        >>> train, validation = Dataset.from_dict({"n": [1]}), Dataset.from_dict({"n": [2]})
        >>> evaluation_split({"train": train, "validation": validation})["n"][:]
        [2]
    """
    for name in ("test", "validation"):
        if name in tables:
            return tables[name]
    if len(tables) != 1:
        raise ValueError(f"no split to score on: give 'test' or 'validation' beside {', '.join(tables) or 'nothing'}")
    return next(iter(tables.values()))
