"""Data loading for the schedule: captions and questions as conversations."""

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

PHOTOS = ("coco", "flickr8k")  # datasets that are loaded from --data
DATASETS = (*PHOTOS, "easy_vqa", "scenes", "detailed_scenes")
DETAILED_SCENES = {"num_train": 4000, "num_test": 500, "num_validation": 200}


@dataclass
class ChatDataArguments:
    """Datasets and tasks of the conversations."""

    datasets: list[str] = field(
        default_factory=lambda: ["detailed_scenes"],
        metadata={
            "help": f"Datasets: one or more of {', '.join(DATASETS)}. Scenes are synthetic and require no --data."
        },
    )
    data: str | None = field(default=None, metadata={"help": "Folder or hub id of coco or flickr8k."})
    image_folder: str | None = field(
        default=None, metadata={"help": "Folder of the images if --data is a captions file."}
    )
    easy_vqa_folder: str | None = field(
        default=None, metadata={"help": "Folder of easy-VQA, if it is not installed with pip install easy-vqa."}
    )
    max_images: int | None = field(default=None, metadata={"help": "Maximum number of images per split and dataset."})
    on_error: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "Whether invalid rows raise an error or are skipped."}
    )
    tasks: list[str] = field(
        default_factory=lambda: list(CHAT_TASKS),
        metadata={"help": "Tasks: captions, questions or both. Each dataset is used for the tasks that it supports."},
    )
    max_turns: int = field(default=5, metadata={"help": "Maximum number of questions per conversation."})


def check_data(arguments: ChatDataArguments) -> None:
    """Check that the flags are compatible.

    Raises:
        SystemExit: If a task or dataset is unknown or repeated, or `--data` is missing or has no effect.
    """
    names, tasks = arguments.datasets, arguments.tasks
    if not tasks or not set(tasks) <= set(CHAT_TASKS):
        raise SystemExit(f"`--tasks` must be captions, questions or both, but got '{' '.join(tasks)}'.")
    if not names or len(set(names)) < len(names) or not set(names) <= set(DATASETS):
        raise SystemExit(
            f"`--datasets` must be one or more of {', '.join(DATASETS)} without repetitions, but got "
            f"'{' '.join(names)}'."
        )
    held = [name for name in PHOTOS if name in names]
    if len(held) > 1:
        raise SystemExit(f"`--data` can contain only one dataset, but got {' and '.join(held)}. Select one of them.")
    if held == ["coco"] and arguments.data is None:
        raise SystemExit("The dataset coco requires `--data`. Pass a folder, a captions file or a hub id.")
    if arguments.data is not None and not held:
        raise SystemExit(
            f"`--data` must not be set for {' and '.join(names)}, but got {arguments.data}. Remove it, or select the "
            f"dataset that it contains: {', '.join(PHOTOS)}."
        )
    if arguments.image_folder is not None and held != ["coco"]:
        raise SystemExit(
            f"`--image_folder` requires a captions file of coco, but got {arguments.image_folder} for "
            f"{' and '.join(names)}. Remove it."
        )


def load_chat_tables(arguments: ChatDataArguments) -> dict[str, DatasetDict]:
    """Load the splits of every selected dataset, by name.

    Raises:
        SystemExit: If a dataset has no training split, or no dataset supports the selected tasks.
    """
    source = arguments.data, arguments.image_folder, arguments.easy_vqa_folder, arguments.max_images, arguments.on_error
    tables = {name: load_splits(name, *source) for name in arguments.datasets}
    for name, splits in tables.items():
        if "train" not in splits:
            raise SystemExit(f"The dataset {name} must contain a training split, but got {', '.join(splits)}.")
    if build_chat_dataset([splits["train"] for splits in tables.values()], arguments.tasks) is None:
        raise SystemExit(
            f"At least one dataset must contain {' or '.join(arguments.tasks)}, but got {' and '.join(tables)}. Change "
            "`--tasks` or `--datasets`."
        )
    return tables


@cache  # all phases share the tables, which take long to build
def load_splits(
    name: str,
    data: str | None,
    image_folder: str | None,
    easy_vqa_folder: str | None,
    max_images: int | None,
    on_error: Literal["raise", "skip"],
) -> DatasetDict:
    """Load the first rows of the splits of a dataset. `ChatDataArguments` describes the arguments."""
    loaders = {
        "coco": lambda: load_coco_captions(data, image_folder=image_folder, max_images=max_images, on_error=on_error),
        "flickr8k": lambda: load_flickr8k(data, on_error=on_error),
        "easy_vqa": lambda: load_easy_vqa(easy_vqa_folder),
        "scenes": load_scenes,
        "detailed_scenes": lambda: load_detailed_scenes(  # only scenes that are used
            **{split: min(count, max_images or count) for split, count in DETAILED_SCENES.items()}
        ),
    }
    return take_rows(loaders[name](), max_images)


def data_names(arguments: ChatDataArguments) -> str:
    """Return the names of the datasets for the model card."""
    names = [Path(arguments.data).name if name in PHOTOS and arguments.data else name for name in arguments.datasets]
    return ", ".join(name.replace("_", " ") if name.endswith("scenes") else name for name in names)


def print_replies(model: PreTrainedModel, processor: ProcessorMixin, arguments: ChatDataArguments) -> None:
    """Print replies about held-out images of each dataset next to the reference answers."""
    for name, splits in load_chat_tables(arguments).items():
        held_out = [splits[split] for split in ("test", "validation") if split in splits]
        chats = build_chat_dataset(held_out[:1], arguments.tasks, max_turns=1) or []
        for question, reply, answer in first_replies(model, processor, chats, max_new_tokens=30, do_sample=False):
            print(f"{name}: {question} -> {reply} ({answer})")
