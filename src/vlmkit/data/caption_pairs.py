"""A table of images with several captions as a data set of single pairs."""

from typing import Any

import datasets
from torch.utils.data import Dataset

from vlmkit.data.table_checks import check_columns


class CaptionPairs(Dataset[dict[str, Any]]):
    """A view of a table with one item per image and caption, so that an epoch meets every caption once.

    An item is the image's row with `captions`, and `text_pooled` where present (one feature vector per caption), cut
    to one entry. Nothing is copied; an image is decoded when its item is read.

    Args:
        table: one row per image, with the columns `captions` (a list) and `image_id`.

    Attributes:
        image_ids: the `image_id` of each pair, such as [`UniqueGroupBatchSampler`] needs.

    Raises:
        ValueError: the table lacks a column, or it holds no caption.

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
            raise ValueError("the table holds no caption, so there are no pairs")

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Items by the batch, as `DataLoader` asks for them; much faster than one by one."""
        positions = [self._positions[index] for index in indices]
        columns = self.table[[row for row, _ in positions]]
        items = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for item, (_, position) in zip(items, positions, strict=True):
            for name in {"captions", "text_pooled"} & item.keys():
                item[name] = item[name][position : position + 1]
        return items
