"""Safe reading of checkpoint files, and checks of their content and of the output folder."""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_MAX_NAMES = 5


def check_destination(destination: str | os.PathLike) -> Path:
    """Return the path of the output folder, and check that nothing would be overwritten.

    Args:
        destination: Output folder, which may not exist yet.

    Raises:
        FileExistsError: If `destination` is a file or a folder that is not empty.
    """
    folder = Path(destination)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(
            f"`destination` must be a new or empty folder, but {folder} already exists. Choose another folder or "
            "remove this one."
        )
    return folder


def read_torch_file(file: Path, expected: str) -> Any:
    """Load a file that `torch.save` wrote. Only tensors and plain values are unpickled.

    Args:
        file: Path of the file.
        expected: Description of the expected checkpoint, for the error message.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is truncated or damaged, or contains other objects.
    """
    _check_exists(file, expected)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything
        raise ValueError(
            f"{file} is truncated or damaged, or contains objects other than tensors ({type(error).__name__}). "
            "Download or copy it again."
        ) from error


def read_safetensors_file(file: Path, expected: str) -> dict[str, Tensor]:
    """Load the tensors of a safetensors file. See [`read_torch_file`] for arguments and errors."""
    _check_exists(file, expected)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is truncated or damaged ({error}). Download or copy it again.") from error


def read_json_file(file: Path, expected: str) -> dict[str, Any]:
    """Load the dictionary in a JSON file. See [`read_torch_file`] for arguments and errors."""
    _check_exists(file, expected)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is truncated or damaged ({error}). Download or copy it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must contain a dictionary, but got {type(content).__name__}. Pass {expected}.")
    return content


def is_state_dict(state: object) -> bool:
    """Return whether an object is a dictionary from names to tensors."""
    return isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )


def check_weight_names(
    source: Path, *, kind: str, missing: Collection[str], unexpected: Collection[str], expected: str
) -> None:
    """Check that a checkpoint has the expected weights.

    Args:
        source: File of the checkpoint, for the message.
        kind: Expected kind of weights, for the message, such as `"a LoRA adapter"`.
        missing: Names of the expected weights that are missing.
        unexpected: Names of the weights that are not expected.
        expected: Description of the expected checkpoint, for the message.

    Raises:
        ValueError: If there is a missing or unexpected weight.
    """
    differences = [
        f"{verb} {_shorten(sorted(names))}"
        for verb, names in (("lacks the weights", missing), ("has the unexpected weights", unexpected))
        if names
    ]
    if differences:
        raise ValueError(f"{source} must contain {kind}, but {' and '.join(differences)}. Pass {expected}.")


def _check_exists(file: Path, expected: str) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"The file {file} does not exist. Pass {expected}.")


def _shorten(names: list[str]) -> str:
    """Format a list of names, of which only the first few are shown."""
    more = len(names) - _MAX_NAMES
    return f"{names[:_MAX_NAMES]}" + (f" and {more} more" if more > 0 else "")
