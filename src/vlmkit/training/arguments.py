"""Command-line arguments of training scripts."""

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from vlmkit.validation import did_you_mean


@dataclass
class TableTrainingArguments(TrainingArguments):
    """`Trainer`'s arguments with defaults for tables of images and captions.

    Collators read columns that the model does not know, so none is removed; nothing is reported unless asked for. Asked
    for `bf16` on a CPU without instructions for it, they warn.
    """

    report_to: str = "none"
    remove_unused_columns: bool = False

    def __post_init__(self) -> None:
        """Pin no memory without a GPU, where torch would only warn; and warn of what would take for ever."""
        self.dataloader_pin_memory &= torch.cuda.is_available()
        super().__post_init__()
        if self.bf16 and self.device.type == "cpu" and _emulates_bf16():
            warnings.warn(
                "this CPU has no instructions for bfloat16, and emulates it many times slower than float32: "
                "give --bf16 False",
                stacklevel=3,
            )


@dataclass
class ContrastiveTrainingArguments(TableTrainingArguments):
    """What `Trainer` must know of batches whose loss compares images with texts.

    Raises:
        ValueError: several GPUs in one process, where each would see its own part of the batch only.
    """

    def __post_init__(self) -> None:
        """Check that the process has a single GPU."""
        super().__post_init__()
        check_single_gpu(self)


def check_single_gpu(training_args: TrainingArguments) -> None:
    """Check that a process does not split its batches over several GPUs, as rows of a batch belong together.

    Raises:
        ValueError: the process sees several GPUs.
    """
    if training_args.n_gpu > 1:
        raise ValueError(
            f"one process sees {training_args.n_gpu} GPUs; start one for each: torchrun --nproc_per_node gpu ..."
        )


def _emulates_bf16() -> bool:
    """Whether this is known of the CPU; only newer versions of torch tell, and of x86 only."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities.get("avx512_bf16") is False and not capabilities.get("amx_bf16")


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
        ValueError: it does not hold a mapping, or a setting or flag is unknown.
        SystemExit: a flag's value is wrong; the reason is printed.

    Example:
        >>> @dataclass
        ... class Arguments:
        ...     seeds: list[int]
        ...     name: str = "a"
        >>> parse_arguments(Arguments, arguments=["--name", "b"], defaults={"seeds": [1, 2], "name": "c"})
        (Arguments(seeds=[1, 2], name='b'),)
    """
    settings, words = _file_and_words(arguments)
    return _parse(dataclasses, {**(defaults or {}), **settings}, words)


def parse_phases(
    *dataclasses: type, arguments: Sequence[str] | None = None, defaults: Mapping[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    """Read the phases of a training: like `parse_arguments`, once for each item of the file's list `phases`.

    A phase is the rest of the file, overridden by the phase's own settings, overridden by the flags. Without a list
    `phases`, all is one phase. Of several, each has a subfolder of `output_dir`: `phase_1`, `phase_2` and so on.

    Args:
        *dataclasses: whose fields are the flags.
        arguments: the words; those of the process if not given.
        defaults: settings that file, phases and flags override.

    Returns:
        For each phase, an instance of each dataclass.

    Raises:
        FileNotFoundError: the YAML file does not exist.
        ValueError: it does not hold a mapping, `phases` is not a list of mappings, or a setting is unknown.
        SystemExit: a flag's value is wrong; the reason is printed.

    Example:
        >>> @dataclass
        ... class Arguments:
        ...     seeds: list[int]
        ...     rate: float = 0.1
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "phases.yaml")
        ...     _ = path.write_text("{seeds: [1, 2], phases: [{rate: 0.2}, {seeds: [3]}]}")
        ...     parse_phases(Arguments, arguments=[str(path)])
        [(Arguments(seeds=[1, 2], rate=0.2),), (Arguments(seeds=[3], rate=0.1),)]
    """
    settings, words = _file_and_words(arguments)
    phases = settings.pop("phases", [{}])
    if not (isinstance(phases, list) and phases and all(isinstance(phase, dict) for phase in phases)):
        raise ValueError(
            f"phases is {phases!r}; give a list with a mapping of settings for each phase, or leave it out"
        )
    parsed = [_parse(dataclasses, {**(defaults or {}), **settings, **phase}, words) for phase in phases]
    if len(parsed) > 1:
        for number, instances in enumerate(parsed, start=1):
            for training_args in instances:
                if isinstance(training_args, TrainingArguments):
                    training_args.output_dir = str(Path(training_args.output_dir) / f"phase_{number}")
    return parsed


def _file_and_words(arguments: Sequence[str] | None) -> tuple[dict[str, Any], list[str]]:
    """The settings of the YAML file, if one is named, and the flags after it.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it does not hold a mapping.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or not words[0].endswith((".yaml", ".yml")):
        return {}, words
    settings = yaml.safe_load(Path(words[0]).read_text(encoding="utf-8"))
    if not isinstance(settings, dict):
        raise ValueError(f"{words[0]} holds no settings; write one `name: value` per line")
    return settings, words[1:]


def _parse(dataclasses: Sequence[type], settings: Mapping[str, Any], words: list[str]) -> tuple[Any, ...]:
    """An instance of each dataclass from settings, and flags that override them.

    Raises:
        ValueError: a setting or flag is unknown.
        SystemExit: a value is wrong; the reason is printed.
    """
    known = [item.name for kind in dataclasses for item in fields(kind)]
    for name in settings:  # argparse would take a misspelt name for the abbreviation of another
        if name not in known:
            raise ValueError(f"There is no setting {name!r}.{did_you_mean(str(name), known)}")
    parser = HfArgumentParser(dataclasses)
    return parser.parse_args_into_dataclasses(_flags(settings) + words, look_for_args_file=False)


def _flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the words of a command line: lists as several words, mappings as JSON."""
    words = []
    for name, value in settings.items():
        if value is None:  # null: the dataclass's own default
            continue
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        words += [f"--{name}", *map(str, values)]
    return words
