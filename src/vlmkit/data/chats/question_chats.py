"""Questions and answers as conversations of several turns."""

from typing import Any

import datasets
from torch.utils.data import Dataset

from vlmkit.data.chats.messages import chat_about_row
from vlmkit.data.table_checks import check_columns, check_has_images
from vlmkit.validation import check_at_least


class QuestionChats(Dataset[dict[str, Any]]):
    """A view of a table with questions and answers as conversations of some turns each about one image.

    Args:
        table: one row per image, with `image` or cached `vision_features`, `questions` and `answers` (lists).
        max_turns: questions in a conversation; an image with more of them has several. All if not given.

    Raises:
        ValueError: the table lacks a column, a row has more or fewer answers than questions, `max_turns` is below 1,
            or there is no question.

    Example:
        >>> columns = {"questions": [["Red?", "Blue?"]], "answers": [["yes", "no"]]}
        >>> columns["vision_features"] = [[[0.0], [1.0]]]
        >>> table = datasets.Dataset.from_dict(columns)
        >>> [len(chat["messages"]) for chat in QuestionChats(table)], len(QuestionChats(table, max_turns=1))
        ([4], 2)
    """

    def __init__(self, table: datasets.Dataset, max_turns: int | None = None):
        check_has_images(table)
        check_columns(table, "questions", "answers")
        check_at_least("max_turns", max_turns)
        self.table = table
        self._turns: list[tuple[int, slice]] = []
        texts = table.select_columns(["questions", "answers"]).with_format(None)
        for row, record in enumerate(texts):
            count = len(record["questions"])
            if count != len(record["answers"]):
                raise ValueError(f"row {row} has {count} questions and {len(record['answers'])} answers")
            step = max_turns or max(count, 1)
            self._turns += [(row, slice(start, start + step)) for start in range(0, count, step)]
        if not self._turns:
            raise ValueError("the table holds no question")

    def __len__(self) -> int:
        return len(self._turns)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, turns = self._turns[index]
        record = self.table[row]
        return chat_about_row(record, list(zip(record["questions"][turns], record["answers"][turns], strict=True)))
