"""Conversations for the scripts of stage 2: captions asked for, questions answered."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from common import first_rows
from datasets import Dataset, DatasetDict
from torch.utils.data import ConcatDataset

from vlmkit.data import CaptionChats, QuestionChats, load_coco_captions, load_easy_vqa, load_flickr8k, load_scenes

CAPTIONED = ("coco", "flickr8k")
DATASETS = (*CAPTIONED, "easy_vqa", "scenes")
TASKS = ("captions", "questions")


@dataclass
class ChatDataArguments:
    """Which images, captions and questions."""

    datasets: list[str] = field(
        default_factory=lambda: ["scenes"],
        metadata={"help": f"some of {', '.join(DATASETS)}; scenes are drawn, and need no data"},
    )
    data: str | None = field(default=None, metadata={"help": "folder or hub id of coco or flickr8k"})
    easy_vqa_folder: str | None = field(
        default=None, metadata={"help": "if it is not installed (pip install easy-vqa)"}
    )
    max_images: int | None = field(default=None, metadata={"help": "first images of each split of each data set"})
    tasks: list[str] = field(
        default_factory=lambda: list(TASKS), metadata={"help": "captions, questions, or both where there are both"}
    )
    max_turns: int = field(default=5, metadata={"help": "questions in a conversation"})


def load_chat_tables(arguments: ChatDataArguments) -> dict[str, DatasetDict]:
    """The tables of every data set that was asked for, by its name.

    Raises:
        SystemExit: a task or data set is unknown, twice there, or without its data.
    """
    names = arguments.datasets
    if not arguments.tasks or not set(arguments.tasks) <= set(TASKS):
        raise SystemExit(f"--tasks are {' '.join(arguments.tasks)}: give captions, questions, or both")
    if not names or len(set(names)) < len(names) or not set(names) <= set(DATASETS):
        raise SystemExit(f"--datasets are {' '.join(names)}: give some of {', '.join(DATASETS)}, each once")
    if {"coco", "flickr8k"} <= set(names):
        raise SystemExit("--data can hold coco or flickr8k, not both")
    if "coco" in names and arguments.data is None:
        raise SystemExit("coco needs --data: a folder, a captions file or a hub id")
    if arguments.data is not None and not {"coco", "flickr8k"} & set(names):
        raise SystemExit(f"drop --data {arguments.data}, or name the one of coco and flickr8k that it holds")
    loaders = {
        "coco": lambda: load_coco_captions(arguments.data, max_images=arguments.max_images),
        "easy_vqa": lambda: load_easy_vqa(arguments.easy_vqa_folder),
        "flickr8k": lambda: load_flickr8k(arguments.data),
        "scenes": load_scenes,
    }
    return {name: first_rows(loaders[name](), arguments.max_images) for name in names}


def chats_of(
    tables: Sequence[Dataset], tasks: Sequence[str], max_turns: int | None
) -> ConcatDataset[dict[str, Any]] | None:
    """Conversations about all captions and all questions of some tables; None if there are none.

    Args:
        tables: with `captions`, `questions` or both.
        tasks: which of them to speak about.
        max_turns: questions in a conversation.
    """
    views: list[Any] = []
    for table in tables:
        if "captions" in tasks and "captions" in table.column_names:
            views.append(CaptionChats(table))
        if "questions" in tasks and "questions" in table.column_names:
            views.append(QuestionChats(table, max_turns))
    return ConcatDataset(views) if views else None
