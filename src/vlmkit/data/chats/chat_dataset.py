"""Tables of captions and questions as one data set of conversations."""

from collections.abc import Sequence
from typing import Any

import datasets
from torch.utils.data import ConcatDataset

from vlmkit.data.chats.caption_chats import CaptionChats, caption_chat
from vlmkit.data.chats.question_chats import QuestionChats

CHAT_TASKS = ("captions", "questions")


def build_chat_dataset(
    tables: Sequence[datasets.Dataset | datasets.IterableDataset],
    tasks: Sequence[str] = CHAT_TASKS,
    *,
    max_turns: int | None = None,
) -> ConcatDataset[dict[str, Any]] | datasets.IterableDataset | None:
    """Conversations about all captions and all questions of some tables.

    Args:
        tables: with `captions`, `questions` or both; or a single stream with `captions`, which becomes a stream.
        tasks: which of them to speak about: `"captions"`, `"questions"` or both.
        max_turns: see [`QuestionChats`].

    Returns:
        Conversations one table after the other, captions before questions; or None if there are none to be had.

    Raises:
        ValueError: an unknown task, a stream beside another table, or as [`CaptionChats`] and [`QuestionChats`] raise.

    Example:
        >>> columns = {"image_id": ["a.jpg"], "captions": [["A dog."]], "vision_features": [[[0.0], [1.0]]]}
        >>> table = datasets.Dataset.from_dict(columns)
        >>> len(build_chat_dataset([table, table])), build_chat_dataset([table], tasks=["questions"])
        (2, None)
    """
    if unknown := set(tasks) - set(CHAT_TASKS):
        raise ValueError(f"tasks are {', '.join(CHAT_TASKS)}, and not {', '.join(sorted(unknown))}")
    streams = [index for index, table in enumerate(tables) if isinstance(table, datasets.IterableDataset)]
    if streams and len(tables) > 1:
        raise ValueError(
            f"table {streams[0]} is a stream, which can only be alone; drop the others, or read it into a table"
        )
    if streams:
        stream = tables[0]
        return stream.map(caption_chat, remove_columns=stream.column_names) if "captions" in tasks else None
    chats: list[Any] = []
    for table in tables:
        if "captions" in tasks and "captions" in table.column_names:
            chats.append(CaptionChats(table))
        if "questions" in tasks and "questions" in table.column_names:
            chats.append(QuestionChats(table, max_turns))
    return ConcatDataset(chats) if chats else None
