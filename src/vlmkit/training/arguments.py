"""Arguments of training scripts, from the command line and from YAML files."""

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
    """Training arguments with defaults for datasets of images and texts.

    Memory is only pinned if a GPU is available. A warning is issued for `bf16` on a CPU without bfloat16 instructions.

    Args:
        report_to: Integrations that receive the logs, such as `"tensorboard"`. Default: `"none"`.
        remove_unused_columns: Whether to remove dataset columns that are not arguments of `model.forward`. Data
            collators need such columns. Default: `False`.

    Example:
        >>> TableTrainingArguments("runs/captioner").remove_unused_columns
        False
    """

    report_to: str = "none"
    remove_unused_columns: bool = False

    def __post_init__(self) -> None:
        """Disable pinned memory without a GPU, where torch only warns, and warn about emulated bfloat16."""
        self.dataloader_pin_memory &= torch.cuda.is_available()
        super().__post_init__()
        if self.bf16 and self.device.type == "cpu" and _emulates_bf16():
            warnings.warn(
                "This CPU emulates bfloat16, which is many times slower than float32. Pass `--bf16 False`.",
                stacklevel=3,
            )


@dataclass
class ContrastiveTrainingArguments(TableTrainingArguments):
    """Training arguments for losses that compare all images with all texts of a batch.

    Args:
        **kwargs: Fields of [`TableTrainingArguments`].

    Raises:
        ValueError: If the process uses several GPUs, see [`check_single_gpu`].

    Example:
        >>> training_args = ContrastiveTrainingArguments("runs/dual_encoder", use_cpu=True)
    """

    def __post_init__(self) -> None:
        """Check that the process has a single GPU."""
        super().__post_init__()
        check_single_gpu(self)


def check_single_gpu(training_args: TrainingArguments) -> None:
    """Check that the process uses at most one GPU.

    With several GPUs in one process, `Trainer` splits each batch with `nn.DataParallel`. A contrastive loss would then
    compare the examples within each part only.

    Args:
        training_args: Arguments of the trainer.

    Raises:
        ValueError: If the process uses several GPUs.

    Example:
        >>> check_single_gpu(TrainingArguments(use_cpu=True, report_to="none"))
    """
    if training_args.n_gpu > 1:
        raise ValueError(
            f"A process must use at most one GPU, but got {training_args.n_gpu}. Start one process per GPU with "
            "`torchrun --nproc_per_node gpu`."
        )


def _emulates_bf16() -> bool:
    """Return whether the CPU is known to emulate bfloat16. Only recent torch versions detect this, on x86."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities.get("avx512_bf16") is False and not capabilities.get("amx_bf16")


def parse_arguments(
    *dataclasses: type, arguments: Sequence[str] | None = None, defaults: Mapping[str, Any] | None = None
) -> tuple[Any, ...]:
    """Parse command-line arguments into dataclasses.

    The first argument may be a YAML file (`.yaml` or `.yml`) with one `name: value` setting per line. Flags override
    the file, and the file overrides `defaults`. A setting of `null` selects the default of the dataclass.

    Args:
        *dataclasses: Dataclasses whose fields define the flags, as in `transformers.HfArgumentParser`.
        arguments: Command-line arguments. Defaults to `sys.argv[1:]`.
        defaults: Default values by field name, which replace the defaults of the dataclasses.

    Returns:
        One instance of each dataclass.

    Raises:
        FileNotFoundError: If the YAML file does not exist.
        ValueError: If the YAML file is not a mapping, or a setting or flag is unknown.
        SystemExit: If the value of a flag is invalid. The reason is printed.

    Example:
        >>> @dataclass
        ... class Arguments:
        ...     seeds: list[int]
        ...     name: str = "a"
        >>> parse_arguments(Arguments, arguments=["--name", "b"], defaults={"seeds": [1, 2], "name": "c"})
        (Arguments(seeds=[1, 2], name='b'),)
    """
    settings, flags = _split_arguments(arguments)
    return _parse(dataclasses, {**(defaults or {}), **settings}, flags)


def parse_phases(
    *dataclasses: type, arguments: Sequence[str] | None = None, defaults: Mapping[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    """Parse command-line arguments into dataclasses, once for each phase of a training.

    The YAML file of [`parse_arguments`] may contain a list `phases` of mappings. The settings of a phase override the
    other settings of the file, and flags override both. A file without `phases` describes a single phase. If there are
    several phases, their output folders are the subfolders `phase_1`, `phase_2` and so on of `output_dir`.

    Args:
        *dataclasses: Dataclasses whose fields define the flags, as in `transformers.HfArgumentParser`.
        arguments: Command-line arguments. Defaults to `sys.argv[1:]`.
        defaults: Default values by field name, which replace the defaults of the dataclasses.

    Returns:
        For each phase, one instance of each dataclass.

    Raises:
        FileNotFoundError: If the YAML file does not exist.
        ValueError: If the YAML file is not a mapping, `phases` is not a list of mappings, or a setting or flag is
            unknown.
        SystemExit: If the value of a flag is invalid. The reason is printed.

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
    settings, flags = _split_arguments(arguments)
    phases = settings.pop("phases", [{}])
    if not (isinstance(phases, list) and phases and all(isinstance(phase, dict) for phase in phases)):
        raise ValueError(
            f"`phases` must be a list with a mapping of settings for each phase, but got {phases!r}. Remove `phases` "
            "to train in a single phase."
        )
    parsed = [_parse(dataclasses, {**(defaults or {}), **settings, **phase}, flags) for phase in phases]
    if len(parsed) > 1:
        for number, instances in enumerate(parsed, start=1):
            for training_args in instances:
                if isinstance(training_args, TrainingArguments):
                    training_args.output_dir = str(Path(training_args.output_dir) / f"phase_{number}")
    return parsed


def _split_arguments(arguments: Sequence[str] | None) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of the YAML file, empty without a file, and the flags.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not a mapping.
    """
    flags = list(sys.argv[1:] if arguments is None else arguments)
    if not flags or not flags[0].endswith((".yaml", ".yml")):
        return {}, flags
    settings = yaml.safe_load(Path(flags[0]).read_text(encoding="utf-8"))
    if not isinstance(settings, dict):
        raise ValueError(f"{flags[0]} must be a mapping, but got {settings!r}. Write one `name: value` per line.")
    return settings, flags[1:]


def _parse(dataclasses: Sequence[type], settings: Mapping[str, Any], flags: list[str]) -> tuple[Any, ...]:
    """Return one instance of each dataclass, from settings and from flags that override them.

    Raises:
        ValueError: If a setting or flag is unknown.
        SystemExit: If a value is invalid. The reason is printed.
    """
    known = [item.name for kind in dataclasses for item in fields(kind)]
    for name in settings:  # argparse would accept a misspelled name that is a prefix of another
        if name not in known:
            raise ValueError(f"The setting {name!r} is unknown.{did_you_mean(str(name), known)}")
    parser = HfArgumentParser(dataclasses)
    return parser.parse_args_into_dataclasses(_to_flags(settings) + flags, look_for_args_file=False)


def _to_flags(settings: Mapping[str, Any]) -> list[str]:
    """Convert settings to command-line flags. Lists become several arguments, and mappings become JSON."""
    flags = []
    for name, value in settings.items():
        if value is None:  # null selects the default of the dataclass
            continue
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        flags += [f"--{name}", *map(str, values)]
    return flags
