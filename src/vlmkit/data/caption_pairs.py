"""Data set of image-caption pairs."""

from typing import Any

import datasets
from torch.utils.data import Dataset

from vlmkit.data.table_checks import check_columns


class CaptionPairs(Dataset[dict[str, Any]]):
    """Data set with one item per image-caption pair, so that an epoch contains every caption once.

    An item is the row of the image with only one caption in `captions`, and only the features of this caption in
    `text_pooled` if the table has cached text features. The table is not copied, and images are decoded on access.

    Args:
        table: Table with one row per image, and the columns `captions` (a list) and `image_id`.

    Attributes:
        image_ids: The `image_id` of each pair, for [`UniqueGroupBatchSampler`].

    Raises:
        ValueError: If the table lacks a column or does not contain any captions.

    Example:
        >>> columns = {"image_id": ["a.jpg", "b.jpg"], "captions": [["A dog.", "A puppy."], ["A cat."]]}
        >>> pairs = CaptionPairs(datasets.Dataset.from_dict(columns))
        >>> len(pairs), pairs[1]
        (3, {'image_id': 'a.jpg', 'captions': ['A puppy.']})
    """

    def __init__(self, table: datasets.Dataset):
        check_columns(table, "captions", "image_id")
        self.table = table
        texts = table.select_columns(["captions", "image_id"]).with_format(None)
        self._positions: list[tuple[int, int]] = []
        self.image_ids: list[str] = []
        for row, record in enumerate(texts):
            for position in range(len(record["captions"])):
                self._positions.append((row, position))
                self.image_ids.append(record["image_id"])
        if not self._positions:
            raise ValueError("`table` must contain at least one caption, but got none.")

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Return several items, which is much faster than item by item. `DataLoader` uses this method."""
        positions = [self._positions[index] for index in indices]
        columns = self.table[[row for row, _ in positions]]
        items = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for item, (_, position) in zip(items, positions, strict=True):
            for name in {"captions", "text_pooled"} & item.keys():
                item[name] = item[name][position : position + 1]
        return items
