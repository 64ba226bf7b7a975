"""What train.py, evaluate.py and scaling_grid.py share: the data, and the arguments of a contrastive Trainer."""

import sys
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import yaml
from datasets import Dataset, DatasetDict
from transformers import HfArgumentParser, PreTrainedModel, ProcessorMixin, TrainingArguments

from vlmkit.data import load_flickr8k, load_scenes
from vlmkit.training import cache_image_features, cache_text_features


@dataclass
class DataArguments:
    """Which images and captions."""

    data: str | None = field(
        default=None, metadata={"help": "folder or hub id of Flickr8k (jxie/flickr8k); drawn scenes if not given"}
    )
    protocol: Literal["paper", "full"] = field(
        default="paper", metadata={"help": "1,800 + 200 images with one caption, or the published splits with all"}
    )
    split_seed: int = field(default=0, metadata={"help": "which 2,000 images the protocol 'paper' draws"})
    on_error: Literal["raise", "skip"] = field(default="raise", metadata={"help": "what to do with faulty rows"})


@dataclass
class ContrastiveTrainingArguments(TrainingArguments):
    """The paper's recipe, and what `Trainer` must know of contrastive batches."""

    output_dir: str = "runs/dual_encoder"
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    lr_scheduler_type: str = "cosine"
    num_train_epochs: float = 20
    per_device_train_batch_size: int = 256
    per_device_eval_batch_size: int = 256
    logging_strategy: str = "epoch"
    report_to: str = "none"
    remove_unused_columns: bool = False  # the collator, not the model, reads the columns
    label_names: list[str] | None = field(default_factory=lambda: ["group_ids"])  # what compute_metrics gets


def parse(*dataclasses: type) -> tuple[Any, ...]:
    """Read flags; a YAML file of flags can come first, and flags after it win."""
    arguments = sys.argv[1:]
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        settings = yaml.safe_load(Path(arguments[0]).read_text())
        flags = [[f"--{name}", *(value if isinstance(value, list) else [value])] for name, value in settings.items()]
        arguments = [str(flag) for flag in chain.from_iterable(flags)] + arguments[1:]
    return HfArgumentParser(dataclasses).parse_args_into_dataclasses(arguments, look_for_args_file=False)


def load_tables(arguments: DataArguments) -> DatasetDict:
    """Flickr8k from the place that was given, or the embedded scenes."""
    if arguments.data is None:
        return load_scenes(seed=arguments.split_seed)
    return load_flickr8k(arguments.data, arguments.protocol, arguments.split_seed, arguments.on_error)


def cache_features(model: PreTrainedModel, processor: ProcessorMixin, table: Dataset) -> Dataset:
    """Run both towers over a table once; later calls read the file."""
    return cache_text_features(model.text_tower, processor, cache_image_features(model.vision_tower, processor, table))
