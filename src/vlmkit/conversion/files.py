"""What all converters share: reading other systems' files safely, and writing over nothing."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_MAX_NAMES = 5


def check_destination(destination: str | os.PathLike) -> Path:
    """The folder to write.

    Raises:
        FileExistsError: it is a file, or a folder that holds something.
    """
    folder = Path(destination)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is no empty folder; give a new one, or remove it first")
    return folder


def read_torch_file(file: Path, wanted: str) -> Any:
    """What `torch.save` wrote, without unpickling anything but tensors and plain values.

    Args:
        file: to read.
        wanted: which file is meant, for the message if there is none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated or damaged, or holds other objects.
    """
    _require(file, wanted)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything
        raise ValueError(
            f"{file} is truncated or damaged, or holds more than tensors ({type(error).__name__}); copy it again"
        ) from error


def read_safetensors_file(file: Path, wanted: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file; arguments and errors are those of [`read_torch_file`]."""
    _require(file, wanted)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is truncated or damaged ({error}); copy it again") from error


def read_json_file(file: Path, wanted: str) -> dict[str, Any]:
    """The dictionary in a JSON file; arguments and errors are those of [`read_torch_file`]."""
    _require(file, wanted)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is truncated or damaged ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no dictionary; give {wanted}")
    return content


def is_state_dict(state: object) -> bool:
    """Whether something is a dictionary of tensors by their names."""
    return isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )


def check_weight_names(
    source: Path, *, kind: str, missing: Iterable[str], unexpected: Iterable[str], advice: str
) -> None:
    """Check that a checkpoint has the expected weights.

    Args:
        source: File of the checkpoint, for the message.
        kind: Expected kind of checkpoint, for the message.
        missing: Names of the expected weights that are missing.
        unexpected: Names of the weights that are not expected.
        advice: Description of the expected checkpoint, for the message.

    Raises:
        ValueError: If there is a missing or unexpected weight.
    """
    missing, unexpected = sorted(missing), sorted(unexpected)
    if missing or unexpected:
        raise ValueError(
            f"{source} is no {kind}: it lacks {_shortened(missing)} and has the unexpected {_shortened(unexpected)}; "
            f"give {advice}"
        )


def _require(file: Path, wanted: str) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; give {wanted}")


def _shortened(names: list[str]) -> str:
    """The first few of many names."""
    more = len(names) - _MAX_NAMES
    return f"{names[:_MAX_NAMES]}" + (f" and {more} more" if more > 0 else "")
