"""Data and training arguments that the scripts share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, DatasetDict, Features, Image, Value

from vlmkit.data import load_coco_captions, load_flickr8k, load_scenes, take_rows
from vlmkit.training import TableTrainingArguments

SCORES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")


@dataclass
class DataArguments:
    """Which images and captions."""

    dataset: Literal["coco", "flickr8k", "scenes"] = field(
        default="scenes", metadata={"help": "scenes are drawn, and need no data"}
    )
    data: str | None = field(
        default=None, metadata={"help": "folder or hub id, of coco also a captions file (to train: Karpathy's)"}
    )
    image_folder: str | None = field(default=None, metadata={"help": "of the images, where --data is a captions file"})
    max_images: int | None = field(
        default=None, metadata={"help": "first images of each split (original: 80000 of coco)"}
    )
    on_error: Literal["raise", "skip"] = field(default="raise", metadata={"help": "what to do with faulty rows"})


@dataclass
class CaptionerTrainingArguments(TableTrainingArguments):
    """The original's settings that hold in all phases."""

    output_dir: str = "runs/qformer_captioner"
    lr_scheduler_type: str = "cosine"
    max_grad_norm: float = 5.0
    logging_steps: float = 50
    save_total_limit: int | None = 1


def load_tables(arguments: DataArguments, training: bool = True) -> DatasetDict:
    """The splits of the data set that was asked for.

    Args:
        arguments: what was asked for.
        training: whether there must be a split to train on beside the one to score on.

    Raises:
        SystemExit: data and data set do not go together, or there is no such split.
    """
    tables = take_rows(all_tables(arguments), arguments.max_images)
    if training and not ("train" in tables and {"validation", "test"} & tables.keys()):
        raise SystemExit(f"{arguments.data} needs a split to train on and another to score on, not {', '.join(tables)}")
    return tables


def all_tables(arguments: DataArguments) -> DatasetDict:
    """The data set as its loader returns it."""
    if arguments.dataset == "scenes":
        if arguments.data is not None:
            raise SystemExit(
                f"--dataset scenes draws its images: drop --data {arguments.data}, or name the --dataset that it holds"
            )
        return load_scenes()
    if arguments.dataset == "flickr8k":
        return load_flickr8k(arguments.data, on_error=arguments.on_error)
    if arguments.data is None:
        raise SystemExit("--dataset coco needs --data: a folder, a hub id or a captions file (to train: Karpathy's)")
    return load_coco_captions(
        arguments.data,
        image_folder=arguments.image_folder,
        max_images=arguments.max_images,
        on_error=arguments.on_error,
    )


def table_of_files(files: Sequence[Path]) -> Dataset:
    """A table of images that are read when they are needed."""
    return Dataset.from_dict(
        {"image": [str(file) for file in files], "file": [str(file) for file in files]},
        Features({"image": Image(), "file": Value("string")}),
    )


def percent(metrics: dict[str, Any]) -> str:
    """Scores in a row of a table: in per cent, CIDEr as it is."""
    return "".join(f"{metrics[name]:9.3f}" if name == "cider" else f"{metrics[name]:9.1%}" for name in SCORES)
