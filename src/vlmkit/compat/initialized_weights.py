"""Marking weights as initialized.

`PreTrainedModel.post_init` initializes every module and parameter that does not carry `_is_hf_initialized`.
transformers offers no public way to exclude weights that were initialized before.
"""

from typing import Any

from torch import nn


def mark_as_initialized(module: nn.Module) -> None:
    """Keep the present weights of a module when a model that contains it is initialized."""
    parts: tuple[Any, ...] = (*module.modules(), *module.parameters(), *module.buffers())
    for part in parts:
        part._is_hf_initialized = True
