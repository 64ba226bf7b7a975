"""Conversion of tables with captions and questions to one data set of conversations."""

from collections.abc import Sequence
from typing import Any

import datasets
from torch.utils.data import ConcatDataset

from vlmkit.data.chats.caption_chats import CaptionChats, caption_chat
from vlmkit.data.chats.question_chats import QuestionChats

CHAT_TASKS = ("captions", "questions")
"""Tasks of [`build_chat_dataset`], which are also the names of the columns."""


def build_chat_dataset(
    tables: Sequence[datasets.Dataset | datasets.IterableDataset],
    tasks: Sequence[str] = CHAT_TASKS,
    *,
    max_turns: int | None = None,
) -> ConcatDataset[dict[str, Any]] | datasets.IterableDataset | None:
    """Build a data set of conversations about the captions and questions of several tables.

    Args:
        tables: Tables in the format of [`CaptionChats`] or [`QuestionChats`], or both. Alternatively, a single stream
            in the format of [`caption_chat`].
        tasks: `"captions"`, `"questions"` or both. Other columns are ignored.
        max_turns: Maximum number of questions per conversation, see [`QuestionChats`]. Defaults to all.

    Returns:
        The conversations of all tables in order, captions before questions. For a stream, a stream of conversations.
        `None` if no table has a column for the tasks.

    Raises:
        ValueError: If a task is unknown, a stream is combined with other tables, or [`CaptionChats`] or
            [`QuestionChats`] raises an error.

    Example:
        >>> columns = {"image_id": ["a.jpg"], "captions": [["A dog."]], "vision_features": [[[0.0], [1.0]]]}
        >>> table = datasets.Dataset.from_dict(columns)
        >>> len(build_chat_dataset([table, table])), build_chat_dataset([table], tasks=["questions"])
        (2, None)
    """
    if unknown := set(tasks) - set(CHAT_TASKS):
        names = ", ".join(map(repr, sorted(unknown)))
        raise ValueError(f"`tasks` must only contain {', '.join(map(repr, CHAT_TASKS))}, but got {names}.")
    streams = [index for index, table in enumerate(tables) if isinstance(table, datasets.IterableDataset)]
    if streams and len(tables) > 1:
        raise ValueError(
            f"`tables` must contain a single stream or only tables, but got {len(tables)} entries, of which number "
            f"{streams[0]} is a stream. Pass the stream alone, or load it into a table."
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
