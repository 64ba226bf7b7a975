"""Lookup of the class that an Auto class builds, for which transformers has no public function."""

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel


def model_class(auto_class: Any, config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """Return the class that an Auto class builds for a configuration, or `None` if there is none."""
    mapping = auto_class._model_mapping
    return mapping.get(type(config), None)
