"""Conversations for the schedule: captions asked for, questions answered, from data sets of several kinds."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from datasets import DatasetDict
from transformers import PreTrainedModel, ProcessorMixin

from vlmkit.data import (
    CHAT_TASKS,
    build_chat_dataset,
    load_coco_captions,
    load_detailed_scenes,
    load_easy_vqa,
    load_flickr8k,
    load_scenes,
    take_rows,
)
from vlmkit.inference import first_replies

PHOTOS = ("coco", "flickr8k")  # what --data can hold
DATASETS = (*PHOTOS, "easy_vqa", "scenes", "detailed_scenes")
DETAILED_SCENES = {"num_train": 4000, "num_test": 500, "num_validation": 200}


@dataclass
class ChatDataArguments:
    """Which images, captions and questions."""

    datasets: list[str] = field(
        default_factory=lambda: ["detailed_scenes"],
        metadata={"help": f"some of {', '.join(DATASETS)}; scenes are drawn, and need no data"},
    )
    data: str | None = field(default=None, metadata={"help": "folder or hub id of coco or flickr8k"})
    image_folder: str | None = field(default=None, metadata={"help": "of the images, where --data is a captions file"})
    easy_vqa_folder: str | None = field(
        default=None, metadata={"help": "if it is not installed (pip install easy-vqa)"}
    )
    max_images: int | None = field(default=None, metadata={"help": "first images of each split of each data set"})
    on_error: Literal["raise", "skip"] = field(default="raise", metadata={"help": "what to do with faulty rows"})
    tasks: list[str] = field(
        default_factory=lambda: list(CHAT_TASKS), metadata={"help": "captions, questions, or both where there are both"}
    )
    max_turns: int = field(default=5, metadata={"help": "questions in a conversation"})


def check_data(arguments: ChatDataArguments) -> None:
    """Refuse flags that do not go together.

    Raises:
        SystemExit: a task or data set is unknown or twice there, or --data is missing or of no use.
    """
    names, tasks = arguments.datasets, arguments.tasks
    if not tasks or not set(tasks) <= set(CHAT_TASKS):
        raise SystemExit(f"--tasks are {' '.join(tasks)}: give captions, questions, or both")
    if not names or len(set(names)) < len(names) or not set(names) <= set(DATASETS):
        raise SystemExit(f"--datasets are {' '.join(names)}: give some of {', '.join(DATASETS)}, each once")
    held = [name for name in PHOTOS if name in names]
    if len(held) > 1:
        raise SystemExit(f"--data can hold {' or '.join(held)}, not both")
    if held == ["coco"] and arguments.data is None:
        raise SystemExit("coco needs --data: a folder, a captions file or a hub id")
    if arguments.data is not None and not held:
        raise SystemExit(f"drop --data {arguments.data}, or name the data set that it holds: {', '.join(PHOTOS)}")
    if arguments.image_folder is not None and held != ["coco"]:
        raise SystemExit(f"drop --image_folder {arguments.image_folder}: it goes with a captions file of coco")


def load_chat_tables(arguments: ChatDataArguments) -> dict[str, DatasetDict]:
    """The splits of every data set that was asked for, by its name.

    Raises:
        SystemExit: one has no split to train on, or nothing that was asked for is in any of them.
    """
    source = arguments.data, arguments.image_folder, arguments.easy_vqa_folder, arguments.max_images, arguments.on_error
    tables = {name: load_splits(name, *source) for name in arguments.datasets}
    for name, splits in tables.items():
        if "train" not in splits:
            raise SystemExit(f"{name} has no split to train on, only {', '.join(splits)}")
    if build_chat_dataset([splits["train"] for splits in tables.values()], arguments.tasks) is None:
        asked = " or ".join(arguments.tasks)
        raise SystemExit(f"{' and '.join(tables)} has no {asked}: change --tasks or --datasets")
    return tables


@cache  # checking photographs and drawing scenes take a while, and every phase asks for the same
def load_splits(
    name: str,
    data: str | None,
    image_folder: str | None,
    easy_vqa_folder: str | None,
    max_images: int | None,
    on_error: Literal["raise", "skip"],
) -> DatasetDict:
    """The first rows of the splits of a data set; the arguments are those of ChatDataArguments."""
    loaders = {
        "coco": lambda: load_coco_captions(data, image_folder=image_folder, max_images=max_images, on_error=on_error),
        "flickr8k": lambda: load_flickr8k(data, on_error=on_error),
        "easy_vqa": lambda: load_easy_vqa(easy_vqa_folder),
        "scenes": load_scenes,
        "detailed_scenes": lambda: load_detailed_scenes(  # no more than are used
            **{split: min(count, max_images or count) for split, count in DETAILED_SCENES.items()}
        ),
    }
    return take_rows(loaders[name](), max_images)


def data_names(arguments: ChatDataArguments) -> str:
    """What a model card calls the data sets."""
    names = [Path(arguments.data).name if name in PHOTOS and arguments.data else name for name in arguments.datasets]
    return ", ".join(name.replace("_", " ") if name.endswith("scenes") else name for name in names)


def print_replies(model: PreTrainedModel, processor: ProcessorMixin, arguments: ChatDataArguments) -> None:
    """Show what a model says about held-out images of each data set, beside the truth."""
    for name, splits in load_chat_tables(arguments).items():
        unseen = [splits[split] for split in ("test", "validation") if split in splits]
        chats = build_chat_dataset(unseen[:1], arguments.tasks, max_turns=1) or []
        for question, reply, answer in first_replies(model, processor, chats, max_new_tokens=30, do_sample=False):
            print(f"{name}: {question} -> {reply} ({answer})")
