"""Conversations with questions about an image and their answers."""

from typing import Any

import datasets
from torch.utils.data import Dataset

from vlmkit.data.chats.messages import chat_about_row
from vlmkit.data.table_checks import check_columns, check_has_images
from vlmkit.validation import check_at_least


class QuestionChats(Dataset[dict[str, Any]]):
    """Data set of conversations, each with one or more questions about one image.

    Items are dictionaries with `messages`, and `vision_features (1, N, D)` if the table has cached features.

    Args:
        table: Table with one row per image, and the columns `image` or cached `vision_features`, `questions` and
            `answers` (lists).
        max_turns: Maximum number of questions per conversation. Further questions about the same image start a new
            conversation. By default, each image has one conversation with all questions.

    Raises:
        ValueError: If the table lacks a column or does not contain any questions, a row has different numbers of
            questions and answers, or `max_turns` is less than 1.

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
                raise ValueError(
                    f"Row {row}: each question must have one answer, but got {count} questions and "
                    f"{len(record['answers'])} answers."
                )
            step = max_turns or max(count, 1)
            self._turns += [(row, slice(start, start + step)) for start in range(0, count, step)]
        if not self._turns:
            raise ValueError("`table` must contain at least one question, but got none.")

    def __len__(self) -> int:
        return len(self._turns)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, turns = self._turns[index]
        record = self.table[row]
        return chat_about_row(record, list(zip(record["questions"][turns], record["answers"][turns], strict=True)))
