"""Errors that name the offending value and the fix."""

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig


def nearest(name: str, candidates: Iterable[str]) -> str:
    """A hint ", did you mean 'x'?" for the candidate closest to a misspelt name, or nothing if none is close.

    Example:
        >>> nearest("temprature", ["temperature", "loss"])
        ", did you mean 'temperature'?"
    """
    close = difflib.get_close_matches(name, list(candidates), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def one_of(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Check an option against its choices.

    Raises:
        ValueError: the value is not among the choices; the message names them.
    """
    choices = list(choices)
    if value not in choices:
        hint = nearest(value, choices) if isinstance(value, str) else ""
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}{hint}")


# Keywords that are no fields but that `PreTrainedConfig` reads or writes itself.
_TRANSFORMERS_KEYWORDS = {
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "tie_word_embeddings",
    "torch_dtype",
    "use_cache",
}


def reject_unknown_fields(config_class: type[PreTrainedConfig], keywords: Iterable[str]) -> None:
    """Refuse keywords that a configuration would silently accept, save and ignore.

    Args:
        config_class: the configuration that got the keywords.
        keywords: those that are not fields of it.

    Raises:
        TypeError: a keyword is neither a field nor known to transformers; the message names the nearest field.
    """
    names = [field.name for field in fields(config_class)]
    known = _TRANSFORMERS_KEYWORDS | GenerationConfig._get_default_generation_params().keys()
    for keyword in keywords:
        if keyword not in known and not keyword.startswith("_"):
            hint = nearest(keyword, names) or f"; its fields: {', '.join(names)}"
            raise TypeError(f"{config_class.__name__} has no field {keyword!r}{hint}")
