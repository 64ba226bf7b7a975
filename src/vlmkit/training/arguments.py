"""Command-line arguments of training scripts."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments


@dataclass
class ContrastiveTrainingArguments(TrainingArguments):
    """What `Trainer` must know of batches whose loss compares images with texts.

    Collators read columns that the model does not know, so none is removed; nothing is reported unless asked for.

    Raises:
        ValueError: several GPUs in one process, where each would see its own part of the batch only.
    """

    report_to: str = "none"
    dataloader_pin_memory: bool = field(default_factory=torch.cuda.is_available)  # without a GPU it only warns
    remove_unused_columns: bool = False

    def __post_init__(self) -> None:
        """Refuse several GPUs in one process."""
        super().__post_init__()
        if self.n_gpu > 1:
            raise ValueError(
                f"one process sees {self.n_gpu} GPUs; start one for each: torchrun --nproc_per_node gpu ..."
            )


def parse_arguments(
    *dataclasses: type, arguments: Sequence[str] | None = None, defaults: Mapping[str, Any] | None = None
) -> tuple[Any, ...]:
    """Read flags; a YAML file of flags can come first, and flags after it win.

    Args:
        *dataclasses: whose fields are the flags.
        arguments: the words; those of the process if not given.
        defaults: settings that file and flags override.

    Returns:
        An instance of each dataclass.

    Raises:
        FileNotFoundError: the YAML file does not exist.
        ValueError: it does not hold a mapping.
        SystemExit: a flag is unknown or its value wrong; the reason is printed.

    Example:
        >>> @dataclass
        ... class Arguments:
        ...     seeds: list[int]
        ...     name: str = "a"
        >>> parse_arguments(Arguments, arguments=["--name", "b"], defaults={"seeds": [1, 2], "name": "c"})
        (Arguments(seeds=[1, 2], name='b'),)
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    flags = _flags(defaults or {})
    if words and words[0].endswith((".yaml", ".yml")):
        settings = yaml.safe_load(Path(words[0]).read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError(f"{words[0]} holds no settings; write one `name: value` per line")
        flags, words = flags + _flags(settings), words[1:]
    return HfArgumentParser(dataclasses).parse_args_into_dataclasses(flags + words, look_for_args_file=False)


def _flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the words of a command line: lists as several words, mappings as JSON."""
    words = []
    for name, value in settings.items():
        if value is None:  # null: the dataclass's own default
            continue
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        words += [f"--{name}", *map(str, values)]
    return words
