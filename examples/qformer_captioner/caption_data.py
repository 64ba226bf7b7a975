"""Shared code of the captioner scripts: data loading and training arguments."""

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
    """Dataset of images and captions."""

    dataset: Literal["coco", "flickr8k", "scenes"] = field(
        default="scenes", metadata={"help": "Dataset format. 'scenes' are synthetic and require no --data."}
    )
    data: str | None = field(
        default=None,
        metadata={"help": "Folder or hub id. For coco also a captions file; training requires Karpathy's."},
    )
    image_folder: str | None = field(
        default=None, metadata={"help": "Folder of the images if --data is a captions file."}
    )
    max_images: int | None = field(
        default=None, metadata={"help": "Maximum number of images per split. The original uses 80000 of COCO."}
    )
    on_error: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "Whether invalid rows raise an error or are skipped."}
    )


@dataclass
class CaptionerTrainingArguments(TableTrainingArguments):
    """Training arguments with the defaults of the original for all phases."""

    output_dir: str = "runs/qformer_captioner"
    lr_scheduler_type: str = "cosine"
    max_grad_norm: float = 5.0
    logging_steps: float = 50
    save_total_limit: int | None = 1


def load_tables(arguments: DataArguments, training: bool = True) -> DatasetDict:
    """Load the splits of a dataset.

    Args:
        arguments: Dataset arguments of the script.
        training: Require a training split in addition to an evaluation split.

    Raises:
        SystemExit: If `--dataset` and `--data` are incompatible, or a required split is missing.
    """
    tables = take_rows(all_tables(arguments), arguments.max_images)
    if training and not ("train" in tables and {"validation", "test"} & tables.keys()):
        raise SystemExit(
            f"{arguments.data} must contain a training split and a validation or test split, but got "
            f"{', '.join(tables)}."
        )
    return tables


def all_tables(arguments: DataArguments) -> DatasetDict:
    """Load all splits without a limit on the number of images."""
    if arguments.dataset == "scenes":
        if arguments.data is not None:
            raise SystemExit(
                f"`--data` cannot be used with `--dataset scenes`, but got {arguments.data}. Remove `--data`, or set "
                "`--dataset` to the format of the data."
            )
        return load_scenes()
    if arguments.dataset == "flickr8k":
        return load_flickr8k(arguments.data, on_error=arguments.on_error)
    if arguments.data is None:
        raise SystemExit(
            "`--dataset coco` requires `--data`. Pass a folder, a hub id or a captions file (for training, Karpathy's)."
        )
    return load_coco_captions(
        arguments.data,
        image_folder=arguments.image_folder,
        max_images=arguments.max_images,
        on_error=arguments.on_error,
    )


def table_of_files(files: Sequence[Path]) -> Dataset:
    """Return a table of image files that are decoded on access."""
    return Dataset.from_dict(
        {"image": [str(file) for file in files], "file": [str(file) for file in files]},
        Features({"image": Image(), "file": Value("string")}),
    )


def percent(metrics: dict[str, Any]) -> str:
    """Format metrics as a table row: in per cent, except CIDEr."""
    return "".join(f"{metrics[name]:9.3f}" if name == "cider" else f"{metrics[name]:9.1%}" for name in SCORES)
