"""Conversations for the scripts of stage 2: captions asked for, questions answered."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from common import CAPTIONED, SourceArguments, Tables, check_source, first_rows, load_tables
from datasets import Dataset, IterableDataset
from torch.utils.data import ConcatDataset

from vlmkit.data import CaptionChats, QuestionChats, caption_chat, load_easy_vqa

DATASETS = (*CAPTIONED, "easy_vqa", "scenes")
TASKS = ("captions", "questions")


@dataclass
class ChatDataArguments(SourceArguments):
    """Which images, captions and questions."""

    datasets: list[str] = field(
        default_factory=lambda: ["scenes"],
        metadata={"help": f"some of {', '.join(DATASETS)}, or web alone; scenes are drawn, and need no data"},
    )
    easy_vqa_folder: str | None = field(
        default=None, metadata={"help": "if it is not installed (pip install easy-vqa)"}
    )
    tasks: list[str] = field(
        default_factory=lambda: list(TASKS), metadata={"help": "captions, questions, or both where there are both"}
    )
    max_turns: int = field(default=5, metadata={"help": "questions in a conversation"})


def load_chat_tables(arguments: ChatDataArguments, training: bool = True) -> dict[str, Tables]:
    """The splits of every data set that was asked for, by its name.

    Args:
        arguments: what was asked for.
        training: whether there must be a split to train on beside the one to score on.

    Raises:
        SystemExit: a task or data set is unknown, twice there, or without its data or splits.
    """
    names = arguments.datasets
    if not arguments.tasks or not set(arguments.tasks) <= set(TASKS):
        raise SystemExit(f"--tasks are {' '.join(arguments.tasks)}: give captions, questions, or both")
    known = names == ["web"] or set(names) <= set(DATASETS)
    if not names or len(set(names)) < len(names) or not known:
        given, kinds = " ".join(names), ", ".join(DATASETS)
        raise SystemExit(f"--datasets are {given}: give some of {kinds}, each once, or web alone")
    check_source(names, arguments)
    return {
        name: first_rows(load_easy_vqa(arguments.easy_vqa_folder), arguments.max_images)
        if name == "easy_vqa"
        else load_tables(name, arguments, training)
        for name in names
    }


def chats_of(
    tables: Sequence[Dataset | IterableDataset], tasks: Sequence[str], max_turns: int | None
) -> ConcatDataset[dict[str, Any]] | IterableDataset | None:
    """Conversations about all captions and all questions of some tables; None if there are none.

    Args:
        tables: with `captions`, `questions` or both; or a single stream with `captions`, which becomes a stream.
        tasks: which of them to speak about.
        max_turns: questions in a conversation.
    """
    if len(tables) == 1 and isinstance(tables[0], IterableDataset):
        stream = tables[0]
        return stream.map(caption_chat, remove_columns=stream.column_names) if "captions" in tasks else None
    views: list[Any] = []
    for table in tables:
        if "captions" in tasks and "captions" in table.column_names:
            views.append(CaptionChats(table))
        if "questions" in tasks and "questions" in table.column_names:
            views.append(QuestionChats(table, max_turns))
    return ConcatDataset(views) if views else None
